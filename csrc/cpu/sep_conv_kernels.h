// The inner loops of sep_conv, each a function object that Isa::call compiles for its instruction set.
//
// Private buffers hold feature maps as [channel block][row][column][B] with a border of zeros and channels padded to
// whole blocks of B; a strip is [channel block][pixel][B]. One register holds the B channels of a pixel, a tile of
// Isa::kTile pixels (or pixels × blocks) is accumulated in registers. Loads of the moving operand fold into the FMA,
// so every access has a compile-time displacement.
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

// NHWC pixels to channel blocks, through ReLU if asked: NaN passes, as in PyTorch.
template <typename T, int B, bool relu>
struct Load {
  FASTDARTS_VECTORS
  const T* source;  // [rows, columns, channels]
  int64_t rows, columns, channels;
  T* target;  // its first pixel
  int64_t pitch, plane;

  FASTDARTS_INLINE void operator()() const {
    const int64_t whole = channels / B, tail = channels % B;
    for (int64_t y = 0; y < rows; ++y) {
      const T* p = source + y * columns * channels;
      T* o = target + y * pitch;
      for (int64_t x = 0; x < columns; ++x, p += channels, o += B) {
        for (int64_t b = 0; b < whole; ++b) {
          const V v = loose(p + b * B);
          at(o + b * plane) = relu ? (v <= T(0) ? V{} : v) : v;
        }
        for (int64_t i = 0; i < tail; ++i) {
          const T v = p[whole * B + i];
          o[whole * plane + i] = relu && v <= T(0) ? T(0) : v;
        }
        if (tail) {
          for (int64_t i = tail; i < B; ++i) o[whole * plane + i] = T(0);
        }
      }
    }
  }
};

struct Tap {
  int64_t source, weight;  // offsets of one kernel element in its source plane and its weight block
};

// acc[r·Q + q] = Σ_taps weight · source[(r·pitch + q·B)·S]: R rows of Q pixels of one channel block.
template <typename T, int B, int R, int Q, int S>
struct Tile {
  FASTDARTS_VECTORS
  static FASTDARTS_INLINE void run(const T* source, const Tap* taps, int64_t count, const T* weight, int64_t pitch,
                                   V (&acc)[R * Q]) {
    unroll<R * Q>(EACH(i) { acc[i] = V{}; });
    for (int64_t k = 0; k < count; ++k) {
      const V w = at(weight + taps[k].weight);
      const T* p = source + taps[k].source;
      unroll<R * Q>(EACH(i) { acc[i] += w * at(p + i / Q * S * pitch + i % Q * S * B); });
    }
  }
};

// Depthwise convolution of a strip of whole rows (or of a part of one row). A tile that is wider than what is left of
// a row spills into the pixels of the next one, which are written later; R > 1 needs columns <= Q for that.
template <typename T, int B, int R, int Q, int S>
struct Depthwise {
  FASTDARTS_VECTORS
  const T* source;  // the first pixel's window in the first plane
  int64_t pitch, plane, blocks;
  const Tap* taps;
  int64_t count;
  const T* weight;  // [block][count][B]
  int64_t rows, columns;
  T* strip;
  int64_t strip_plane;

  FASTDARTS_INLINE void operator()() const {
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t y = 0; y < rows; y += R) {
        for (int64_t x = 0; x < columns; x += Q) {
          V acc[R * Q];
          Tile<T, B, R, Q, S>::run(source + b * plane + y * S * pitch + x * S * B, taps, count, weight + b * count * B,
                                   pitch, acc);
          T* out = strip + b * strip_plane + (y * columns + x) * B;
          unroll<R>(EACH(r) { unroll<Q>(EACH(q) { at(out + (r * columns + q) * B) = acc[r * Q + q]; }); });
        }
      }
    }
  }
};

// Where a pointwise product goes: NHWC rows of a tensor, or a bordered private buffer.
template <typename T, int B>
struct ToTensor {
  FASTDARTS_VECTORS
  T* data;
  int64_t channels;

  FASTDARTS_INLINE bool whole(int64_t blocks) const { return blocks * B <= channels; }
  FASTDARTS_INLINE void operator()(int64_t pixel, int64_t block, const V& v) const {
    loose(data + pixel * channels + block * B) = v;
  }
  FASTDARTS_INLINE void part(int64_t pixel, int64_t block, const T* v) const {
    for (int64_t i = 0; i < B && block * B + i < channels; ++i) data[pixel * channels + block * B + i] = v[i];
  }
};

template <typename T, int B>
struct ToBuffer {
  FASTDARTS_VECTORS
  T* data;
  int64_t plane;
  const int64_t* where;  // offset of every pixel

  FASTDARTS_INLINE bool whole(int64_t) const { return true; }
  FASTDARTS_INLINE void operator()(int64_t pixel, int64_t block, const V& v) const {
    at(data + block * plane + where[pixel]) = v;
  }
  FASTDARTS_INLINE void part(int64_t pixel, int64_t block, const T* v) const { (*this)(pixel, block, at(v)); }
};

// out[pixel][o] = Σ_i strip[pixel][i] · weight[o][i].
template <typename Isa, typename T, int B, typename Store>
struct Pointwise {
  FASTDARTS_VECTORS
  const T* strip;
  int64_t strip_plane, inputs;
  const T* weight;  // [output block][input][B]
  int64_t blocks, pixels;
  Store store;

  template <int N>  // output blocks at a time
  FASTDARTS_INLINE void of(int64_t block) const {
    constexpr int J = Isa::kTile / N;
    const T* panel = weight + block * inputs * B;
    for (int64_t pixel = 0; pixel < pixels; pixel += J) {  // the strip has room for a last partial tile
      V acc[J * N];
      unroll<J * N>(EACH(i) { acc[i] = V{}; });
      for (int64_t first = 0; first < inputs; first += B) {
        const T* p = strip + first / B * strip_plane + pixel * B;
        const int64_t count = inputs - first < B ? inputs - first : B;
        for (int64_t c = 0; c < count; ++c) {
          V w[N];
          unroll<N>(EACH(n) { w[n] = at(panel + (n * inputs + first + c) * B); });
          unroll<J>(EACH(j) {
            const T s = p[j * B + c];
            unroll<N>(EACH(n) { acc[j * N + n] += w[n] * s; });
          });
        }
      }
      if (pixel + J <= pixels && store.whole(block + N)) {
        unroll<J * N>(EACH(i) { store(pixel + i / N, block + i % N, acc[i]); });
      } else {
        alignas(64) T kept[J * N * B];
        unroll<J * N>(EACH(i) { at(kept + i * B) = acc[i]; });
        for (int64_t j = 0; j < J && pixel + j < pixels; ++j) {
          for (int64_t n = 0; n < N; ++n) store.part(pixel + j, block + n, kept + (j * N + n) * B);
        }
      }
    }
  }

  FASTDARTS_INLINE void operator()() const {
    int64_t block = 0;
    for (; block + 2 <= blocks; block += 2) of<2>(block);
    if (block < blocks) of<1>(block);
  }
};

}  // namespace fastdarts
