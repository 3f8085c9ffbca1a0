// The inner loops that only the backward of sep_conv has; how they are written: sep_conv_kernels.h.
#pragma once

#include "cpu/sep_conv_kernels.h"

namespace fastdarts {

// to += from, and the first time to = from.
template <typename From>
struct AddTo {
  const From* from;
  double* to;
  int64_t size;
  bool first;

  FASTDARTS_INLINE void operator()() const {
    if (first) {
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) to[i] = from[i];
    } else {
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) to[i] += from[i];
    }
  }
};

// The depthwise gradient of x for the pixels (cy + S·j, cx + S·i), the ReLU mask applied.
template <typename T, int B, int R, int Q, int S>
struct DepthwiseData {
  FASTDARTS_VECTORS
  const T* source;  // gradient of the depthwise output, bordered
  int64_t pitch, plane, blocks;
  const Tap* taps;
  int64_t count;
  const T* weight;  // [block][kernel elements][B]
  int64_t weight_plane;
  const T* mask;  // ReLU(x), bordered: its pixel (cy, cx)
  int64_t mask_pitch, mask_plane;
  T* out;  // dx at (cy, cx)
  int64_t rows, columns, width, channels;

  FASTDARTS_INLINE void operator()() const {
    for (int64_t y = 0; y < rows; y += R) {
      for (int64_t x = 0; x < columns; x += Q) {
        for (int64_t b = 0; b < blocks; ++b) {
          V acc[R * Q];
          Tile<T, B, R, Q, 1>::run(source + b * plane + y * pitch + x * B, taps, count, weight + b * weight_plane,
                                   pitch, acc);
          const T* m = mask + b * mask_plane + (y * mask_pitch + x * B) * S;
          T* o = out + (y * width + x) * S * channels + b * B;
          const int64_t lanes = channels - b * B;
          if (lanes >= B && y + R <= rows && x + Q <= columns) {
            unroll<R * Q>(EACH(i) {
              const V& v = at(m + (i / Q * mask_pitch + i % Q * B) * S);
              loose(o + (i / Q * width + i % Q) * S * channels) = v <= T(0) ? V{} : acc[i];
            });
          } else {
            alignas(64) T kept[R * Q * B];
            unroll<R * Q>(EACH(i) { at(kept + i * B) = acc[i]; });
            for (int64_t r = 0; r < R && y + r < rows; ++r) {
              for (int64_t q = 0; q < Q && x + q < columns; ++q) {
                for (int64_t i = 0; i < B && i < lanes; ++i) {
                  const bool off = m[(r * mask_pitch + q * B) * S + i] <= T(0);
                  o[(r * width + q) * S * channels + i] = off ? T(0) : kept[(r * Q + q) * B + i];
                }
              }
            }
          }
        }
      }
    }
  }
};

// sums[o][i] += Σ_pixels grad[pixel][o] · strip[pixel][i].
template <typename Isa, typename T, int B>
struct PointwiseWeights {
  FASTDARTS_VECTORS
  const T *grad, *strip;
  int64_t grad_plane, strip_plane, pixels, outputs, blocks;  // blocks of inputs
  T* sums;                                                   // [outputs padded][inputs padded]

  template <int N>
  FASTDARTS_INLINE void of(int64_t first, int64_t block) const {
    constexpr int J = Isa::kTile / N < B ? Isa::kTile / N : B;
    const T *g = grad + first / B * grad_plane + first % B, *t = strip + block * strip_plane;
    V acc[J * N];
    unroll<J * N>(EACH(i) { acc[i] = V{}; });
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      V v[N];
      unroll<N>(EACH(n) { v[n] = at(t + n * strip_plane + pixel * B); });
      unroll<J>(EACH(j) {
        const T s = g[pixel * B + j];
        unroll<N>(EACH(n) { acc[j * N + n] += v[n] * s; });
      });
    }
    T* out = sums + (first * blocks + block) * B;
    unroll<J>(EACH(j) { unroll<N>(EACH(n) { at(out + (j * blocks + n) * B) += acc[j * N + n]; }); });
  }

  template <int N>
  FASTDARTS_INLINE void column(int64_t block) const {
    constexpr int J = Isa::kTile / N < B ? Isa::kTile / N : B;
    for (int64_t first = 0; first < outputs; first += J) of<N>(first, block);
  }

  FASTDARTS_INLINE void operator()() const {
    int64_t block = 0;
    for (; block + 2 <= blocks; block += 2) column<2>(block);
    if (block < blocks) column<1>(block);
  }
};

// sums[block][ky·K + kx] += Σ_pixels grad · ReLU(x) at the tap; dilation D, stride S.
template <typename Isa, typename T, int B, int K, int S, int D>
struct DepthwiseWeights {
  FASTDARTS_VECTORS
  const T* grad;  // first pixel of the bordered gradient
  int64_t grad_pitch, grad_plane;
  const T* source;  // the first pixel's window
  int64_t pitch, plane, blocks, rows, columns;
  T* sums;  // [block][K·K][B]

  template <int G>  // kernel rows at a time
  FASTDARTS_INLINE void of(int64_t block, int64_t ky, int64_t begin, int64_t end) const {
    V acc[G * K];
    unroll<G * K>(EACH(i) { acc[i] = V{}; });
    const int64_t width = columns, step = pitch;
    for (int64_t y = begin; y < end; ++y) {
      const T* g = grad + block * grad_plane + y * grad_pitch;
      const T* p = source + block * plane + (y * S + ky * D) * step;
      for (int64_t x = 0; x < width; ++x, g += B, p += S * B) {
        asm volatile("" ::: "memory");  // else GCC carries loads over to the next pixel and spills accumulators
        const V v = at(g);
        unroll<G * K>(EACH(i) { acc[i] += v * at(p + i / K * D * step + i % K * D * B); });
      }
    }
    T* out = sums + (block * K + ky) * K * B;
    unroll<G * K>(EACH(i) { at(out + i * B) += acc[i]; });
  }

  FASTDARTS_INLINE void operator()() const {
    constexpr int kAtOnce = Isa::kTile == 16 ? (K == 7 ? 4 : K) : (K == 3 ? 3 : 2);  // 9 to 28, or 9 to 14 registers
    const int64_t step = columns < 1024 ? 1024 / columns : 1;  // short chains: see sep_conv_backward.cpp
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t y = 0; y < rows; y += step) {
        const int64_t end = y + step < rows ? y + step : rows;
        int64_t ky = 0;
        for (; ky + kAtOnce <= K; ky += kAtOnce) of<kAtOnce>(b, ky, y, end);
        if constexpr (K % kAtOnce) of<K % kAtOnce>(b, ky, y, end);
      }
    }
  }
};

}  // namespace fastdarts
