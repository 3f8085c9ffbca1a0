// The inner loops that only the backward of a stage has; how they are written: stage_kernels.h.
#pragma once

#include "cpu/mixed_op/stage_kernels.h"

namespace fastdarts {

// A strip of dL/dz = scale (grad − shift) + slope (z − mean), formed from NHWC pixels; never stored anywhere else.
template <typename T, int B>
struct RawGradient {
  FASTDARTS_VECTORS
  const T *grad, *z;  // [pixels, channels]
  int64_t pixels, channels;
  const T *scale, *shift, *slope, *mean;  // [blocks, B], zero in the padding
  T* strip;
  int64_t strip_plane;

  FASTDARTS_INLINE void operator()() const {
    const int64_t whole = channels / B;
    for (int64_t i = 0; i < pixels; ++i) {
      const T *g = grad + i * channels, *p = z + i * channels;
      T* o = strip + i * B;
      for (int64_t b = 0; b < whole; ++b) {
        at(o + b * strip_plane) = at(scale + b * B) * (loose(g + b * B) - at(shift + b * B)) +
                                  at(slope + b * B) * (loose(p + b * B) - at(mean + b * B));
      }
      if (channels % B) {
        T* last = o + whole * strip_plane;
        at(last) = V{};
        for (int64_t c = whole * B; c < channels; ++c) {
          last[c % B] = scale[c] * (g[c] - shift[c]) + slope[c] * (p[c] - mean[c]);
        }
      }
    }
  }
};

// What the gradient of a stage's input does: it is added to a private buffer (every S-th pixel of it) ...
template <typename T, int B, int R, int Q, int S>
struct AddToBuffer {
  FASTDARTS_VECTORS
  T* data;  // with room for whole tiles
  int64_t pitch, plane;

  FASTDARTS_INLINE void operator()(int64_t b, int64_t y, int64_t x, const V (&acc)[R * Q]) const {
    T* o = data + b * plane + (y * pitch + x * B) * S;
    unroll<R * Q>(EACH(i) { at(o + (i / Q * pitch + i % Q * B) * S) += acc[i]; });
  }
};

// ... or goes through the ReLU of the middle BatchNorm to NHWC, with the sums Σ d and Σ d·y, y the ReLU's output. What
// it stopped is 0 there; what passed is not, but may be negative where kinks are kept.
template <typename T, int B, int R, int Q>
struct ThroughReLU {
  FASTDARTS_VECTORS
  const T* relu;  // its first pixel
  int64_t pitch, plane;
  T* out;
  int64_t rows, columns, channels;
  T *first, *second;  // [blocks, B]

  FASTDARTS_INLINE void operator()(int64_t b, int64_t y, int64_t x, const V (&acc)[R * Q]) const {
    const T* m = relu + b * plane + y * pitch + x * B;
    T* o = out + (y * columns + x) * channels + b * B;
    V sum = at(first + b * B), product = at(second + b * B);
    if ((b + 1) * B <= channels && y + R <= rows && x + Q <= columns) {
      unroll<R * Q>(EACH(i) {
        const V& v = at(m + i / Q * pitch + i % Q * B);
        const V d = v == T(0) ? V{} : acc[i];
        loose(o + (i / Q * columns + i % Q) * channels) = d;
        sum += d;
        product += d * v;
      });
    } else {
      alignas(64) T kept[R * Q * B];
      unroll<R * Q>(EACH(i) { at(kept + i * B) = acc[i]; });
      for (int64_t r = 0; r < R && y + r < rows; ++r) {
        for (int64_t q = 0; q < Q && x + q < columns; ++q) {
          const V& v = at(m + r * pitch + q * B);
          alignas(64) T d[B];
          at(d) = v == T(0) ? V{} : at(kept + (r * Q + q) * B);
          for (int64_t i = 0; i < B && b * B + i < channels; ++i) o[(r * columns + q) * channels + i] = d[i];
          sum += at(d);
          product += at(d) * v;
        }
      }
    }
    at(first + b * B) = sum;
    at(second + b * B) = product;
  }
};

// The gradient of the input of a depthwise convolution of stride 1: the weights are turned by half a circle.
template <typename T, int B, int R, int Q, int K, int D, typename Sink>
struct DepthwiseData {
  FASTDARTS_VECTORS
  const T* source;  // gradient of the depthwise output, bordered: the first pixel's window
  int64_t pitch, plane, blocks;
  const T* weight;  // [block][K·K turned][B]
  int64_t rows, columns;
  Sink sink;

  FASTDARTS_INLINE void operator()() const {
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t y = 0; y < rows; y += R) {
        for (int64_t x = 0; x < columns; x += Q) {
          V acc[R * Q];
          unroll<R * Q>(EACH(i) { acc[i] = V{}; });
          Window<T, B, R, Q, K, 1, D>::run(source + b * plane + y * pitch + x * B, pitch, weight + b * K * K * B, acc);
          sink(b, y, x, acc);
        }
      }
    }
  }
};

struct Tap {
  int64_t source, weight;  // offsets of one kernel element in its source plane and its weight block
};

// The same for one of the S × S classes of input pixels that a strided convolution treats alike.
template <typename T, int B, int R, int Q, typename Sink>
struct StridedData {
  FASTDARTS_VECTORS
  const T* source;
  int64_t pitch, plane, blocks;
  const Tap* taps;
  int64_t count;
  const T* weight;  // [block][kernel elements][B]
  int64_t weight_plane, rows, columns;
  Sink sink;

  FASTDARTS_INLINE void operator()() const {
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t y = 0; y < rows; y += R) {
        for (int64_t x = 0; x < columns; x += Q) {
          V acc[R * Q];
          unroll<R * Q>(EACH(i) { acc[i] = V{}; });
          for (int64_t k = 0; k < count; ++k) {
            const V w = at(weight + b * weight_plane + taps[k].weight);
            const T* p = source + b * plane + taps[k].source + y * pitch + x * B;
            unroll<R * Q>(EACH(i) { acc[i] += w * at(p + i / Q * pitch + i % Q * B); });
          }
          sink(b, y, x, acc);
        }
      }
    }
  }
};

// Adds pixels to every S-th pixel of a buffer: what Gather took.
template <typename T, int B>
struct Scatter {
  FASTDARTS_VECTORS
  const T* source;
  int64_t pitch, plane, blocks, rows, columns;
  T* target;
  int64_t target_pitch, target_plane, stride;

  FASTDARTS_INLINE void operator()() const {
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t y = 0; y < rows; ++y) {
        const T* p = source + b * plane + y * pitch;
        T* o = target + b * target_plane + y * stride * target_pitch;
        for (int64_t x = 0; x < columns; ++x) at(o + x * stride * B) += at(p + x * B);
      }
    }
  }
};

// dx = (ReLU(x) ≠ 0) · buffer + rest, to NHWC.
template <typename T, int B>
struct Finish {
  FASTDARTS_VECTORS
  const T* relu;  // its first pixel
  int64_t pitch, plane;
  const T* buffer;
  int64_t buffer_pitch, buffer_plane;
  const T* rest;  // [rows, columns, channels] or null
  int64_t rows, columns, channels;
  T* dx;

  FASTDARTS_INLINE void operator()() const {
    const int64_t whole = channels / B;
    for (int64_t y = 0; y < rows; ++y) {
      for (int64_t x = 0; x < columns; ++x) {
        const T *m = relu + y * pitch + x * B, *p = buffer + y * buffer_pitch + x * B;
        const int64_t at_pixel = (y * columns + x) * channels;
        T* o = dx + at_pixel;
        const T* r = rest ? rest + at_pixel : nullptr;
        for (int64_t b = 0; b < whole; ++b) {
          V v = at(m + b * plane) == T(0) ? V{} : at(p + b * buffer_plane);
          if (r) v += loose(r + b * B);
          loose(o + b * B) = v;
        }
        for (int64_t c = whole * B; c < channels; ++c) {
          const T v = m[whole * plane + c % B] == T(0) ? T(0) : p[whole * buffer_plane + c % B];
          o[c] = r ? v + r[c] : v;
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
  int64_t strip_plane, pixels, outputs, blocks;  // blocks of inputs; both strips have the same planes
  T* sums;                                       // [outputs padded][inputs padded]

  template <int N>
  FASTDARTS_INLINE void of(int64_t first, int64_t block) const {
    constexpr int J = Isa::kTile / N < B ? Isa::kTile / N : B;
    const T *g = grad + first / B * strip_plane + first % B, *t = strip + block * strip_plane;
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
    const int64_t step = columns < 1024 ? 1024 / columns : 1;                        // chains of at most 1024 pixels
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
