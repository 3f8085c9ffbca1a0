// How the values of feature maps are stored: as computed, or in bfloat16 and computed in float32.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "cpu/vectors.h"

namespace fastdarts {

// The upper half of a float32. With `units` the processor rounds to it by an instruction, which takes subnormal numbers
// for zero.
template <bool units>
struct BFloat16 {
  uint16_t bits;
};

template <typename M>
constexpr bool kHalf = !std::is_floating_point_v<M>;  // stored in another type than it is computed in
template <typename M>
constexpr bool kUnits = std::is_same_v<M, BFloat16<true>>;

template <typename M>
using Wide = std::conditional_t<kHalf<M>, float, M>;  // what a stored value is computed in

template <typename T>
FASTDARTS_INLINE T value(T stored) {
  return stored;
}
template <bool units>
FASTDARTS_INLINE float value(BFloat16<units> stored) {
  return std::bit_cast<float>(static_cast<uint32_t>(stored.bits) << 16);
}

template <typename M>
FASTDARTS_INLINE M stored(Wide<M> v) {  // to nearest, ties to even; NaN stays NaN
  if constexpr (kHalf<M>) {
    const uint32_t bits = std::bit_cast<uint32_t>(v);
    const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    return {static_cast<uint16_t>(v != v ? bits >> 16 | 0x40 : rounded)};
  } else {
    return v;
  }
}

// Vectors of B values of a map of type M, at any address.
template <typename M, int B>
struct Map {
  using T = Wide<M>;
  FASTDARTS_VECTORS
  using Words = typename Block<uint32_t, B>::Aligned;
  using Halves = typename Block<uint16_t, B>::Aligned;
  using LooseHalves = typename Block<uint16_t, B>::Loose;

  // Widened, and back without what does not fit. GCC would take two halves of a register of AVX-512.
  static FASTDARTS_INLINE Words words(const LooseHalves* p) {
#if defined(__x86_64__)
    if constexpr (B == 16) {
      Words w;
      asm("vpmovzxwd %1, %0" : "=v"(w) : "m"(*p));
      return w;
    }
#endif
    return __builtin_convertvector(static_cast<Halves>(*p), Words);
  }
  static FASTDARTS_INLINE Words words(Halves h) {
#if defined(__x86_64__)
    if constexpr (B == 16) {
      Words w;
      asm("vpmovzxwd %1, %0" : "=v"(w) : "v"(h));
      return w;
    }
#endif
    return __builtin_convertvector(h, Words);
  }
  static FASTDARTS_INLINE Halves halves(Words w) {
#if defined(__x86_64__)
    if constexpr (B == 16) {
      Halves h;
      asm("vpmovdw %1, %0" : "=v"(h) : "v"(w));
      return h;
    }
#endif
    return __builtin_convertvector(w, Halves);
  }

  static FASTDARTS_INLINE Halves narrow(const V& v) {
#if defined(__x86_64__)
    if constexpr (kUnits<M>) {
      Halves h;
      asm("vcvtneps2bf16 %1, %0" : "=v"(h) : "v"(v));
      return h;
    }
#endif
    const Words bits = reinterpret_cast<Words>(v), upper = bits >> 16;
    const Words rounded = (bits + 0x7FFF + (upper & 1)) >> 16;
    return halves(v != v ? upper | 0x40 : rounded);
  }

  static FASTDARTS_INLINE V read(const M* p) {
    if constexpr (kHalf<M>) {
      return reinterpret_cast<V>(words(reinterpret_cast<const LooseHalves*>(p)) << 16);
    } else {
      return loose(p);
    }
  }
  static FASTDARTS_INLINE void write(M* p, const V& v) {
    if constexpr (kHalf<M>) {
      *reinterpret_cast<LooseHalves*>(p) = narrow(v);
    } else {
      loose(p) = v;
    }
  }

  // The first `count` values; zero in the other lanes.
  static FASTDARTS_INLINE V read_first(const M* p, int64_t count) {
#if defined(__x86_64__) && !defined(FASTDARTS_SANITIZE)
    if constexpr (kHalf<M> && B == 16) {
      const uint32_t mask = (1u << count) - 1;
      Halves h;
      asm("kmovd %2, %%k1\n\t"
          "vmovdqu16 %1, %0%{%%k1%}%{z%}"
          : "=v"(h)
          : "m"(*reinterpret_cast<const char (*)[32]>(p)), "r"(mask)
          : "k1");
      return reinterpret_cast<V>(words(h) << 16);
    }
#endif
    V v = {};
    for (int64_t i = 0; i < count; ++i) v[i] = value(p[i]);
    return v;
  }
  static FASTDARTS_INLINE void write_first(M* p, const V& v, int64_t count) {
    if constexpr (kHalf<M>) {
      const Halves h = narrow(v);
#if defined(__x86_64__) && !defined(FASTDARTS_SANITIZE)
      if constexpr (B == 16) {
        const uint32_t mask = (1u << count) - 1;
        asm volatile(
            "kmovd %2, %%k1\n\t"
            "vmovdqu16 %1, %0%{%%k1%}"
            : "+m"(*reinterpret_cast<char (*)[32]>(p))
            : "v"(h), "r"(mask)
            : "k1");
        return;
      }
#endif
      for (int64_t i = 0; i < count; ++i) p[i].bits = h[i];
    } else {
      store_first(p, v, count);
    }
  }
};

}  // namespace fastdarts
