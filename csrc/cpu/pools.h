// Max and average pooling over 3×3 windows with padding 1 (the average counts real pixels only) of one channels-last
// sample, both ways. Rows are flat arrays: at stride 1 a step of one pixel is a step of `channels` elements.
#pragma once

#include <cstdint>

#include "isa.h"

namespace fastdarts {

struct PoolShape {
  int64_t height, width, channels, stride, rows, columns;  // rows and columns of the output

  // body(first output column, columns, first input column, input columns in the window), windows cut at the edges.
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
};

// The larger one. NaN wins, as in PyTorch, at four times the price; `fast` is for numbers.
template <bool fast, typename T>
FASTDARTS_INLINE T larger(T a, T b) {
  return fast ? (b > a ? b : a) : ((b > a) | (b != b) ? b : a);
}

template <typename T>
struct Pools {
  PoolShape shape;
  const T* x;
  T *max, *avg;   // [rows, columns, channels]; null where not wanted
  T *tops, *all;  // scratch of one input row each

  // Maxima and sums of `Rows` rows from a on; whether there is a NaN among them.
  template <int Rows, bool fast>
  FASTDARTS_INLINE bool down(const T* a, int64_t length) const {
    const T *b = a + (Rows > 1 ? length : 0), *c = b + (Rows > 2 ? length : 0);
    int bad = 0;
#pragma omp simd reduction(| : bad)
    for (int64_t i = 0; i < length; ++i) {
      T top = a[i], sum = a[i];
      if constexpr (Rows > 1) top = larger<fast>(top, b[i]), sum += b[i];
      if constexpr (Rows > 2) top = larger<fast>(top, c[i]), sum += c[i];
      tops[i] = top;
      all[i] = sum;
      bad |= sum != sum;
    }
    return bad;
  }

  template <bool fast>
  FASTDARTS_INLINE bool down(int64_t rows, const T* a, int64_t length) const {
    if (rows == 3) return down<3, fast>(a, length);
    return rows == 2 ? down<2, fast>(a, length) : down<1, fast>(a, length);
  }

  template <bool fast>
  FASTDARTS_INLINE void across(int64_t y, int64_t rows) const {
    const int64_t C = shape.channels;
    shape.windows([&](int64_t o, int64_t run, int64_t from, int64_t n) __attribute__((always_inline)) {
      const int64_t to = (y * shape.columns + o) * C, size = run * C;
      const T *p = tops + from * C, *s = all + from * C;
      const T scale = T(1) / T(n * rows);
      if (max) {
        T* out = max + to;
        if (n == 3) {
#pragma omp simd
          for (int64_t i = 0; i < size; ++i) out[i] = larger<fast>(larger<fast>(p[i], p[i + C]), p[i + 2 * C]);
        } else {
          for (int64_t i = 0; i < size; ++i) out[i] = n == 2 ? larger<fast>(p[i], p[i + C]) : p[i];
        }
      }
      if (avg) {
        T* out = avg + to;
        if (n == 3) {
#pragma omp simd
          for (int64_t i = 0; i < size; ++i) out[i] = (s[i] + s[i + C] + s[i + 2 * C]) * scale;
        } else {
          for (int64_t i = 0; i < size; ++i) out[i] = (n == 2 ? s[i] + s[i + C] : s[i]) * scale;
        }
      }
    });
  }

  FASTDARTS_INLINE void operator()() const {
    const int64_t length = shape.width * shape.channels;
    for (int64_t y = 0; y < shape.rows; ++y) {
      const int64_t top = y * shape.stride - 1 < 0 ? 0 : y * shape.stride - 1;
      const int64_t bottom = y * shape.stride + 2 < shape.height ? y * shape.stride + 2 : shape.height;
      if (down<true>(bottom - top, x + top * length, length)) {
        down<false>(bottom - top, x + top * length, length);
        across<false>(y, bottom - top);
      } else {
        across<true>(y, bottom - top);
      }
    }
  }
};

// dx += the gradients of both pools. A maximum goes to the first pixel of its window, in reading order, that has it.
template <typename T>
struct PoolsBackward {
  PoolShape shape;
  const T *x, *max;  // max: the maxima; null, like dmax and davg, where not wanted
  T *dmax, *davg;    // [rows, columns, channels], overwritten
  T* dx;

  FASTDARTS_INLINE void pixels(const T* p, const T* m, T* d, const T* u, T* to, int64_t size) const {
    if (max && davg) {
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) {
        const bool here = !(p[i] < m[i]);
        to[i] += (here ? d[i] : T(0)) + u[i];
        d[i] = here ? T(0) : d[i];
      }
    } else if (max) {
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) {
        const bool here = !(p[i] < m[i]);
        to[i] += here ? d[i] : T(0);
        d[i] = here ? T(0) : d[i];
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) to[i] += u[i];
    }
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
      const auto at = [&](T* p, int64_t o) { return p ? p + row + o * C : nullptr; };
      for (int64_t iy = top; iy < bottom; ++iy) {
        for (int64_t kx = -1; kx <= 1; ++kx) {
          const int64_t first = kx < 0 ? 1 : 0;  // output columns whose window has this pixel
          const int64_t beyond = (shape.width - kx + S - 1) / S, last = beyond < shape.columns ? beyond : shape.columns;
          const int64_t run = S == 1 ? last - first : 1;
          for (int64_t o = first; o < last; o += run) {
            const int64_t from = (iy * shape.width + o * S + kx) * C;
            pixels(x + from, max ? max + row + o * C : nullptr, at(dmax, o), at(davg, o), dx + from, run * C);
          }
        }
      }
    }
  }
};

}  // namespace fastdarts
