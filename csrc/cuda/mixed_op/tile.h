// Tiles of maps on the device. A block has a rectangle of output pixels of a few images. It works on 16 channels at a
// time: the input pixels of all windows lie in shared memory (window.h). A thread has four rows and four channels; a
// quad of threads has all 16 channels of its pixels.
//
// The order of threads is that of the fragments of tensor-core products (cuda/mma.h): lane = 4 · group + quad, a group
// has a column of pixels, quad q has channels 4q to 4q + 3. So depthwise outputs enter the 1×1 product out of
// registers.
#pragma once

#include "cuda/launch.h"
#include "cuda/mixed_op/call.h"
#include "cuda/vectors.h"

namespace fastdarts::cuda {

constexpr int kChannels = 16;  // of a tile in shared memory
constexpr int kRows = 4;       // pixels of a thread

// Where the warps of a block are in its tile, and the tile in the map.
struct Place {
  int image, y, x;  // of the first pixel of the tile
  int group, quad, warp_image, warp_row, warp_column;

  // The tile's coordinates of pixel r of this thread, with rows `dilation` apart, which is 1 or 2.
  __device__ int row(int r, int dilation) const {
    return (warp_row >> (dilation - 1)) * (kRows * dilation) + (warp_row & (dilation - 1)) + r * dilation;
  }
  __device__ int column() const { return 8 * warp_column + group; }
};

// A block has 1 or 2 warps across, and 1, 2 or 4 down: nothing is divided.
__device__ inline Place place_of_thread(const Tiling& tiling, unsigned thread) {
  const int warp = thread / kWarp, lane = thread % kWarp, row = warp >> (tiling.across - 1);
  Place place = {};
  place.group = lane / 4;
  place.quad = lane % 4;
  place.warp_column = warp & (tiling.across - 1);
  place.warp_row = row & (tiling.down - 1);
  place.warp_image = row >> (tiling.down >> 1);
  return place;
}
__device__ inline Place place_of_thread(const Tiling& tiling) { return place_of_thread(tiling, threadIdx.x); }

__device__ inline void move_to(Place& place, const Tiling& tiling, int tile) {
  const int row = tile / tiling.columns, group = row / tiling.rows;
  place.x = (tile - row * tiling.columns) * 8 * tiling.across;
  place.y = (row - group * tiling.rows) * kRows * tiling.down;
  place.image = group * tiling.images;
}

// What is done to four channels of a map before a stage reads them: (z − mean) · scale + offset, or nothing.
struct Normal {
  Four mean, scale, offset;

  __device__ Four operator()(const Four& z) const {
    Four result;
#pragma unroll
    for (int i = 0; i < 4; ++i) result[i] = fmaf(z[i] - mean[i], scale[i], offset[i]);
    return result;
  }
};

__device__ inline float inverse(const Affine& affine, int64_t i) {
  return 1.0f / sqrtf(fmaf(affine.var[i], affine.correction, affine.eps));
}

// Of channels c to c + 3 of a row; channels that are not there give 0.
__device__ inline Normal normal_of(const Affine& affine, int row, int c, int channels) {
  Normal normal = {splat(0), splat(0), splat(0)};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (c + i < channels) {
      const int64_t at = int64_t{row} * channels + c + i;
      normal.mean[i] = affine.mean[at];
      normal.scale[i] = affine.gain[at] * inverse(affine, at);
      if (affine.offset) normal.offset[i] = affine.offset[at];
    }
  }
  return normal;
}

// The larger number, or NaN.
__device__ inline float maximum(float a, float b) {
#ifndef FASTDARTS_EMULATED
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return a > b || a != a ? a : b;
#endif
}

// `floor`: 0 for a ReLU, −∞ where there is none. NaN stays NaN.
__device__ inline Four rectified(const Four& x, float floor) {
  Four result;
#pragma unroll
  for (int i = 0; i < 4; ++i) result[i] = maximum(x[i], floor);
  return result;
}

// The same of what shared memory holds, without a conversion.
template <typename T>
__device__ Held<T> rectified(const Held<T>& x, float floor) {
  if constexpr (sizeof(T) == 4) {
    return rectified(x, floor);
  } else {
    using Two = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
    const uint32_t floors = pack2<T>(floor, floor);
    Two values[2], least;
    memcpy(static_cast<void*>(values), &x, sizeof values);
    memcpy(static_cast<void*>(&least), &floors, sizeof least);
    values[0] = __hmax2_nan(values[0], least), values[1] = __hmax2_nan(values[1], least);
    Pairs result;
    memcpy(&result, values, sizeof result);
    return result;
  }
}
template <typename T>
__device__ Held<T> normalised(const Held<T>& z, const Normal& normal, float floor) {
  if constexpr (sizeof(T) == 4) {
    return rectified(normal(z), floor);
  } else {
    return rectified<T>(pairs_of<T>(normal(four_of<T>(z))), floor);
  }
}

// Whether gradients pass a ReLU, of four channels from c on: where its input is above 0 or NaN or, if bits are kept,
// where they say so. `pixel` counts through the map.
struct Passes {
  bool v[4];

  __device__ Passes(const Four& input, const uint8_t* bits, int64_t pixel, int channels, int c) {
    const unsigned four = bits && c < channels ? bits[pixel * ((channels + 7) / 8) + c / 8] >> c % 8 : 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = bits ? four >> i & 1 : !(input[i] <= 0);
  }
};

// Depthwise weights [C, 1, k, k] of channels [c, c + 16), as [k·k, 16] floats; channels that are not there are 0.
template <typename T>
__device__ void load_taps(float* taps, const T* weights, int size, int channels, int c) {
  for (int i = threadIdx.x; i < size * kChannels; i += blockDim.x) {
    const int channel = c + i % kChannels;
    taps[i] = channel < channels ? to_float(weights[int64_t{channel} * size + i / kChannels]) : 0.0f;
  }
}

// Depthwise weights as load_taps reads them, the last tap first.
template <typename T>
__device__ void load_flipped_taps(float* taps, const T* weights, int size, int channels, int c) {
  for (int i = threadIdx.x; i < size * kChannels; i += blockDim.x) {
    const int channel = c + i % kChannels, tap = size - 1 - i / kChannels;
    taps[i] = channel < channels ? to_float(weights[int64_t{channel} * size + tap]) : 0.0f;
  }
}

// Depthwise outputs of the four pixels of this thread. `tile` points to the first pixel of its window and its channels,
// `pitch` is the number of Fours in a row; rows of the thread are `dilation` apart.
template <int K, int S, int unrolled = K == 3 ? 3 : 1>
__device__ void depthwise(Four (&out)[kRows], const Four* tile, int pitch, int dilation, const Four* taps) {
#pragma unroll
  for (int r = 0; r < kRows; ++r) out[r] = splat(0.0f);
  // Unrolled, the columns of a large window would make the code K times as long and no faster.
#pragma unroll(unrolled)
  for (int kx = 0; kx < K; ++kx) {
    Four weights[K];
#pragma unroll
    for (int ky = 0; ky < K; ++ky) weights[ky] = taps[(ky * K + kx) * 4];
    const Four* at = tile + kx * dilation * 4;
#pragma unroll
    for (int i = 0; i < (kRows - 1) * S + K; ++i) {
      const Four value = *at;
      at += dilation * pitch;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (i - r * S >= 0 && i - r * S < K) add_product(out[r], value, weights[i - r * S]);
      }
    }
  }
}

inline size_t tap_bytes(int kernel) { return size_t(kernel) * kernel * kChannels * sizeof(float); }

}  // namespace fastdarts::cuda
