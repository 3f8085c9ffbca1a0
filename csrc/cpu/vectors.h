// Vectors of one register, and loops that keep arrays of them in registers.
#pragma once

#include <cstdint>
#include <utility>

#include "isa.h"

namespace fastdarts {

template <typename T, int B>
struct Block {
  typedef T Aligned __attribute__((vector_size(B * sizeof(T)), may_alias));
  typedef T Loose __attribute__((vector_size(B * sizeof(T)), aligned(alignof(T)), may_alias));
};

#define FASTDARTS_VECTORS                                                                               \
  using V = typename Block<T, B>::Aligned;                                                              \
  using Loose = typename Block<T, B>::Loose;                                                            \
  static FASTDARTS_INLINE const V& at(const T* p) { return *reinterpret_cast<const V*>(p); }            \
  static FASTDARTS_INLINE V& at(T* p) { return *reinterpret_cast<V*>(p); }                              \
  static FASTDARTS_INLINE const Loose& loose(const T* p) { return *reinterpret_cast<const Loose*>(p); } \
  static FASTDARTS_INLINE Loose& loose(T* p) { return *reinterpret_cast<Loose*>(p); }

// f(0), ..., f(N - 1) with compile-time arguments: only these keep an array of accumulators in registers.
template <int N, typename F>
FASTDARTS_INLINE void unroll(const F& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

#define EACH(i) [&](auto i) __attribute__((always_inline))

// Fetches `Lines` cache lines, to read or to write, that a later step will want. Beyond the end of a buffer it does
// nothing. Every pass goes over the whole batch, so all maps come from beyond the L2 cache. With each tile the kernels
// fetch a few lines of what the next strip or sample needs.
template <int Lines, bool write = false>
FASTDARTS_INLINE void prefetch(const void* p) {
  unroll<Lines>(EACH(i) { __builtin_prefetch(static_cast<const char*>(p) + i * 64, write, 3); });
}

// Writes a vector. A `nontemporal` store writes a whole line past the caches, which saves reading the line first: for
// maps too large to stay there. A sanitized build writes as usual, since it cannot check what assembly writes.
template <typename V, typename Loose>
FASTDARTS_INLINE void store(Loose* p, const V& v, bool nontemporal) {
#if defined(__x86_64__)
  if constexpr (sizeof(V) == 64) {
    if (nontemporal) {
#ifdef FASTDARTS_SANITIZE
      *reinterpret_cast<V*>(p) = v;
#else
      asm volatile("vmovntps %1, %0" : "=m"(*p) : "v"(v));
#endif
      return;
    }
  }
#endif
  *p = v;
}

// Writes the first `count` elements of a vector.
template <typename T, typename V>
FASTDARTS_INLINE void store_first(T* p, const V& v, int64_t count) {
#if defined(__x86_64__) && !defined(FASTDARTS_SANITIZE)
  if constexpr (sizeof(V) == 64 && sizeof(T) == 4) {
    const uint32_t mask = (1u << count) - 1;
    asm volatile(
        "kmovw %2, %%k1\n\t"
        "vmovups %1, %0%{%%k1%}"
        : "+m"(*reinterpret_cast<char (*)[64]>(p))
        : "v"(v), "r"(mask)
        : "k1");
    return;
  }
#endif
  for (int64_t i = 0; i < count; ++i) p[i] = v[i];
}

// Makes non-temporal stores visible to the other threads.
inline void fence() {
#if defined(__x86_64__)
  asm volatile("sfence" ::: "memory");
#endif
}

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace fastdarts
