// Random numbers of a seed and their place; the maths stands in kernels/mixed_op/noise.py.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "cpu/maps.h"

namespace fastdarts {

constexpr int kCounters = 32;  // of which words are made at a time

// Philox4x32-10 in registers of so many bytes. A number of 32 bits has a lane of 64: what is above it is not looked at.
template <int bytes>
struct Philox {
  static constexpr int kLanes = bytes / 8;
  using Lanes = typename Block<uint64_t, kLanes>::Aligned;
  using Words = typename Block<uint32_t, kLanes>::Loose;

  static FASTDARTS_INLINE Lanes product(Lanes a, Lanes b) {
#if defined(__x86_64__)
    // GCC would multiply all 64 bits, in three times as many instructions
    if constexpr (bytes == 16) {
      asm("pmuludq %1, %0" : "+x"(a) : "x"(b));
    } else {
      asm("vpmuludq %1, %0, %0" : "+v"(a) : "v"(b));
    }
    return a;
#else
    return (a & 0xFFFFFFFF) * (b & 0xFFFFFFFF);
#endif
  }

  // words[k][i]: word 4 (counter + i) + k of the seed.
  static FASTDARTS_INLINE void words(uint64_t seed, uint64_t counter, uint32_t (&words)[4][kCounters]) {
    Lanes own;
    for (int i = 0; i < kLanes; ++i) own[i] = counter + i;
    const Lanes first = Lanes{} + 0xD2511F53, second = Lanes{} + 0xCD9E8D57;
    for (int i = 0; i < kCounters; i += kLanes, own += kLanes) {
      Lanes a = own, b = own >> 32, c = {}, d = {};
      uint64_t left = seed, right = seed >> 32;
#pragma GCC unroll 10
      for (int round = 0; round < 10; ++round, left += 0x9E3779B9, right += 0xBB67AE85) {
        const Lanes p = product(a, first), q = product(c, second);
        a = q >> 32 ^ b ^ left, b = q;
        c = p >> 32 ^ d ^ right, d = p;
      }
      const Lanes all[4] = {a, b, c, d};
      for (int k = 0; k < 4; ++k) {
        *reinterpret_cast<Words*>(words[k] + i) = __builtin_convertvector(all[k], Words);
      }
    }
  }
};

// use(counter, begin, end) for all that numbers first to first + size need: of numbers 4 counter + begin to
// 4 counter + end, not including the last.
template <typename Use>
FASTDARTS_INLINE void for_counters(int64_t first, int64_t size, const Use& use) {
  for (int64_t counter = first / 4; counter * 4 < first + size; counter += kCounters) {
    const int64_t at = counter * 4;
    use(counter, at < first ? first - at : 0, std::min<int64_t>(kCounters * 4, first + size - at));
  }
}

// out[j] = number first + j of the seed.
template <typename M, int bytes>
struct StandardNormal {
  using T = Wide<M>;
  uint64_t seed;
  int64_t first, size;
  M* out;

  FASTDARTS_INLINE void operator()() const {
    for_counters(first, size, [&](int64_t counter, int64_t begin, int64_t end) __attribute__((always_inline)) {
      T block[kCounters * 4];
      numbers(static_cast<uint64_t>(counter), block);
      for (int64_t j = begin; j < end; ++j) out[counter * 4 + j - first] = stored<M>(block[j]);
    });
  }

  FASTDARTS_INLINE void numbers(uint64_t counter, T* block) const {
    uint32_t words[4][kCounters];
    Philox<bytes>::words(seed, counter, words);
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

// out[j] = in[j] times the factor of place first + j of the seed.
template <typename M, int bytes>
struct Dropped {
  using T = Wide<M>;
  uint64_t seed;
  int64_t limit, first, size;
  const M* in;
  M* out;

  FASTDARTS_INLINE void operator()() const {
    constexpr int64_t kWords = int64_t{1} << 32;
    const T scale = limit < kWords ? T(kWords) / static_cast<T>(kWords - limit) : T(0);
    const uint32_t least = static_cast<uint32_t>(std::clamp<int64_t>(limit, 0, kWords - 1));
    for_counters(first, size, [&](int64_t counter, int64_t begin, int64_t end) __attribute__((always_inline)) {
      uint32_t words[4][kCounters];
      Philox<bytes>::words(seed, static_cast<uint64_t>(counter), words);
      T factors[kCounters * 4];
#pragma omp simd
      for (int i = 0; i < kCounters; ++i) {
        for (int k = 0; k < 4; ++k) factors[4 * i + k] = words[k][i] < least ? T(0) : scale;
      }
      const int64_t at = counter * 4 - first;
      for (int64_t j = begin; j < end; ++j) out[at + j] = stored<M>(value(in[at + j]) * factors[j]);
    });
  }
};

}  // namespace fastdarts
