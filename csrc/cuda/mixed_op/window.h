// The input pixels under a tile in shared memory, [images, rows, columns, 16 channels], normalised and rectified once.
// Those of half precision stay so: a normalised value is rounded, as by a BatchNorm that hands it on. They lie as
// diagonal.h has them, [images, rows, 2 halves, columns, 8 channels].
// Columns are padded to eights: a warp takes a row, eight pixels at a time, and compares nothing with its end.
#pragma once

#include "cuda/mixed_op/diagonal.h"
#include "cuda/mixed_op/tile.h"

namespace fastdarts::cuda {

struct Window {
  static constexpr int extent(int pixels, int stride, int kernel, int dilation) {
    return (pixels - 1) * stride + (kernel - 1) * dilation + 1;
  }

  int rows, columns;  // of an image
  int before;         // it begins so many pixels above and left of the tile
  int stride;

  Window() = default;
  Window(const Tiling& tiling, int stride, int kernel, int dilation, int shift)
      : rows(extent(kRows * tiling.down, stride, kernel, dilation)),
        columns((extent(8 * tiling.across, stride, kernel, dilation) + 7) / 8 * 8),
        before(kernel / 2 * dilation - shift),
        stride(stride) {
    if (columns > kAtOnce) columns = (columns + 15) / 16 * 16;
  }
  Window(int rows, int columns, int before) : rows(rows), columns((columns + 7) / 8 * 8), before(before), stride(1) {
    if (this->columns > kAtOnce) this->columns = (this->columns + 15) / 16 * 16;
  }

  static constexpr int kAtOnce = 24;  // columns that are read at once; wider windows are read as two halves

  __device__ int halves() const { return columns > kAtOnce ? 2 : 1; }
  size_t bytes(const Tiling& tiling, size_t itemsize) const {
    return size_t(tiling.images) * rows * columns * kChannels * itemsize;
  }
};

// Four channels of a pixel, or eight of half precision.
template <typename T>
using Cell = std::conditional_t<sizeof(T) == 4, Four, uint4>;
template <typename T>
constexpr int kCells = sizeof(T) == 4 ? 4 : 2;  // that a pixel takes

// Where the windows begin: of float those of a thread and its channels, of half precision those of its warp. `row`: of
// the thread's first pixel in its tile.
template <typename T>
__device__ const Cell<T>* first_pixel(const Cell<T>* tile, const Window& window, const Place& place, int row) {
  tile += (place.warp_image * window.rows + row * window.stride) * (kCells<T> * window.columns);
  return tile +
         (sizeof(T) == 4 ? place.column() * window.stride * 4 + place.quad : 8 * place.warp_column * window.stride);
}

// The taps that a thread reads, among those of its channels.
template <typename T>
__device__ const Taps<T>* own_taps(const Taps<T>* taps, const Place& place) {
  return taps + (sizeof(T) == 4 ? place.quad : 4 * place.group + place.quad);
}

// Depthwise weights [C, 1, k, k] of channels [c, c + 16) as windows take them. Diagonals have been cleared before.
// `flipped`: the last tap first.
template <typename T, bool flipped = false>
__device__ void load_weights(Taps<T>* to, const T* weights, int kernel, int channels, int c) {
  const int size = kernel * kernel;
  if constexpr (sizeof(T) == 2) {
    load_diagonals(to, pairs_of_taps(kernel), weights, size, channels, c, InColumnPairs<flipped>{kernel});
  } else if constexpr (flipped) {
    load_flipped_taps(reinterpret_cast<float*>(to), weights, size, channels, c);
  } else {
    load_taps(reinterpret_cast<float*>(to), weights, size, channels, c);
  }
}
template <typename T>
size_t taps_bytes(int kernel) {
  return sizeof(T) == 4 ? tap_bytes(kernel) : diagonal_bytes(pairs_of_taps(kernel));
}

// Which rows a warp fills: those of an image, shared by `warps` warps.
struct Share {
  int image, warp, warps;
};
__device__ inline Share share_of(const Place& place, const Tiling& tiling) {
  return {place.warp_image, place.warp_row * tiling.across + place.warp_column, tiling.across * tiling.down};
}

// What is done to four channels of a map before they lie in a window: a ReLU with this floor, or nothing, or normalised
// before a ReLU.
template <typename T>
struct Rectify {
  static constexpr bool keeps_zero = true;
  float floor;
  __device__ Held<T> operator()(const Held<T>& z) const { return rectified<T>(z, floor); }
};
template <typename T>
struct Copy {
  static constexpr bool keeps_zero = true;
  __device__ Held<T> operator()(const Held<T>& z) const { return z; }
};
template <typename T>
struct Normalise {
  static constexpr bool keeps_zero = false;
  Normal normal;
  float floor;
  __device__ Held<T> operator()(const Held<T>& z) const { return normalised<T>(z, normal, floor); }
};

// Columns [8 · first, 8 · (first + steps)) of the rows.
template <bool vector, int ahead, int steps, typename T, typename Transform>
__device__ void fill_rows(Cell<T>* to, const Window& window, int first, const T* map, const Place& place,
                          const Share& share, int images, int height, int width, int channels, int c,
                          const Transform& transform) {
  const int own = c + 4 * place.quad, count = vector ? 4 : min(max(channels - own, 0), 4);
  const int warps = share.warps, warp = share.warp;
  const int n = place.image + share.image, top = place.y * window.stride - window.before;
  const int left = place.x * window.stride - window.before + 8 * first + place.group;
  unsigned inside = 0;  // the pixels of this thread in a row that are in the map, a bit each
#pragma unroll
  for (int j = 0; j < steps; ++j) {
    inside |= static_cast<unsigned>(left + 8 * j) < static_cast<unsigned>(width) ? 1u << j : 0;
  }
  if (own >= channels || n >= images) inside = 0;
  const int pitch = width * channels;
  const unsigned step = 8 * channels;
  const T* from = map + (int64_t{n} * height + top + warp) * pitch + left * channels + own;
  // a thread writes its four channels as one Four, or as a word of each half
  constexpr int kHalves = sizeof(T) == 4 ? 1 : 2;
  using Word = std::conditional_t<sizeof(T) == 4, Four, uint32_t>;
  Word* at = reinterpret_cast<Word*>(to) +
             ((share.image * window.rows + warp) * kHalves * window.columns + 8 * first + place.group) * 4 + place.quad;
  for (int row = warp; row < window.rows; row += warps) {
    const bool there = static_cast<unsigned>(top + row) < static_cast<unsigned>(height);
    const unsigned here = there ? inside : 0;
#pragma unroll
    for (int begin = 0; begin < steps; begin += ahead) {
      Held<T> values[ahead];
#pragma unroll
      for (int j = begin; j < min(begin + ahead, steps); ++j) {
        values[j - begin] = {};
        if (here >> j & 1) values[j - begin] = load_held(from + uint64_t{step} * j, count, vector);
      }
#pragma unroll
      for (int j = begin; j < min(begin + ahead, steps); ++j) {
        const Held<T> value = transform(values[j - begin]);
        const Held<T> held = Transform::keeps_zero || here >> j & 1 ? value : Held<T>{};
        if constexpr (sizeof(T) == 4) {
          at[4 * 8 * j] = held;
        } else {
          at[4 * 8 * j] = held.v[0];
          at[4 * (8 * j + window.columns)] = held.v[1];
        }
      }
      if (ahead < steps) __syncwarp();  // what is loaded is used before more is loaded
    }
    from += int64_t{warps} * pitch;
    at += warps * kHalves * window.columns * 4;
  }
}

// Reads channels [c, c + 16) under a tile: transform(four channels) inside of the map, 0 outside of it. Every warp
// takes rows of its image, and starts `ahead` loads before it uses the first. Nobody may read `to` before the next
// barrier.
template <bool vector, int ahead = 3, typename T, typename Transform>
__device__ void fill(Cell<T>* to, const Window& window, const T* map, const Place& place, const Share& share,
                     int images, int height, int width, int channels, int c, const Transform& transform) {
  const int halves = window.halves(), steps = window.columns >> (2 + halves);
  for (int half = 0; half < halves; ++half) {
    const auto rows = [&](auto count) {
      fill_rows<vector, ahead, decltype(count)::value>(to, window, half * steps, map, place, share, images, height,
                                                       width, channels, c, transform);
    };
    if (steps == 3) {
      rows(std::integral_constant<int, 3>());
    } else if (steps == 2) {
      rows(std::integral_constant<int, 2>());
    } else {
      rows(std::integral_constant<int, 1>());
    }
  }
}

}  // namespace fastdarts::cuda
