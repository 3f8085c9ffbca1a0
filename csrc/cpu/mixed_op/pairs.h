// Products of bfloat16 in float32, two at a time: what processors with units for them (AVX512-BF16) run on.
//
// An element of a private buffer is then a pair: of a bordered buffer a pixel and the next one of its row, or the one
// after that for windows of dilation 2 ("far" pairs); of a packed weight the two that go with these. A buffer of pairs
// is as large as one of float32, so the geometry is the same. Everything is accumulated in float32. What is rounded to
// bfloat16 beside the maps (inputs and gradients of both convolutions) is what PyTorch stores in bfloat16.
#pragma once

#include "cpu/maps.h"
#include "cpu/mixed_op/kinks.h"

namespace fastdarts {

struct Pair {
  uint32_t bits;  // the lower half is the first
};

// An element of strips, where those of buffers are of type E.
template <typename E>
using Entry = std::conditional_t<std::is_same_v<E, Pair>, BFloat16<true>, E>;
template <typename E>
constexpr bool kPairs = std::is_same_v<E, Pair>;

// B elements of a private buffer, which are aligned.
template <typename E, int B>
struct Cell {
  using T = Wide<E>;
  FASTDARTS_VECTORS
  using Words = typename Block<uint32_t, B>::Aligned;

  // The values of its own pixel.
  static FASTDARTS_INLINE V first(const E* p) {
    if constexpr (kPairs<E>) {
      return reinterpret_cast<V>(words(p) << 16);
    } else {
      return at(p);
    }
  }

  // acc + the products of weight and element.
  static FASTDARTS_INLINE V add(const V& acc, const auto& weight, const E* p) {
    if constexpr (kPairs<E>) {
      return dot(acc, weight, words(p));
    } else {
      return acc + weight * at(p);
    }
  }
  // The same where the element is one for all lanes.
  static FASTDARTS_INLINE V add_all(const V& acc, const auto& weight, const E* p) {
    if constexpr (kPairs<E>) {
      V sum = acc;
#if defined(__x86_64__)
      asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weight), "m"(p->bits));
#endif
      return sum;
    } else {
      return acc + weight * *p;
    }
  }

  // B weights.
  static FASTDARTS_INLINE auto weights(const E* p) {
    if constexpr (kPairs<E>) {
      return static_cast<Words>(words(p));
    } else {
      return static_cast<V>(at(p));
    }
  }

  static FASTDARTS_INLINE const Words& words(const E* p) { return *reinterpret_cast<const Words*>(p); }
  static FASTDARTS_INLINE Words& words(E* p) { return *reinterpret_cast<Words*>(p); }

 private:
  static FASTDARTS_INLINE V dot(const V& acc, const Words& a, const Words& b) {
    V sum = acc;
#if defined(__x86_64__)
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "vm"(b));
#endif
    return sum;
  }
};

// Two vectors as 2 B values of bfloat16, the first in the lower half.
template <int B>
struct Two {
  using V = typename Map<BFloat16<true>, B>::V;
  using Words = typename Cell<Pair, B>::Words;
  using Halves = typename Block<uint16_t, 2 * B>::Aligned;
  using LooseHalves = typename Block<uint16_t, 2 * B>::Loose;

  static FASTDARTS_INLINE Halves of(const V& first, const V& second) {
    Halves both{};
#if defined(__x86_64__)
    asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(both) : "v"(first), "v"(second));
#endif
    return both;
  }
  // As pairs of a value of the first and one of the second.
  static FASTDARTS_INLINE Words paired(const Halves& both) {
    Halves order;
    for (int i = 0; i < 2 * B; ++i) order[i] = static_cast<uint16_t>(i / 2 + i % 2 * B);
    return reinterpret_cast<Words>(__builtin_shuffle(both, order));
  }
  static FASTDARTS_INLINE Words single(const V& v) {
    return Map<BFloat16<true>, B>::words(Map<BFloat16<true>, B>::narrow(v));
  }
};

// Load (stage_kernels.h) to buffers of pairs: `near` to those of neighbours, `far` to those of every second pixel; one
// of them may be null.
template <typename M, int B, bool affine, Decide decide>
struct LoadPairs {
  using T = float;
  FASTDARTS_VECTORS
  using Words = typename Two<B>::Words;
  const M* source;
  int64_t rows, columns, channels;
  const T *scale, *mean, *offset;
  Pair *near, *far;  // the first pixel
  int64_t pitch, plane, border;
  uint8_t* bits;

  FASTDARTS_INLINE Words pixel(const M* p, int64_t b, uint8_t* k) const {
    const int64_t left = channels - b * B;
    V v = left >= B ? Map<M, B>::read(p) : Map<M, B>::read_first(p, left);
    if constexpr (affine) v = at(scale + b * B) * (v - at(mean + b * B)) + at(offset + b * B);
    if (decide == Decide::kOwn || left >= B) {
      v = through_relu<decide, B, T>(v, k, b);
    } else {
      for (int64_t c = 0; c < left; ++c) v[c] = through_relu<decide, T>(v[c], k, b * B + c);
    }
    return Two<B>::single(v);
  }

  FASTDARTS_INLINE void operator()() const {
    const int64_t bytes = decide == Decide::kOwn ? 0 : kink_bytes(channels);
    for (int64_t y = 0; y < rows; ++y) {
      for (int64_t b = 0; b * B < channels; ++b) {
        const M* p = source + y * columns * channels + b * B;
        uint8_t* k = bits + y * columns * bytes;
        Pair *one = near ? near + y * pitch + b * plane : nullptr, *two = far ? far + y * pitch + b * plane : nullptr;
        Words before = {}, last = {};  // the pixels x − 2 and x − 1
        for (int64_t x = 0; x < columns + 2; ++x, p += channels, k += bytes) {
          const Words v = x < columns ? pixel(p, b, k) : Words{};
          if (one && x <= columns && x > -border) Cell<Pair, B>::words(one + (x - 1) * B) = last | v << 16;
          if (two && x - 2 >= -border) Cell<Pair, B>::words(two + (x - 2) * B) = before | v << 16;
          before = last, last = v;
        }
      }
    }
  }
};

// Far pairs from those of neighbours, for every row of a map and `border` pixels before it.
template <int B>
struct FarPairs {
  const Pair* near;  // the first pixel
  int64_t pitch, plane, blocks, rows, columns, border;
  Pair* far;

  FASTDARTS_INLINE void operator()() const {
    using C = Cell<Pair, B>;
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t y = 0; y < rows; ++y) {
        const int64_t row = b * plane + y * pitch;
        for (int64_t x = -border; x < columns; ++x) {
          const typename C::Words own = C::words(near + row + x * B), next = C::words(near + row + (x + 1) * B);
          C::words(far + row + x * B) = (own & 0xFFFF) | (next & 0xFFFF0000);
        }
      }
    }
  }
};

// A strip as pairs of pixels, [block][pixel / 2][B]. The last pixel of an odd number goes with zeros.
template <int B>
struct PairPixels {
  const BFloat16<true>* strip;
  int64_t strip_plane, blocks, pixels;
  Pair* pairs;  // as many elements to a plane as the strip

  FASTDARTS_INLINE void operator()() const {
    for (int64_t b = 0; b < blocks; ++b) {
      const BFloat16<true>* p = strip + b * strip_plane;
      Pair* o = pairs + b * strip_plane;
      int64_t i = 0;
      for (; i + 2 <= pixels; i += 2, p += 2 * B, o += B) {
        const typename Two<B>::Halves both = *reinterpret_cast<const typename Two<B>::LooseHalves*>(p);
        Cell<Pair, B>::words(o) = Two<B>::paired(both);
      }
      if (i < pixels) {
        for (int64_t c = 0; c < B; ++c) o[c].bits = p[c].bits;
      }
    }
  }
};

}  // namespace fastdarts
