// Random numbers of a seed and their place, made in registers: the maths of kernels/mixed_op/noise.py.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/vectors.h"

namespace fastdarts::cuda {

struct Words {
  uint32_t v[4];
};

// Philox4x32-10 with counter `place` and the seed as key.
__device__ inline Words philox(uint64_t seed, uint64_t place) {
  uint32_t a = static_cast<uint32_t>(place), b = static_cast<uint32_t>(place >> 32), c = 0, d = 0;
  uint32_t left = static_cast<uint32_t>(seed), right = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{a} * 0xD2511F53u, second = uint64_t{c} * 0xCD9E8D57u;
    a = static_cast<uint32_t>(second >> 32) ^ b ^ left;
    b = static_cast<uint32_t>(second);
    c = static_cast<uint32_t>(first >> 32) ^ d ^ right;
    d = static_cast<uint32_t>(first);
    left += 0x9E3779B9u;
    right += 0xBB67AE85u;
  }
  return {{a, b, c, d}};
}

// (⌊word / 512⌋ + 1/2) / 2²³, exact.
__device__ inline float unit_of(uint32_t word) {
  return (static_cast<float>(word >> 9) + 0.5f) * 1.1920928955078125e-07f;
}

// Two numbers of two words. Taylor's series of an eighth of a turn at most: the library's sine would put what it needs
// for large angles on the stack.
__device__ inline void box_muller(uint32_t first, uint32_t second, float& cosine, float& sine) {
  const float radius = sqrtf(-2.0f * logf(unit_of(first))), quarters = 4.0f * unit_of(second);
  const int whole = static_cast<int>(quarters + 0.5f);
  const float a = (quarters - static_cast<float>(whole)) * 1.5707963267948966f, a2 = a * a;
  const float s = a * (1 + a2 * (-1.0f / 6 + a2 * (1.0f / 120 + a2 * (-1.0f / 5040 + a2 * (1.0f / 362880)))));
  const float c = 1 + a2 * (-0.5f + a2 * (1.0f / 24 + a2 * (-1.0f / 720 + a2 * (1.0f / 40320 - a2 / 3628800))));
  const float along = whole & 1 ? s : c, across = whole & 1 ? c : s;
  cosine = radius * ((whole + 1) & 2 ? -along : along);
  sine = radius * (whole & 2 ? -across : across);
}

__device__ inline Four normal_of_words(const Words& words) {
  Four result;
  box_muller(words.v[0], words.v[1], result[0], result[1]);
  box_muller(words.v[2], words.v[3], result[2], result[3]);
  return result;
}

// By what a dropped skip multiplies what it keeps.
__device__ inline float scale_of_kept(int64_t limit) {
  return 4294967296.0f / static_cast<float>((int64_t{1} << 32) - limit);
}

// By what a dropped skip multiplies at the places of these words.
__device__ inline Four factors_of_words(const Words& words, int64_t limit) {
  const float scale = scale_of_kept(limit);
  Four result;
#pragma unroll
  for (int i = 0; i < 4; ++i) result[i] = static_cast<int64_t>(words.v[i]) < limit ? 0.0f : scale;
  return result;
}

// What make(words) says of the words at places `place` to `place` + 3. `aligned`: place is a multiple of four.
template <typename Make>
__device__ Four at_places(int64_t seed, int64_t place, bool aligned, const Make& make) {
  const Four low = make(philox(static_cast<uint64_t>(seed), static_cast<uint64_t>(place >> 2)));
  const int skip = static_cast<int>(place & 3);
  if (aligned || skip == 0) return low;
  const Four high = make(philox(static_cast<uint64_t>(seed), static_cast<uint64_t>(place >> 2) + 1));
  Four result;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float one = i < 3 ? low[(i + 1) & 3] : high[(i + 1) & 3];
    const float two = i < 2 ? low[(i + 2) & 3] : high[(i + 2) & 3];
    const float three = i < 1 ? low[(i + 3) & 3] : high[(i + 3) & 3];
    result[i] = skip == 1 ? one : skip == 2 ? two : three;
  }
  return result;
}

}  // namespace fastdarts::cuda
