// Max and average pooling of one channels-last sample, forward and backward: 3×3 windows, padding 1; the average counts
// real pixels only. A row is a flat array: at stride 1, a step of one pixel is a step of `channels` elements.
#pragma once

#include "cpu/maps.h"

namespace fastdarts {

struct PoolShape {
  int64_t height, width, channels, stride, rows, columns;  // rows and columns of the output

  // body(first output column, columns, first input column, input columns in the window), windows cut off at the
  // borders.
  template <typename Body>
  FASTDARTS_INLINE void windows(const Body& body) const {
    for (int64_t o = 0; o < columns;) {
      const int64_t from = o * stride - 1 < 0 ? 0 : o * stride - 1;
      const int64_t to = o * stride + 2 < width ? o * stride + 2 : width;
      const int64_t run = stride == 1 && to - from == 3 ? width - 2 : 1;  // at stride 1 all inner windows at once
      body(o, run, from, to - from);
      o += run;
    }
  }

  // body(first output column, its input column, columns) for the output columns whose window has its column kx in the
  // map.
  template <typename Body>
  FASTDARTS_INLINE void columns_of(int64_t kx, const Body& body) const {
    const int64_t first = kx < 1 ? 1 : 0, beyond = (width - kx + stride) / stride;
    const int64_t last = beyond < columns ? beyond : columns, run = stride == 1 ? last - first : 1;
    for (int64_t o = first; o < last; o += run) body(o, o * stride + kx - 1, run);
  }
};

// The larger of two numbers or, lane by lane, of two vectors. NaN wins, as in PyTorch, at four times the price. `fast`
// is for maps without NaN.
template <bool fast, typename V>
FASTDARTS_INLINE V larger(const V& a, const V& b) {
  return fast ? (b > a ? b : a) : ((b > a) | (b != b) ? b : a);
}

template <int B>
struct Elements {
  // body(read, write) for vectors, then single elements, of [0, size). Both take maps of any type.
  template <typename Body>
  static FASTDARTS_INLINE void each(int64_t size, const Body& body) {
    int64_t i = 0;
    for (; i + B <= size; i += B) {
      body([&]<typename M>(const M* p) __attribute__((always_inline)) { return Map<M, B>::read(p + i); },
           [&]<typename M>(M* p, const auto& v) __attribute__((always_inline)) { Map<M, B>::write(p + i, v); });
    }
    for (; i < size; ++i) {
      body([&]<typename M>(const M* p) __attribute__((always_inline)) { return value(p[i]); },
           [&]<typename M>(M* p, Wide<M> v) __attribute__((always_inline)) { p[i] = stored<M>(v); });
    }
  }
};

template <typename M, int B>
struct Pooling {
  using T = Wide<M>;
  using V = typename Map<M, B>::V;
  PoolShape shape;
  const M* x;
  M *max, *avg;      // [rows, columns, channels]; null where not wanted
  T *maxima, *sums;  // over the rows of a window, per input column: scratch of one input row each

  // Maxima and sums over `Rows` rows, the first at a, for every input column.
  template <int Rows, bool fast>
  FASTDARTS_INLINE void down(const M* a, int64_t length) const {
    Elements<B>::each(length, [&](const auto& read, const auto& write) __attribute__((always_inline)) {
      auto top = read(a), sum = top;
      unroll<Rows - 1>(EACH(r) {
        const auto next = read(a + (r + 1) * length);
        top = larger<fast>(top, next);
        sum += next;
      });
      write(maxima, top);
      write(sums, sum);
    });
  }

  // Maxima and averages of `size` elements of the output, from the columns of their windows.
  template <int Columns, bool fast>
  FASTDARTS_INLINE void across(int64_t from, int64_t to, int64_t size, T scale) const {
    const int64_t C = shape.channels;
    Elements<B>::each(size, [&](const auto& read, const auto& write) __attribute__((always_inline)) {
      auto top = read(maxima + from), sum = read(sums + from);
      unroll<Columns - 1>(EACH(c) {
        top = larger<fast>(top, read(maxima + from + (c + 1) * C));
        sum += read(sums + from + (c + 1) * C);
      });
      if (max) write(max + to, top);
      if (avg) write(avg + to, sum * scale);
    });
  }

  template <bool fast>
  FASTDARTS_INLINE void run() const {
    const int64_t C = shape.channels, length = shape.width * C;
    for (int64_t y = 0; y < shape.rows; ++y) {
      const int64_t top = y * shape.stride - 1 < 0 ? 0 : y * shape.stride - 1;
      const int64_t bottom = y * shape.stride + 2 < shape.height ? y * shape.stride + 2 : shape.height;
      const int64_t rows = bottom - top;
      const M* a = x + top * length;
      rows == 3 ? down<3, fast>(a, length) : rows == 2 ? down<2, fast>(a, length) : down<1, fast>(a, length);
      shape.windows([&](int64_t o, int64_t run, int64_t from, int64_t n) __attribute__((always_inline)) {
        const int64_t to = (y * shape.columns + o) * C;
        const T scale = T(1) / T(n * rows);
        n == 3   ? across<3, fast>(from * C, to, run * C, scale)
        : n == 2 ? across<2, fast>(from * C, to, run * C, scale)
                 : across<1, fast>(from * C, to, run * C, scale);
      });
    }
  }

  FASTDARTS_INLINE void operator()() const {
    const int64_t size = shape.height * shape.width * shape.channels;
    V totals[4] = {};  // NaN if an element is, or if infinities of both signs meet; then the slow way is right as well
    int64_t i = 0;
    for (; i + 4 * B <= size; i += 4 * B) unroll<4>(EACH(j) { totals[j] += Map<M, B>::read(x + i + j * B); });
    T sum = 0;
    for (; i < size; ++i) sum += value(x[i]);
    for (int j = 0; j < B; ++j) sum += totals[0][j] + totals[1][j] + totals[2][j] + totals[3][j];
    sum != sum ? run<false>() : run<true>();
  }
};

// Notes where in its window each maximum lies, the first in reading order. With `keep`: takes what lies at the noted
// place instead.
template <typename M, bool keep>
struct MaxPlaces {
  PoolShape shape;
  const M* x;
  M* max;
  uint8_t* places;  // [rows, columns, channels]: the row of the window times 3 plus its column

  FASTDARTS_INLINE void operator()() const {
    const int64_t C = shape.channels;
    for (int64_t y = 0; y < shape.rows; ++y) {
      for (int ky = 2; ky >= 0; --ky) {  // the first is written last
        const int64_t iy = y * shape.stride - 1 + ky;
        if (iy < 0 || iy >= shape.height) continue;
        for (int kx = 2; kx >= 0; --kx) {
          shape.columns_of(kx, [&](int64_t o, int64_t from, int64_t run) __attribute__((always_inline)) {
            const M* p = x + (iy * shape.width + from) * C;
            M* m = max + (y * shape.columns + o) * C;
            uint8_t* k = places + (y * shape.columns + o) * C;
            const uint8_t place = static_cast<uint8_t>(3 * ky + kx);
#pragma omp simd
            for (int64_t i = 0; i < run * C; ++i) {
              if constexpr (keep && kHalf<M>) {
                m[i].bits = k[i] == place ? p[i].bits : m[i].bits;
              } else if constexpr (keep) {
                m[i] = k[i] == place ? p[i] : m[i];
              } else {
                k[i] = value(p[i]) < value(m[i]) ? k[i] : place;
              }
            }
          });
        }
      }
    }
  }
};

// dx += the gradients of both kinds of pooling. If `places` is given, the gradient of a maximum goes to the noted
// place. Else it goes to the first pixel of the window, in reading order, that has the maximum. Vectors are written
// out: of a plain loop GCC made branches on AVX2, 6.5 times slower.
template <typename M, int B>
struct PoolingBackward {
  using T = Wide<M>;
  PoolShape shape;
  const M *x, *max;  // max: the maxima; null, like dmax and davg, where not wanted
  T *dmax, *davg;    // [rows, columns, channels], overwritten
  T* dx;
  const uint8_t* places;  // of the maxima, as in MaxPlaces; or null

  FASTDARTS_INLINE void add_at_place(const uint8_t* k, uint8_t place, const T* d, T* to, int64_t size) const {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) to[i] += k[i] == place ? d[i] : T(0);
  }

  // With `average`, u is the gradient of the average. A gradient that found its maximum becomes 0.
  template <bool average>
  static FASTDARTS_INLINE void add_at_maximum(const M* p, const M* m, T* d, const T* u, T* to, int64_t size) {
    Elements<B>::each(size, [&](const auto& read, const auto& write) __attribute__((always_inline)) {
      const auto pixel = read(p), maximum = read(m), gradient = read(d), so_far = read(to);
      const decltype(gradient) zero{};
      const auto here = pixel < maximum ? zero : gradient;  // NaN is no less than anything
      write(d, pixel < maximum ? gradient : zero);
      if constexpr (average) {
        write(to, so_far + (here + read(u)));
      } else {
        write(to, so_far + here);
      }
    });
  }
  static FASTDARTS_INLINE void add(const T* u, T* to, int64_t size) {
    Elements<B>::each(size, [&](const auto& read, const auto& write)
                                __attribute__((always_inline)) { write(to, read(to) + read(u)); });
  }

  FASTDARTS_INLINE void operator()() const {
    const int64_t C = shape.channels, S = shape.stride;
    for (int64_t y = 0; y < shape.rows; ++y) {
      const int64_t top = y * S - 1 < 0 ? 0 : y * S - 1, bottom = y * S + 2 < shape.height ? y * S + 2 : shape.height;
      const int64_t row = y * shape.columns * C;
      if (davg) {
        shape.windows([&](int64_t o, int64_t run, int64_t, int64_t n) __attribute__((always_inline)) {
          const T scale = T(1) / T(n * (bottom - top));
          T* u = davg + row + o * C;
#pragma omp simd
          for (int64_t i = 0; i < run * C; ++i) u[i] *= scale;
        });
      }
      const auto at = [&](auto* p, int64_t o) { return p ? p + row + o * C : nullptr; };
      for (int64_t iy = top; iy < bottom; ++iy) {
        for (int64_t kx = 0; kx < 3; ++kx) {
          shape.columns_of(kx, [&](int64_t o, int64_t from, int64_t run) __attribute__((always_inline)) {
            const int64_t pixel = (iy * shape.width + from) * C;
            const M *p = x + pixel, *m = at(max, o);
            const T* u = at(davg, o);
            T *d = at(dmax, o), *to = dx + pixel;
            const int64_t size = run * C;
            if (m && !places) {
              u ? add_at_maximum<true>(p, m, d, u, to, size) : add_at_maximum<false>(p, m, d, u, to, size);
            } else if (u) {
              add(u, to, size);
            }
            const uint8_t place = static_cast<uint8_t>(3 * (iy - y * S + 1) + kx);
            if (places && d) add_at_place(at(places, o), place, d, to, size);
          });
        }
      }
    }
  }
};

}  // namespace fastdarts
