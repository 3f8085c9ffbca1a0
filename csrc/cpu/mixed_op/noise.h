// Standard normal numbers of a seed and their place; the maths stands in kernels/mixed_op/noise.py.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "cpu/maps.h"

namespace fastdarts {

// out[j] = number first + j of the seed.
template <typename M>
struct StandardNormal {
  using T = Wide<M>;
  static constexpr int kCounters = 32;
  uint64_t seed;
  int64_t first, size;
  M* out;

  FASTDARTS_INLINE void operator()() const {
    for (int64_t counter = first / 4; counter * 4 < first + size; counter += kCounters) {
      T block[kCounters * 4];
      numbers(static_cast<uint64_t>(counter), block);
      const int64_t at = counter * 4, begin = at < first ? first - at : 0;
      const int64_t end = at + kCounters * 4 < first + size ? kCounters * 4 : first + size - at;
      for (int64_t j = begin; j < end; ++j) out[at + j - first] = stored<M>(block[j]);
    }
  }

  FASTDARTS_INLINE void numbers(uint64_t counter, T* block) const {
    uint32_t words[4][kCounters];
#pragma omp simd
    for (int i = 0; i < kCounters; ++i) {
      uint32_t a = static_cast<uint32_t>(counter + i), b = static_cast<uint32_t>((counter + i) >> 32), c = 0, d = 0;
      uint32_t left = static_cast<uint32_t>(seed), right = static_cast<uint32_t>(seed >> 32);
      for (int round = 0; round < 10; ++round, left += 0x9E3779B9, right += 0xBB67AE85) {
        const uint64_t p = uint64_t{a} * 0xD2511F53, q = uint64_t{c} * 0xCD9E8D57;
        a = static_cast<uint32_t>(q >> 32) ^ b ^ left, b = static_cast<uint32_t>(q);
        c = static_cast<uint32_t>(p >> 32) ^ d ^ right, d = static_cast<uint32_t>(p);
      }
      words[0][i] = a, words[1][i] = b, words[2][i] = c, words[3][i] = d;
    }
    for (int pair = 0; pair < 4; pair += 2) {
#pragma omp simd
      for (int i = 0; i < kCounters; ++i) {
        T sine, cosine;
        turn(unit(words[pair + 1][i]), sine, cosine);
        const T radius = std::sqrt(T(-2) * logarithm(unit(words[pair][i])));
        block[4 * i + pair] = radius * cosine;
        block[4 * i + pair + 1] = radius * sine;
      }
    }
  }

  static FASTDARTS_INLINE T unit(uint32_t word) {  // exact in float32, strictly between 0 and 1
    return (static_cast<T>(static_cast<int32_t>(word >> 9)) + T(0.5)) * T(0x1p-23);
  }

  // Relative error below 3e-7 in float32, as the series goes on beyond what is left of m.
  static FASTDARTS_INLINE T logarithm(T u) {
    if constexpr (sizeof(T) == 8) {
      return std::log(u);
    } else {
      const uint32_t bits = std::bit_cast<uint32_t>(u);
      const float whole = std::bit_cast<float>((bits & 0x7FFFFF) | 0x3F800000);  // in [1, 2)
      const bool large = whole > 1.41421356f;
      const float m = large ? 0.5f * whole : whole;
      const float exponent = static_cast<float>(static_cast<int32_t>(bits >> 23) - 127 + large);
      const float s = (m - 1) / (m + 1), s2 = s * s;  // ln m = 2 artanh s
      return exponent * 0.693147181f +
             2 * s * (1 + s2 * (1.0f / 3 + s2 * (1.0f / 5 + s2 * (1.0f / 7 + s2 * (1.0f / 9)))));
    }
  }

  // sin and cos of 2π u, 0 <= u <= 1: quarter turns, and Taylor's series of an eighth of a turn at most.
  static FASTDARTS_INLINE void turn(T u, T& sine, T& cosine) {
    const T quarters = 4 * u;
    const int32_t q = static_cast<int32_t>(quarters + T(0.5));
    const T a = (quarters - static_cast<T>(q)) * T(1.57079632679489662), a2 = a * a;
    T s, c;
    if constexpr (sizeof(T) == 8) {
      s = std::sin(a), c = std::cos(a);
    } else {
      s = a * (1 + a2 * (-1.0f / 6 + a2 * (1.0f / 120 + a2 * (-1.0f / 5040 + a2 * (1.0f / 362880)))));
      c = 1 + a2 * (-0.5f + a2 * (1.0f / 24 + a2 * (-1.0f / 720 + a2 * (1.0f / 40320 - a2 * (1.0f / 3628800)))));
    }
    const T first = q & 1 ? c : s, second = q & 1 ? s : c;
    sine = q & 2 ? -first : first;
    cosine = (q + 1) & 2 ? -second : second;
  }
};

}  // namespace fastdarts
