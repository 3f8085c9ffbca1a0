// The inner loops of a stage (ReLU, depthwise convolution, 1×1 convolution), each a function object that Isa::call
// compiles for its instruction set.
//
// Private buffers hold feature maps as [channel block][row][column][B], with a border of zeros. Channels are padded to
// whole blocks of B. A strip is [channel block][pixel][B]. One register holds the B channels of a pixel; a tile of
// Isa::kTile pixels (or pixels × blocks) is accumulated in registers.
#pragma once

#include "cpu/mixed_op/kinks.h"
#include "cpu/vectors.h"

namespace fastdarts {

// NHWC pixels to channel blocks: max(0, x), or max(0, scale (x − mean) + offset). NaN passes, as in PyTorch. A ReLU
// that keeps its kinks lets the channels pass that it is told to, whatever their sign.
template <typename T, int B, bool affine, Decide decide>
struct Load {
  FASTDARTS_VECTORS
  const T* source;  // [rows, columns, channels]
  int64_t rows, columns, channels;
  const T *scale, *mean, *offset;  // [blocks, B], zero in the padding
  T* target;                       // its first pixel
  int64_t pitch, plane;
  uint8_t* bits;  // [rows, columns, bytes], null if it decides by itself

  FASTDARTS_INLINE void operator()() const {
    const int64_t whole = channels / B, tail = channels % B, bytes = decide == Decide::kOwn ? 0 : kink_bytes(channels);
    for (int64_t y = 0; y < rows; ++y) {
      const T* p = source + y * columns * channels;
      T* o = target + y * pitch;
      uint8_t* k = bits + y * columns * bytes;
      for (int64_t x = 0; x < columns; ++x, p += channels, o += B, k += bytes) {
        for (int64_t b = 0; b < whole; ++b) {
          V v = loose(p + b * B);
          if constexpr (affine) v = at(scale + b * B) * (v - at(mean + b * B)) + at(offset + b * B);
          at(o + b * plane) = through_relu<decide, B, T>(v, k, b);
        }
        for (int64_t c = whole * B; c < channels; ++c) {
          T v = p[c];
          if constexpr (affine) v = scale[c] * (v - mean[c]) + offset[c];
          o[whole * plane + c % B] = through_relu<decide>(v, k, c);
        }
        if (tail) {
          for (int64_t i = tail; i < B; ++i) o[whole * plane + i] = T(0);
        }
      }
    }
  }
};

// acc[r·Q + q] += Σ weight[ky][kx] · source[(r·S + ky·D)·pitch + (q·S + kx·D)·B]. A pixel is loaded once for all the
// outputs of its row that it takes part in.
template <typename T, int B, int R, int Q, int K, int S, int D>
struct Window {
  FASTDARTS_VECTORS
  static constexpr int kLines = R * Q * B * sizeof(T) / 64;  // of a tile

  static FASTDARTS_INLINE void run(const T* source, int64_t pitch, const T* weight, V (&acc)[R * Q],
                                   const T* ahead = nullptr) {
    for (int64_t ky = 0; ky < K; ++ky) {
      constexpr int kShare = (kLines + K - 1) / K;
      if (ahead) prefetch<kShare>(ahead + ky * kShare * 64 / sizeof(T));
      V w[K];
      unroll<K>(EACH(kx) { w[kx] = at(weight + (ky * K + kx) * B); });
      unroll<R>(EACH(r) {
        const T* p = source + (r * S + ky * D) * pitch;
        unroll<(Q - 1) * S + (K - 1) * D + 1>(EACH(j) {
          const V v = at(p + j * B);
          unroll<K>(EACH(kx) {
            constexpr int q = j - kx * D;
            if constexpr (q >= 0 && q % S == 0 && q / S < Q) acc[r * Q + q / S] += w[kx] * v;
          });
        });
      });
    }
  }
};

// Depthwise convolution of a strip of whole rows (or of a part of one row). A tile that is wider than what is left of
// a row spills into pixels of the next row, which are written later. That is why R > 1 needs columns <= Q.
template <typename T, int B, int R, int Q, int K, int S, int D>
struct Depthwise {
  FASTDARTS_VECTORS
  const T* source;  // the first pixel's window in the first plane
  int64_t pitch, plane, blocks;
  const T* weight;  // [block][K·K][B]
  int64_t rows, columns;
  T* strip;
  int64_t strip_plane;
  const T* ahead;  // what to prefetch meanwhile, as much as the strip

  FASTDARTS_INLINE void operator()() const {
    int64_t done = 0;
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t y = 0; y < rows; y += R) {
        for (int64_t x = 0; x < columns; x += Q, done += R * Q * B) {
          V acc[R * Q];
          unroll<R * Q>(EACH(i) { acc[i] = V{}; });
          // Null stays null: a prefetch of page 0 waits for the page tables, and made the window up to 5 times slower.
          Window<T, B, R, Q, K, S, D>::run(source + b * plane + y * S * pitch + x * S * B, pitch,
                                           weight + b * K * K * B, acc, ahead ? ahead + done : nullptr);
          T* out = strip + b * strip_plane + (y * columns + x) * B;
          unroll<R>(EACH(r) { unroll<Q>(EACH(q) { at(out + (r * columns + q) * B) = acc[r * Q + q]; }); });
        }
      }
    }
  }
};

// Copies every S-th pixel, for stages without a depthwise convolution.
template <typename T, int B>
struct Gather {
  FASTDARTS_VECTORS
  const T* source;
  int64_t pitch, plane, blocks, stride, rows, columns;
  T* strip;
  int64_t strip_plane;

  FASTDARTS_INLINE void operator()() const {
    for (int64_t b = 0; b < blocks; ++b) {
      T* out = strip + b * strip_plane;
      for (int64_t y = 0; y < rows; ++y) {
        const T* p = source + b * plane + y * stride * pitch;
        for (int64_t x = 0; x < columns; ++x, out += B) at(out) = at(p + x * stride * B);
      }
    }
  }
};

// Σ d and Σ d² per channel, d = z − shift, [blocks, B]; null where not wanted.
template <typename T>
struct Moments {
  const T* shift;
  T *first, *second;
};

// Where a pointwise product goes: NHWC rows of a tensor, or a bordered private buffer.
template <typename T, int B>
struct ToTensor {
  FASTDARTS_VECTORS
  static constexpr bool kWrites = true;  // what it prefetches: the next strip's place
  T* data;
  int64_t channels;
  bool nontemporal;  // stores; `data` and its rows are whole lines then

  FASTDARTS_INLINE bool whole(int64_t blocks) const { return blocks * B <= channels; }
  FASTDARTS_INLINE void operator()(int64_t pixel, int64_t block, const V& v) const {
    store(&loose(data + pixel * channels + block * B), v, nontemporal);
  }
  FASTDARTS_INLINE void part(int64_t pixel, int64_t block, const T* v) const {
    for (int64_t i = 0; i < B && block * B + i < channels; ++i) data[pixel * channels + block * B + i] = v[i];
  }
};

template <typename T, int B>
struct ToBuffer {
  FASTDARTS_VECTORS
  static constexpr bool kWrites = false;
  T* data;
  int64_t plane;
  const int64_t* where;  // offset of every pixel

  FASTDARTS_INLINE bool whole(int64_t) const { return true; }
  FASTDARTS_INLINE void operator()(int64_t pixel, int64_t block, const V& v) const {
    at(data + block * plane + where[pixel]) = v;
  }
  FASTDARTS_INLINE void part(int64_t pixel, int64_t block, const T* v) const { (*this)(pixel, block, at(v)); }
};

// out[pixel][o] = Σ_i strip[pixel][i] · weight[o][i], and its moments.
template <typename Isa, typename T, int B, typename Store>
struct Pointwise {
  FASTDARTS_VECTORS
  const T* strip;
  int64_t strip_plane, inputs;
  const T* weight;  // [output block][input][B]
  int64_t blocks, pixels;
  Store store;
  Moments<T> moments;
  const T* ahead[2];  // what to prefetch meanwhile, each as much as the output of the strip

  template <int N>  // output blocks at a time
  FASTDARTS_INLINE void of(int64_t block) const {
    constexpr int J = Isa::kTile / N;
    const T* panel = weight + block * inputs * B;
    for (int64_t pixel = 0; pixel < pixels; pixel += J) {  // the strip has room for a last partial tile
      const int64_t tile = (block * round_up(pixels, J) + pixel * N) * B;
      V acc[J * N];
      unroll<J * N>(EACH(i) { acc[i] = V{}; });
      for (int64_t first = 0; first < inputs; first += B) {
        const T* p = strip + first / B * strip_plane + pixel * B;
        const int64_t count = inputs - first < B ? inputs - first : B;
        for (int64_t c = 0; c < count; ++c) {
          V w[N];
          unroll<N>(EACH(n) { w[n] = at(panel + (n * inputs + first + c) * B); });
          if (!first && ahead[0]) {  // a tile's worth in B steps
            prefetch<1, Store::kWrites>(ahead[0] + tile + c * Isa::kTile);
            if constexpr (!Store::kWrites) prefetch<1>(ahead[1] + tile + c * Isa::kTile);
          }
          unroll<J>(EACH(j) {
            const T s = p[j * B + c];
            unroll<N>(EACH(n) { acc[j * N + n] += w[n] * s; });
          });
        }
      }
      if (pixel + J <= pixels && store.whole(block + N)) {
        unroll<J * N>(EACH(i) { store(pixel + i / N, block + i % N, acc[i]); });
        if (moments.shift) {
          unroll<N>(EACH(n) {
            const int64_t to = (block + n) * B;
            const V shift = at(moments.shift + to);
            V first[4] = {}, second[4] = {};  // short chains: a quarter of the error of one
            unroll<J>(EACH(j) {
              const V d = acc[j * N + n] - shift;
              first[j % 4] += d;
              second[j % 4] += d * d;
            });
            at(moments.first + to) += (first[0] + first[1]) + (first[2] + first[3]);
            at(moments.second + to) += (second[0] + second[1]) + (second[2] + second[3]);
          });
        }
      } else {
        alignas(64) T kept[J * N * B];
        unroll<J * N>(EACH(i) { at(kept + i * B) = acc[i]; });
        for (int64_t j = 0; j < J && pixel + j < pixels; ++j) {
          for (int64_t n = 0; n < N; ++n) {
            store.part(pixel + j, block + n, kept + (j * N + n) * B);
            if (moments.shift) {
              const int64_t to = (block + n) * B;
              const V d = at(kept + (j * N + n) * B) - at(moments.shift + to);
              at(moments.first + to) += d;
              at(moments.second + to) += d * d;
            }
          }
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
