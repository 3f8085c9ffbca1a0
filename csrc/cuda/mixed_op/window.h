// The input pixels under a tile in shared memory, [images, rows, columns, 16 channels], normalised and rectified once.
// Columns are padded to eights: a warp takes a row, eight pixels at a time, and compares nothing with its end.
#pragma once

#include "cuda/mixed_op/tile.h"

namespace fastdarts::cuda {

struct Window {
  int rows, columns;  // of an image
  int before;         // it begins so many pixels above and left of the tile
  int stride;

  Window() = default;
  Window(const Tiling& tiling, int stride, int kernel, int dilation, int shift)
      : rows(Halo::extent(kRows * tiling.down, stride, kernel, dilation)),
        columns((Halo::extent(8 * tiling.across, stride, kernel, dilation) + 7) / 8 * 8),
        before(kernel / 2 * dilation - shift),
        stride(stride) {
    if (columns > kAtOnce) columns = (columns + 15) / 16 * 16;
  }

  static constexpr int kAtOnce = 24;  // columns that are read at once; wider windows are read as two halves

  __device__ int halves() const { return columns > kAtOnce ? 2 : 1; }
  size_t bytes(const Tiling& tiling) const {
    return size_t(tiling.images) * rows * columns * kChannels * sizeof(float);
  }
};

// What is done to four channels of a map before they lie in a window: a ReLU with this floor, or normalised before.
struct Rectify {
  static constexpr bool keeps_zero = true;
  float floor;
  __device__ Four operator()(const Four& z) const { return rectified(z, floor); }
};
struct Normalise {
  static constexpr bool keeps_zero = false;
  Normal normal;
  float floor;
  __device__ Four operator()(const Four& z) const { return rectified(normal(z), floor); }
};

// Columns [8 · first, 8 · (first + steps)) of the rows.
template <bool vector, int steps, typename T, typename Transform>
__device__ void fill_rows(Four* to, const Window& window, int first, const T* map, const Place& place,
                          const Tiling& tiling, int images, int height, int width, int channels, int c,
                          const Transform& transform) {
  const int own = c + 4 * place.quad, count = vector ? 4 : min(max(channels - own, 0), 4);
  const int warps = tiling.across * tiling.down, warp = place.warp_row * tiling.across + place.warp_column;
  const int n = place.image + place.warp_image, top = place.y * window.stride - window.before;
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
  Four* at =
      to + (((place.warp_image * window.rows + warp) * window.columns) + 8 * first + place.group) * 4 + place.quad;
  for (int row = warp; row < window.rows; row += warps) {
    const bool there = static_cast<unsigned>(top + row) < static_cast<unsigned>(height);
    const unsigned here = there ? inside : 0;
    Four values[steps];
#pragma unroll
    for (int j = 0; j < steps; ++j) {
      values[j] = splat(0.0f);
      if (here >> j & 1) values[j] = load4(from + uint64_t{step} * j, count, vector);
    }
#pragma unroll
    for (int j = 0; j < steps; ++j) {
      const Four value = transform(values[j]);
      at[4 * 8 * j] = Transform::keeps_zero || here >> j & 1 ? value : splat(0.0f);
    }
    from += int64_t{warps} * pitch;
    at += warps * window.columns * 4;
  }
}

// Reads channels [c, c + 16) under a tile: transform(four channels) inside of the map, 0 outside of it. Every warp
// takes rows of its image, and starts all loads of a row before it uses the first. Nobody may read `to` before the next
// barrier.
template <bool vector, typename T, typename Transform>
__device__ void fill(Four* to, const Window& window, const T* map, const Place& place, const Tiling& tiling, int images,
                     int height, int width, int channels, int c, const Transform& transform) {
  const int halves = window.halves(), steps = window.columns >> (2 + halves);
  for (int half = 0; half < halves; ++half) {
    const auto rows = [&](auto count) {
      fill_rows<vector, decltype(count)::value>(to, window, half * steps, map, place, tiling, images, height, width,
                                                channels, c, transform);
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
