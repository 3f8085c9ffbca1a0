// How a block goes from one of its tiles to the next, and how a thread reads the pixels that it has there. Nearly all
// tiles lie in the map as a whole: only the others look where their pixels end.
#pragma once

#include "cuda/mixed_op/tile.h"

namespace fastdarts::cuda {

// To the next tile of a chunk, without the divisions of move_to.
__device__ inline void move_on(Place& place, const Tiling& tiling) {
  place.x += 8 * tiling.across;
  if (place.x < 8 * tiling.across * tiling.columns) return;
  place.x = 0;
  place.y += kRows * tiling.down;
  if (place.y < kRows * tiling.down * tiling.rows) return;
  place.y = 0;
  place.image += tiling.images;
}

// The tiles of a block's chunk.
__device__ inline int tiles_of_chunk(const Tiling& tiling) {
  const int64_t begin = int64_t{blockIdx.x} * tiling.tiles_a_chunk;
  return static_cast<int>(min(static_cast<int64_t>(tiling.tiles_a_chunk), tiling.tiles() - begin));
}

// Whether all pixels of a tile are in a map, with 16 channels from c on.
__device__ inline bool is_whole(const Place& place, const Tiling& tiling, int images, int height, int width,
                                int channels, int c) {
  return place.image + tiling.images <= images && place.y + kRows * tiling.down <= height &&
         place.x + 8 * tiling.across <= width && c + kChannels <= channels;
}

// Keeps a rare branch a branch: nvcc would rather select between the values of both sides, for every tile.
__device__ inline void a_branch() { asm volatile(""); }

// Where the kRows pixels of a thread are in a map, at its channels; `rows` of them are there. Those that are not are
// read at the first pixel of the map, so that no load asks whether it may.
struct Pixels {
  int64_t base;   // values up to the first pixel
  int at[kRows];  // values from there
  int rows;

  // (n, y, x): the thread's first pixel; its rows are `step` apart, 1 or 2. `own`: its first channel, `count` are
  // there.
  __device__ Pixels(bool whole, int n, int y, int x, int step, int images, int height, int width, int channels, int own,
                    int count) {
    base = (int64_t{n} * height + y) * width * channels + x * channels + own;
    rows = kRows;
#pragma unroll
    for (int r = 0; r < kRows; ++r) at[r] = r * step * width * channels;
    if (!whole) {
      a_branch();
      const int left = (height - y + step - 1) >> (step - 1);
      rows = n < images && x < width && count > 0 ? min(max(left, 0), kRows) : 0;
      if (rows == 0) base = 0;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r >= rows) at[r] = 0;
      }
    }
  }
  __device__ bool there(int r) const { return r < rows; }

  // Sets what was computed of pixels that are not there to 0, and all of it if there is no channel.
  __device__ void clear(Four (&values)[kRows], bool whole, int count = 4) const {
    if (whole) return;
    a_branch();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!there(r) || count == 0) values[r] = splat(0.0f);
    }
  }
};

// What is done to 16 channels from c on before they are read, into shared memory; row −1: nothing.
__device__ inline void load_normals(Normal* normals, const Affine& affine, int row, int c, int channels) {
  const int i = threadIdx.x;
  if (i >= kChannels / 4) return;
  const Normal none = {splat(0), splat(1), splat(0)};
  normals[i] = row < 0 ? none : normal_of(affine, row, c + 4 * i, channels);
}

// Gradients pass where the bits of a ReLU say so.
__device__ inline void keep_kinks(Four (&g)[kRows], const uint8_t* bits, const Pixels& pixels, int channels, int own) {
  a_branch();
  if (own >= channels) return;
  const int64_t first = (pixels.base - own) / channels;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t pixel = first + pixels.at[r] / channels;
    const unsigned four = bits[pixel * ((channels + 7) / 8) + own / 8] >> own % 8;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (!(four >> k & 1)) g[r][k] = 0;
    }
  }
}

}  // namespace fastdarts::cuda
