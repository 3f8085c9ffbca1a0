// Sums over the maps of an edge, and over the pixels of a map: one pass over a channels-last sample, taken as one flat
// array. Values per channel come as tables of `width` elements, several whole pixels long. So the loops know nothing of
// channels, and any number of channels runs at full vector width.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/vectors.h"

namespace fastdarts {

template <typename T>
constexpr int64_t kAhead = 2048 / sizeof(T);  // elements that are prefetched before they are read

template <typename T>
struct Stream {  // contributes scale · (data − mean)
  const T *data, *scale, *mean;
};

// out = start + Σ_k scale_k (data_k − mean_k). The mean is taken off first: safe for |mean| >> std.
template <typename T, int B>
struct WeightedSum {
  FASTDARTS_VECTORS
  const Stream<T>* streams;
  int64_t count;
  const T* start;  // a table
  int64_t width, size;
  T* out;

  template <int N>
  FASTDARTS_INLINE void add(const Stream<T>* streams, int64_t at, int64_t length, const T* from) const {
    T* o = out + at;
    const T *p[N], *s[N], *m[N];
    unroll<N>(EACH(k) { p[k] = streams[k].data + at, s[k] = streams[k].scale, m[k] = streams[k].mean; });
    int64_t j = 0;
    for (; j + B <= length; j += B) {
      V sum = loose(from + j);
      unroll<N>(EACH(k) {
        prefetch<1>(p[k] + j + kAhead<T>);
        sum += loose(s[k] + j) * (loose(p[k] + j) - loose(m[k] + j));
      });
      loose(o + j) = sum;
    }
    for (; j < length; ++j) {
      T sum = from[j];
      unroll<N>(EACH(k) { sum += s[k][j] * (p[k][j] - m[k][j]); });
      o[j] = sum;
    }
  }

  FASTDARTS_INLINE void operator()() const {
    for (int64_t at = 0; at < size; at += width) {
      const int64_t length = width < size - at ? width : size - at;
      const T* from = start;
      int64_t k = 0;
      for (; k + 4 <= count; k += 4, from = out + at) add<4>(streams + k, at, length, from);
      for (; k + 2 <= count; k += 2, from = out + at) add<2>(streams + k, at, length, from);
      for (; k < count; ++k, from = out + at) add<1>(streams + k, at, length, from);
    }
  }
};

// sums[0] += Σ grad, sums[1 + k] += Σ grad (data_k − mean_k), per channel. Chains of float32 are a few elements long.
template <typename T, int B>
struct GradientSums {
  FASTDARTS_VECTORS
  const T* grad;
  const Stream<T>* streams;
  int64_t count, channels, width, size;
  T* table;      // of two times `width`, scratch
  double* sums;  // [1 + count, channels]

  FASTDARTS_INLINE void fold(const T* from, double* sum) const {
    for (int64_t j = 0; j < width; j += channels) {
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) sum[c] += from[j + c];
    }
  }

  template <int N>  // streams at a time; none: the gradient itself
  FASTDARTS_INLINE void add(const Stream<T>* streams, int64_t first, int64_t last) const {
    constexpr int kTables = N ? N : 1;
    for (int64_t j = 0; j < kTables * width; ++j) table[j] = T(0);
    for (int64_t at = first; at < last; at += width) {
      const int64_t length = width < last - at ? width : last - at;
      const T *g = grad + at, *p[kTables], *m[kTables];
      unroll<N>(EACH(k) { p[k] = streams[k].data + at, m[k] = streams[k].mean; });
      int64_t j = 0;
      for (; j + B <= length; j += B) {
        const V v = loose(g + j);
        if constexpr (N == 0) {
          prefetch<1>(g + j + kAhead<T>);
          loose(table + j) += v;
        }
        unroll<N>(EACH(k) {
          prefetch<1>(p[k] + j + kAhead<T>);
          loose(table + k * width + j) += v * (loose(p[k] + j) - loose(m[k] + j));
        });
      }
      for (; j < length; ++j) {
        if constexpr (N == 0) table[j] += g[j];
        unroll<N>(EACH(k) { table[k * width + j] += g[j] * (p[k][j] - m[k][j]); });
      }
    }
  }

  FASTDARTS_INLINE void operator()() const {
    const int64_t step = 16 * width;
    for (int64_t first = 0; first < size; first += step) {
      const int64_t last = first + step < size ? first + step : size;
      add<0>(nullptr, first, last);
      fold(table, sums);
      int64_t k = 0;
      for (; k + 2 <= count; k += 2) {
        add<2>(streams + k, first, last);
        fold(table, sums + (1 + k) * channels);
        fold(table + width, sums + (2 + k) * channels);
      }
      if (k < count) {
        add<1>(streams + k, first, last);
        fold(table, sums + (1 + k) * channels);
      }
    }
  }
};

// first += Σ d, second += Σ d² per table entry, d = data − shift.
template <typename T>
struct FlatMoments {
  const T* data;
  const T* shift;  // a table
  int64_t width, size;
  double *first, *second;  // tables

  FASTDARTS_INLINE void operator()() const {
    for (int64_t at = 0; at < size; at += width) {
      const int64_t length = width < size - at ? width : size - at;
      const T* p = data + at;
#pragma omp simd
      for (int64_t j = 0; j < length; ++j) {
        const double d = p[j] - shift[j];
        first[j] += d;
        second[j] += d * d;
      }
    }
  }
};

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

}  // namespace fastdarts
