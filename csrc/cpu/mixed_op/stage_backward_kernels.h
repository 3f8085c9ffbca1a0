// The inner loops that only the backward of a stage has; how they are written: stage_kernels.h.
#pragma once

#include "cpu/mixed_op/stage_kernels.h"

namespace fastdarts {

// A strip of dL/dz = scale (grad − shift) + slope (z − mean), formed from NHWC pixels; never stored anywhere else.
template <typename M, int B, typename E>
struct RawGradient {
  using T = Wide<M>;
  FASTDARTS_VECTORS
  const M *grad, *z;  // [pixels, channels]
  int64_t pixels, channels;
  const T *scale, *shift, *slope, *mean;  // [blocks, B], zero in the padding
  Entry<E>* strip;
  int64_t strip_plane;

  FASTDARTS_INLINE V block(int64_t b, const V& g, const V& z) const {
    return at(scale + b * B) * (g - at(shift + b * B)) + at(slope + b * B) * (z - at(mean + b * B));
  }

  FASTDARTS_INLINE void operator()() const {
    const int64_t whole = channels / B, tail = channels % B;
    for (int64_t i = 0; i < pixels; ++i) {
      const M *g = grad + i * channels, *p = z + i * channels;
      Entry<E>* o = strip + i * B;
      for (int64_t b = 0; b < whole; ++b) {
        const V v = block(b, Map<M, B>::read(g + b * B), Map<M, B>::read(p + b * B));
        Map<Entry<E>, B>::write(o + b * strip_plane, v);
      }
      if (kPairs<E> && tail) {
        const M *g_last = g + whole * B, *p_last = p + whole * B;
        const V v = block(whole, Map<M, B>::read_first(g_last, tail), Map<M, B>::read_first(p_last, tail));
        Map<Entry<E>, B>::write(o + whole * strip_plane, v);
      }
      if constexpr (!kPairs<E>) {
        if (tail) {
          T* last = o + whole * strip_plane;
          at(last) = V{};
          for (int64_t c = whole * B; c < channels; ++c) {
            last[c % B] = scale[c] * (value(g[c]) - shift[c]) + slope[c] * (value(p[c]) - mean[c]);
          }
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
template <typename M, typename E, int B, int R, int Q>
struct ThroughReLU {
  using T = Wide<M>;
  FASTDARTS_VECTORS
  const E* relu;  // its first pixel
  int64_t pitch, plane;
  M* out;
  int64_t rows, columns, channels;
  T *first, *second;  // [blocks, B]

  FASTDARTS_INLINE void operator()(int64_t b, int64_t y, int64_t x, const V (&acc)[R * Q]) const {
    const E* m = relu + b * plane + y * pitch + x * B;
    M* o = out + (y * columns + x) * channels + b * B;
    V sum = at(first + b * B), product = at(second + b * B);
    if ((b + 1) * B <= channels && y + R <= rows && x + Q <= columns) {
      unroll<R * Q>(EACH(i) {
        const V v = Cell<E, B>::first(m + i / Q * pitch + i % Q * B);
        const V d = v == T(0) ? V{} : acc[i];
        Map<M, B>::write(o + (i / Q * columns + i % Q) * channels, d);
        sum += d;
        product += d * v;
      });
    } else {
      alignas(64) T kept[R * Q * B];
      unroll<R * Q>(EACH(i) { at(kept + i * B) = acc[i]; });
      for (int64_t r = 0; r < R && y + r < rows; ++r) {
        for (int64_t q = 0; q < Q && x + q < columns; ++q) {
          const V v = Cell<E, B>::first(m + r * pitch + q * B);
          alignas(64) T d[B];
          at(d) = v == T(0) ? V{} : at(kept + (r * Q + q) * B);
          M* to = o + (r * columns + q) * channels;
          for (int64_t i = 0; i < B && b * B + i < channels; ++i) to[i] = stored<M>(d[i]);
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
template <typename E, int B, int R, int Q, int K, int D, typename Sink>
struct DepthwiseData {
  using Own = Window<E, B, R, Q, K, 1, D>;
  using V = typename Own::V;
  const E* source;  // gradient of the depthwise output, bordered: the first pixel's window
  int64_t pitch, plane, blocks;
  const E* weight;  // [block][kWeights, turned][B]
  int64_t rows, columns;
  Sink sink;

  FASTDARTS_INLINE void operator()() const {
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t y = 0; y < rows; y += R) {
        for (int64_t x = 0; x < columns; x += Q) {
          V acc[R * Q];
          unroll<R * Q>(EACH(i) { acc[i] = V{}; });
          Own::run(source + b * plane + y * pitch + x * B, pitch, weight + b * Own::kWeights * B, acc);
          sink(b, y, x, acc);
        }
      }
    }
  }
};

struct Tap {
  int64_t source, weight;  // offsets of one kernel element (of a pair of them) in its source plane and its weight block
};

// The same for one of the S × S classes of input pixels that a strided convolution treats alike.
template <typename E, int B, int R, int Q, typename Sink>
struct StridedData {
  using T = Wide<E>;
  FASTDARTS_VECTORS
  const E* source;
  int64_t pitch, plane, blocks;
  const Tap* taps;
  int64_t count;
  const E* weight;  // [block][kernel elements][B]
  int64_t weight_plane, rows, columns;
  Sink sink;

  FASTDARTS_INLINE void operator()() const {
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t y = 0; y < rows; y += R) {
        for (int64_t x = 0; x < columns; x += Q) {
          V acc[R * Q];
          unroll<R * Q>(EACH(i) { acc[i] = V{}; });
          for (int64_t k = 0; k < count; ++k) {
            const auto w = Cell<E, B>::weights(weight + b * weight_plane + taps[k].weight);
            const E* p = source + b * plane + taps[k].source + y * pitch + x * B;
            unroll<R * Q>(EACH(i) { acc[i] = Cell<E, B>::add(acc[i], w, p + i / Q * pitch + i % Q * B); });
          }
          sink(b, y, x, acc);
        }
      }
    }
  }
};

// Adds pixels to every S-th pixel of a buffer: what Gather took.
template <typename E, int B>
struct Scatter {
  using T = Wide<E>;
  FASTDARTS_VECTORS
  const E* source;
  int64_t pitch, plane, blocks, rows, columns;
  T* target;
  int64_t target_pitch, target_plane, stride;

  FASTDARTS_INLINE void operator()() const {
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t y = 0; y < rows; ++y) {
        const E* p = source + b * plane + y * pitch;
        T* o = target + b * target_plane + y * stride * target_pitch;
        for (int64_t x = 0; x < columns; ++x) at(o + x * stride * B) += Cell<E, B>::first(p + x * B);
      }
    }
  }
};

// dx = (ReLU(x) ≠ 0) · buffer + rest, to NHWC.
template <typename M, typename E, int B>
struct Finish {
  using T = Wide<M>;
  FASTDARTS_VECTORS
  const E* relu;  // its first pixel
  int64_t pitch, plane;
  const T* buffer;
  int64_t buffer_pitch, buffer_plane;
  const T* rest;  // [rows, columns, channels] or null
  int64_t rows, columns, channels;
  M* dx;

  FASTDARTS_INLINE void operator()() const {
    const int64_t whole = channels / B, tail = channels % B;
    for (int64_t y = 0; y < rows; ++y) {
      for (int64_t x = 0; x < columns; ++x) {
        const E* m = relu + y * pitch + x * B;
        const T* p = buffer + y * buffer_pitch + x * B;
        const int64_t at_pixel = (y * columns + x) * channels;
        M* o = dx + at_pixel;
        const T* r = rest ? rest + at_pixel : nullptr;
        for (int64_t b = 0; b < whole; ++b) {
          V v = Cell<E, B>::first(m + b * plane) == T(0) ? V{} : at(p + b * buffer_plane);
          if (r) v += loose(r + b * B);
          Map<M, B>::write(o + b * B, v);
        }
        if constexpr (kPairs<E>) {
          if (!tail) continue;
          V v = Cell<E, B>::first(m + whole * plane) == T(0) ? V{} : at(p + whole * buffer_plane);
          if (r) v += Map<T, B>::read_first(r + whole * B, tail);
          Map<M, B>::write_first(o + whole * B, v, tail);
        } else {
          for (int64_t c = whole * B; c < channels; ++c) {
            const T v = m[whole * plane + c % B] == T(0) ? T(0) : p[whole * buffer_plane + c % B];
            o[c] = stored<M>(r ? v + r[c] : v);
          }
        }
      }
    }
  }
};

// sums[o][i] += Σ_pixels grad[pixel][o] · strip[pixel][i].
template <typename Isa, typename E, int B>
struct PointwiseWeights {
  using T = Wide<E>;
  FASTDARTS_VECTORS
  static constexpr int kPixels = kPairs<E> ? 2 : 1;  // that an element is for
  const E *grad, *strip;                             // as strips are, or of pairs of pixels
  int64_t strip_plane, pixels, outputs, blocks;      // blocks of inputs; both strips have the same planes
  T* sums;                                           // [outputs padded][inputs padded]

  template <int N>
  FASTDARTS_INLINE void of(int64_t first, int64_t block) const {
    constexpr int J = Isa::kTile / N < B ? Isa::kTile / N : B;
    const E *g = grad + first / B * strip_plane + first % B, *t = strip + block * strip_plane;
    V acc[J * N];
    unroll<J * N>(EACH(i) { acc[i] = V{}; });
    for (int64_t i = 0; i * kPixels < pixels; ++i) {
      decltype(Cell<E, B>::weights(t)) v[N];
      unroll<N>(EACH(n) { v[n] = Cell<E, B>::weights(t + n * strip_plane + i * B); });
      unroll<J>(EACH(j) {
        unroll<N>(EACH(n) { acc[j * N + n] = Cell<E, B>::add_all(acc[j * N + n], v[n], g + i * B + j); });
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
template <typename Isa, typename E, int B, int K, int S, int D>
struct DepthwiseWeights {
  using T = Wide<E>;
  FASTDARTS_VECTORS
  static constexpr int kPixels = kPairs<E> ? 2 : 1;  // at a time
  const E* grad;                                     // first pixel of the bordered gradient
  int64_t grad_pitch, grad_plane;
  const E* source;  // the first pixel's window; with pairs, those of pixels that are S apart
  int64_t pitch, plane, blocks, rows, columns;
  T* sums;  // [block][K·K][B]

  template <int G>  // kernel rows at a time
  FASTDARTS_INLINE void of(int64_t block, int64_t ky, int64_t begin, int64_t end) const {
    V acc[G * K];
    unroll<G * K>(EACH(i) { acc[i] = V{}; });
    const int64_t width = columns, step = pitch;
    for (int64_t y = begin; y < end; ++y) {
      const E* g = grad + block * grad_plane + y * grad_pitch;
      const E* p = source + block * plane + (y * S + ky * D) * step;
      for (int64_t x = 0; x < width; x += kPixels, g += kPixels * B, p += kPixels * S * B) {
        asm volatile("" ::: "memory");  // else GCC carries loads over to the next pixel and spills accumulators
        const auto v = Cell<E, B>::weights(g);
        unroll<G * K>(EACH(i) { acc[i] = Cell<E, B>::add(acc[i], v, p + i / K * D * step + i % K * D * B); });
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
