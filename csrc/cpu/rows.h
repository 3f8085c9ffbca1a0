// Passes over a channels-last sample taken as one flat array. Values per channel come as tables of `width` elements,
// several whole pixels long, so that the loops do not know channels and any number of them runs at full width.
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
template <typename T>
struct WeightedSum {
  const Stream<T>* streams;
  int64_t count;
  const T* start;  // a table
  int64_t width, size;
  T* out;

  template <int N>
  FASTDARTS_INLINE void add(const Stream<T>* s, int64_t at, int64_t length, const T* from) const {
    T* o = out + at;
    for (int64_t j = 0; j < length; j += 64 / sizeof(T)) {
      for (int k = 0; k < N; ++k) prefetch<1>(s[k].data + at + kAhead<T> + j);
      prefetch<1, true>(o + kAhead<T> + j);
    }
#pragma omp simd
    for (int64_t j = 0; j < length; ++j) {
      T sum = from[j];
      for (int k = 0; k < N; ++k) sum += s[k].scale[j] * (s[k].data[at + j] - s[k].mean[j]);
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
template <typename T>
struct GradientSums {
  const T* grad;
  const Stream<T>* streams;
  int64_t count, channels, width, size;
  T* table;      // of `width`, scratch
  double* sums;  // [1 + count, channels]

  FASTDARTS_INLINE void fold(double* sum) const {
    for (int64_t j = 0; j < width; j += channels) {
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) sum[c] += table[j + c];
    }
  }

  FASTDARTS_INLINE void operator()() const {
    const int64_t step = 16 * width;
    for (int64_t first = 0; first < size; first += step) {
      const int64_t last = first + step < size ? first + step : size;
      for (int64_t k = -1; k < count; ++k) {
        for (int64_t j = 0; j < width; ++j) table[j] = T(0);
        for (int64_t at = first; at < last; at += width) {
          const int64_t length = width < last - at ? width : last - at;
          const T* g = grad + at;
          const T* next = (k < 0 ? g : streams[k].data + at) + kAhead<T>;
          for (int64_t j = 0; j < length; j += 64 / sizeof(T)) prefetch<1>(next + j);
          if (k < 0) {
#pragma omp simd
            for (int64_t j = 0; j < length; ++j) table[j] += g[j];
          } else {
            const T *z = streams[k].data + at, *m = streams[k].mean;
#pragma omp simd
            for (int64_t j = 0; j < length; ++j) table[j] += g[j] * (z[j] - m[j]);
          }
        }
        fold(sums + (1 + k) * channels);
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
