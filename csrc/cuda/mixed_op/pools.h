// Both 3×3 pools of the state on the device. A thread goes down a column of output pixels: the maxima and sums of
// three neighbours in a row enter up to three windows, out of registers.
//
// Pixels outside of the map take no part. They are read as their nearest pixel inside, which changes no maximum, and
// are left out of the sums.
#pragma once

#include <algorithm>

#include "cuda/mixed_op/noise.h"
#include "cuda/mixed_op/strips.h"

namespace fastdarts::cuda {

// PyTorch takes the first of equal maxima, and the last NaN.
__device__ inline bool better(float x, float best) { return x > best || x != x; }

struct State {
  const void* x;
  int height, width, stride;
  const uint8_t* places;  // of the maxima if they are kept
};

// One over the pixels that one to three rows or columns of a window have.
__device__ inline float share_of(int extent) { return extent == 3 ? 1.0f / 3 : extent == 2 ? 0.5f : 1.0f; }

// The windows of a unit's column.
template <typename T, bool vector>
struct Column {
  const T* pixel;   // in the middle of the first window
  int left, right;  // to its neighbours, in elements; 0 where there is none
  int y, height;    // its row of the state
  int pitch;        // elements of a row
  int count;

  __device__ Column(const State& state, const Strips& strips, const Unit& unit, const Lane& own) {
    const int x = unit.x * state.stride, channels = strips.channels;
    y = unit.y * state.stride;
    height = state.height;
    pitch = state.width * channels;
    pixel = static_cast<const T*>(state.x) + (int64_t{unit.image} * height + y) * pitch + x * channels + own.c;
    left = x > 0 ? -channels : 0;
    right = x + 1 < state.width ? channels : 0;
    count = vector ? 4 : own.count;
  }

  // One over the number of pixels in the window about row y of the state.
  __device__ float share_at(int row) const {
    return share_of(1 + (left != 0) + (right != 0)) * share_of(1 + (row > 0) + (row + 1 < height));
  }
};

// Three neighbours in a row of the state.
template <bool places>
struct Three {
  Four best, sum;
};

template <>
struct Three<true> {
  Four best, sum;
  int place[4];  // 0 to 2: where the maximum is
};

template <bool places>
__device__ Four average_of(const Three<places>& window, float share) {
  Four average;
#pragma unroll
  for (int i = 0; i < 4; ++i) average[i] = window.sum[i] * share;
  return average;
}

template <bool places, typename T, bool vector>
__device__ Three<places> read_three(const Column<T, vector>& column, const T* at) {
  const Four left = load4(at + column.left, column.count, vector);
  const Four middle = load4(at, column.count, vector);
  const Four right = load4(at + column.right, column.count, vector);
  Three<places> three;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float sum = middle[i];
    if (column.left) sum += left[i];
    if (column.right) sum += right[i];
    three.sum[i] = sum;
    if constexpr (places) {
      float best = left[i];
      int place = column.left ? 0 : 1;
      if (better(middle[i], best)) best = middle[i], place = 1;
      if (column.right && better(right[i], best)) best = right[i], place = 2;
      three.best[i] = best;
      three.place[i] = place;
    } else {
      three.best[i] = maximum(maximum(left[i], middle[i]), right[i]);
    }
  }
  return three;
}

// Adds the next row of a window; `row` is 1 or 2. Nothing is above the map: its first row comes first then.
template <bool places>
__device__ inline void add_three(Three<places>& window, const Three<places>& three, int row, bool inside, bool first) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (inside) window.sum[i] += three.sum[i];
    if constexpr (places) {
      if (inside && (first || better(three.best[i], window.best[i]))) {
        window.best[i] = three.best[i];
        window.place[i] = three.place[i] + 3 * row;
      }
    } else {
      window.best[i] = maximum(window.best[i], three.best[i]);
    }
  }
}

// take(r, window, share) for the pixels of a unit. A loop: unrolled, it spills.
template <int stride, bool places, typename T, bool vector, typename Take>
__device__ void pool_column(const Column<T, vector>& column, int rows, const Take& take) {
  const T* at = column.pixel;
  Three<places> above = read_three<places>(column, column.y > 0 ? at - column.pitch : at);
  if (column.y == 0) above.sum = splat(0.0f);
  Three<places> middle;
  if (stride == 1) middle = read_three<places>(column, at);
  int y = column.y;
#pragma unroll 1
  for (int r = 0; r < rows; ++r) {
    if (stride == 2) middle = read_three<places>(column, at);
    add_three(above, middle, 1, true, y == 0);
    const bool inside = y + 1 < column.height;
    if (inside) at += column.pitch;
    const Three<places> below = read_three<places>(column, at);
    add_three(above, below, 2, inside, false);
    take(r, above, column.share_at(y));
    if (stride == 1) {
      above = middle;
      middle = below;
    } else {
      above = below;
      if (inside) at += column.pitch;
    }
    y += stride;
  }
}

template <bool places, typename T, bool vector, typename Take>
__device__ void pool(const State& state, const Column<T, vector>& column, int rows, const Take& take) {
  if (state.stride == 1) {
    pool_column<1, places>(column, rows, take);
  } else {
    pool_column<2, places>(column, rows, take);
  }
}

// The maxima of window r from where they are kept, which is `place`.
template <typename T>
__device__ Four kept_maxima(const State& state, const Strips& strips, const Unit& unit, const Lane& own, int r,
                            int (&place)[4]) {
  const uint8_t* kept = state.places + unit.place(strips, own.c) + int64_t{r} * strips.width * strips.channels;
  Four best = splat(0.0f);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    place[i] = i < own.count ? kept[i] : 4;
    const int y = (unit.y + r) * state.stride + place[i] / 3 - 1, x = unit.x * state.stride + place[i] % 3 - 1;
    const int64_t pixel = (int64_t{unit.image} * state.height + y) * state.width + x;
    if (i < own.count) best[i] = to_float(static_cast<const T*>(state.x)[pixel * strips.channels + own.c + i]);
  }
  return best;
}

// What a thread computes for its unit, for rows that have no map: planes of kRows times four channels in shared memory.
// In registers, they would halve the threads of a multiprocessor. Nobody else reads them.
struct Planes {
  Four* own;

  __device__ explicit Planes(Four* all) : own(all + threadIdx.x) {}
  __device__ Four& at(int plane, int r) const { return own[(plane * kRows + r) * kStripThreads]; }
};

constexpr int kMaxPlane = 0, kAvgPlane = 1, kNoisePlane = 2;

inline size_t plane_fours(int planes) { return size_t(planes) * kRows * kStripThreads; }

template <typename T, bool vector>
__device__ void pool_into(const Planes& planes, const State& state, const Strips& strips, const Unit& unit,
                          const Lane& own) {
  const Column<T, vector> column(state, strips, unit, own);
  pool<false>(state, column, unit.rows, [&](int r, const Three<false>& window, float share) {
    planes.at(kMaxPlane, r) = window.best;
    planes.at(kAvgPlane, r) = average_of(window, share);
  });
  if (state.places) {
#pragma unroll 1
    for (int r = 0; r < unit.rows; ++r) {
      int place[4];
      planes.at(kMaxPlane, r) = kept_maxima<T>(state, strips, unit, own, r, place);
    }
  }
}

// Noise of the pixels of a unit whose first is at `place`, or what is left of a `dropped` map. Not unrolled: it is
// long.
template <bool vector, typename T>
__device__ void draw_into(const Planes& planes, int plane, const int64_t* seed, const T* dropped, int64_t place,
                          int pitch, int rows, int count) {
#pragma unroll 1
  for (int r = 0; r < rows; ++r, place += pitch) {
    Four drawn = at_places(*seed, place, vector, [&](const Words& words) {
      return dropped ? factors_of_words(words, seed[1]) : normal_of_words(words);
    });
    if (dropped) {
      const Four map = load4(dropped + place, count, vector);
#pragma unroll
      for (int i = 0; i < 4; ++i) drawn[i] *= map[i];
    }
    planes.at(plane, r) = drawn;
  }
}

inline bool is_pool(FinalKind kind) { return kind == FinalKind::kMax || kind == FinalKind::kAvg; }

inline State state_of(const Call& call, const Operands& operands) {
  return {operands.x, call.sizes.height, call.sizes.width, call.sizes.stride, operands.kept.places};
}

// Where a row without a map is.
inline int plane_of(FinalKind kind) {
  return kind == FinalKind::kMax ? kMaxPlane : kind == FinalKind::kAvg ? kAvgPlane : kNoisePlane;
}

// The map of a row that has one. A skip connection has stride 1: the state is its raw output.
inline const void* map_of(const Operands& operands, const Final& final) {
  if (final.kind == FinalKind::kSkip) return operands.x;
  return final.kind == FinalKind::kConv ? operands.raw[final.source] : nullptr;
}

}  // namespace fastdarts::cuda
