// Sums over the maps of an edge, and over the pixels of a map: one pass over a channels-last sample, taken as one flat
// array. Values per channel come as tables of `width` elements, several whole pixels long. So the loops know nothing of
// channels, and any number of channels runs at full vector width.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/maps.h"

namespace fastdarts {

template <typename T>
constexpr int64_t kAhead = 2048 / sizeof(T);  // elements that are prefetched before they are read

template <typename M>
struct Stream {  // contributes scale · (data − mean)
  const M* data;
  const Wide<M>*scale, *mean;
};

// out = start + Σ_k scale_k (data_k − mean_k). The mean is taken off first: safe for |mean| >> std.
template <typename M, int B, typename Out = M>
struct WeightedSum {
  using T = Wide<M>;
  FASTDARTS_VECTORS
  const Stream<M>* streams;
  int64_t count;
  const T* start;  // a table
  int64_t width, size;
  Out* out;

  template <int N>
  FASTDARTS_INLINE void add(const Stream<M>* streams, int64_t at, int64_t length, const T* from) const {
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

  // Of maps that are stored in another type: all streams at once, so that the sum is rounded once.
  template <int N>  // vectors at a time: a line of a stream
  FASTDARTS_INLINE int64_t all(int64_t at, int64_t j, int64_t length) const {
    for (; j + N * B <= length; j += N * B) {
      V sum[N];
      unroll<N>(EACH(i) { sum[i] = loose(start + j + i * B); });
      for (int64_t k = 0; k < count; ++k) {
        const Stream<M> s = streams[k];
        prefetch<1>(s.data + at + j + kAhead<M>);
        unroll<N>(EACH(i) {
          const int64_t here = j + i * B;
          sum[i] += loose(s.scale + here) * (Map<M, B>::read(s.data + at + here) - loose(s.mean + here));
        });
      }
      unroll<N>(EACH(i) { Map<Out, B>::write(out + at + j + i * B, sum[i]); });
    }
    return j;
  }

  FASTDARTS_INLINE void operator()() const {
    for (int64_t at = 0; at < size; at += width) {
      const int64_t length = width < size - at ? width : size - at;
      if constexpr (kHalf<M>) {
        int64_t j = all<1>(at, all<2>(at, 0, length), length);
        for (; j < length; ++j) {
          T sum = start[j];
          for (int64_t k = 0; k < count; ++k) {
            sum += streams[k].scale[j] * (value(streams[k].data[at + j]) - streams[k].mean[j]);
          }
          out[at + j] = stored<Out>(sum);
        }
      } else {
        const T* from = start;
        int64_t k = 0;
        for (; k + 4 <= count; k += 4, from = out + at) add<4>(streams + k, at, length, from);
        for (; k + 2 <= count; k += 2, from = out + at) add<2>(streams + k, at, length, from);
        for (; k < count; ++k, from = out + at) add<1>(streams + k, at, length, from);
      }
    }
  }
};

// sums[0] += Σ grad, sums[1 + k] += Σ grad (data_k − mean_k), per channel. Chains of float32 are a few elements long.
template <typename M, int B>
struct GradientSums {
  using T = Wide<M>;
  FASTDARTS_VECTORS
  const M* grad;
  const Stream<M>* streams;
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
  FASTDARTS_INLINE void add(const Stream<M>* streams, int64_t first, int64_t last) const {
    constexpr int kTables = N ? N : 1;
    for (int64_t j = 0; j < kTables * width; ++j) table[j] = T(0);
    for (int64_t at = first; at < last; at += width) {
      const int64_t length = width < last - at ? width : last - at;
      const M *g = grad + at, *p[kTables];
      const T* m[kTables];
      unroll<N>(EACH(k) { p[k] = streams[k].data + at, m[k] = streams[k].mean; });
      int64_t j = 0;
      for (; j + B <= length; j += B) {
        const V v = Map<M, B>::read(g + j);
        if constexpr (N == 0) {
          prefetch<1>(g + j + kAhead<M>);
          loose(table + j) += v;
        }
        unroll<N>(EACH(k) {
          prefetch<1>(p[k] + j + kAhead<M>);
          loose(table + k * width + j) += v * (Map<M, B>::read(p[k] + j) - loose(m[k] + j));
        });
      }
      for (; j < length; ++j) {
        if constexpr (N == 0) table[j] += value(g[j]);
        unroll<N>(EACH(k) { table[k * width + j] += value(g[j]) * (value(p[k][j]) - m[k][j]); });
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
template <typename M>
struct FlatMoments {
  const M* data;
  const Wide<M>* shift;  // a table
  int64_t width, size;
  double *first, *second;  // tables

  FASTDARTS_INLINE void operator()() const {
    for (int64_t at = 0; at < size; at += width) {
      const int64_t length = width < size - at ? width : size - at;
      const M* p = data + at;
#pragma omp simd
      for (int64_t j = 0; j < length; ++j) {
        const double d = value(p[j]) - shift[j];
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
