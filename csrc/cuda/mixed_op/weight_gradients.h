// Parts of the weight gradients of a stage. Every warp adds over its own 32 pixels, over a whole chunk of tiles: taps
// in registers, products in shared memory. At the end the warps' sums are added in their order.
//
// Pixels are what these sums run over, but a fragment has channels where a thread has its pixels. So a warp hands its
// numbers on in an area of shared memory, [pixels, 16 channels] words, that no other warp touches.
#pragma once

#include "cuda/mixed_op/tile.h"
#include "cuda/mma.h"

namespace fastdarts::cuda {

constexpr int kArea = kWarp * kChannels;  // words

// Where channel c of pixel 8r + group is. The order of fours of channels depends on the pixel: then neither four
// channels each of eight pixels nor eight channels of four pixels meet a bank of shared memory twice.
__device__ inline int in_area(int pixel, int c) { return pixel * kChannels + (c / 4 ^ (pixel & 2)) * 4 + c % 4; }

__device__ inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
__device__ inline float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// The channels of this thread into an area, as a product of type T takes them. Of half precision a word has pixels 2m
// and 2m + 1 of a column, and there are half as many; floats are rounded already.
template <typename T>
__device__ void put(uint32_t* area, const Four (&values)[kRows], const Place& place) {
  constexpr bool kHalf = sizeof(T) == 2;
#pragma unroll
  for (int r = 0; r < kRows; r += kHalf ? 2 : 1) {
    alignas(16) uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kHalf) {
        words[i] = pack2<T>(values[r][i], values[r + 1][i]);
      } else {
        words[i] = bits_of(values[r][i]);
      }
    }
    uint32_t* const to = area + in_area(8 * (kHalf ? r / 2 : r) + place.group, 4 * place.quad);
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(words);
  }
}

// Sums of 16 outputs × 16 inputs over the pixels of a warp lie in shared memory, too: two Fours of every lane, one of
// each product as mma has them, [2, lanes].
constexpr int kFragment = 2 * kWarp;

// Which output and input word i of such sums is of. Word i is word i % 4 of lane i / 4 % 32.
__device__ inline int output_of_fragment(int i) { return i / (4 * kFragment) * kChannels + i / 16 % 8 + i / 2 % 2 * 8; }
__device__ inline int input_of_fragment(int i) { return i / (4 * kWarp) % 2 * 8 + i / 4 % 4 * 2 + i % 2; }

// to (of this lane) += Σ over the warp's pixels left[o] · right[c].
template <typename T, bool exact>
__device__ void add_over_pixels(Four* to, const uint32_t* left, const uint32_t* right, const Place& place) {
  float sums[2][4];
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const Four before = to[j * kWarp];
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[j][i] = before[i];
  }
  const int group = place.group, quad = place.quad;
  if constexpr (exact && std::is_same_v<T, float>) {
#pragma unroll 4
    for (int p = 0; p < kWarp; ++p) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float a = float_of(left[in_area(p, group + i / 2 * 8)]);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          sums[j][i] = fmaf(a, float_of(right[in_area(p, 8 * j + 2 * quad + i % 2)]), sums[j][i]);
        }
      }
    }
  } else {
    // pixels p and p + 4 have the same order of channels, channels c and c + 8 are 8 words apart
    const int low = in_area(quad, group), high = low ^ 8;
#pragma unroll
    for (int p = 0; p < kArea / (4 / static_cast<int>(sizeof(T))); p += 8 * kChannels) {
      const int next = p + 4 * kChannels;
      const uint32_t a[4] = {left[low + p], left[high + p], left[low + next], left[high + next]};
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int at = j == 0 ? low : high;
        const uint32_t b[2] = {right[at + p], right[at + next]};
        if constexpr (std::is_same_v<T, float>) {
          mma_16x8x8_tf32(sums[j], a, b);
        } else if constexpr (std::is_same_v<T, __half>) {
          mma_16x8x16_f16(sums[j], a, b);
        } else {
          mma_16x8x16_bf16(sums[j], a, b);
        }
      }
    }
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) to[j * kWarp] = {{sums[j][0], sums[j][1], sums[j][2], sums[j][3]}};
}

// Adds [warps, size] floats of shared memory in the order of the warps: write(i, sum). All threads of a block.
template <typename Write>
__device__ void add_warps(const float* shared, int size, const Write& write) {
  __syncthreads();
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    float sum = 0;
    for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) sum += shared[w * size + i];
    write(i, sum);
  }
}

// Σ t · x over pixels for every tap of a depthwise window. A thread has fewer channels than elsewhere, for all taps to
// stay in registers: the threads of a warp have the 16 channels of kColumns pixels. Of a 7×7 window two threads share
// the taps. `few`: as few registers as can be.
template <int K, bool few>
struct TapSums {
  static constexpr int kWidth = K == 3 && !few ? 2 : 1;  // channels of a thread
  static constexpr int kThreads = kChannels / kWidth, kShares = K == 7 ? 2 : 1;
  static constexpr int kColumns = kWarp / kThreads / kShares;
  static constexpr int kOwn = (K + kShares - 1) / kShares;  // columns of the window
  float sums[kOwn][K][kWidth];

  __device__ static int channel() { return threadIdx.x % kThreads * kWidth; }
  __device__ static int slot() { return threadIdx.x % kWarp / kThreads; }
  __device__ static int tap_column(int k) { return k * kShares + slot() % kShares; }

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kOwn * K * kWidth; ++i) (&sums[0][0][0])[i] = 0;
  }

  // `t` is the warp's area, `window` the first input pixel of its first window, `pitch` the floats of a row.
  template <int S, int D>
  __device__ void add(const uint32_t* t, const float* window, int pitch) {
#pragma unroll 1
    for (int column = slot() / kShares; column < 8; column += kColumns) {
      float own[kRows][kWidth];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const uint32_t* from = t + in_area(8 * r + column, channel());
#pragma unroll
        for (int i = 0; i < kWidth; ++i) own[r][i] = float_of(from[i]);
      }
      const float* at = window + column * S * kChannels + channel();
#pragma unroll
      for (int y = 0; y < (kRows - 1) * S + K; ++y) {
#pragma unroll
        for (int k = 0; k < kOwn; ++k) {
          // the last column of a thread without one is another's again, and is not written
          const int kx = kShares == 1 ? k : min(tap_column(k), K - 1);
#pragma unroll
          for (int i = 0; i < kWidth; ++i) {
            const float value = at[kx * D * kChannels + i];
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
              if (y - r * S >= 0 && y - r * S < K) {
                sums[k][y - r * S][i] = fmaf(own[r][i], value, sums[k][y - r * S][i]);
              }
            }
          }
        }
        at += D * pitch;
      }
    }
  }

  // Of all warps into taps [K · K, channels] from channel c on. `shared` [warps, K · K, 16] is nobody's.
  __device__ void store(float* shared, float* taps, int channels, int c) {
    float* const mine = shared + threadIdx.x / kWarp * (K * K * kChannels) + channel();
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
#pragma unroll
      for (int ky = 0; ky < K; ++ky) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          float sum = sums[k][ky][i];
#pragma unroll
          for (int lanes = kThreads * kShares; lanes < kWarp; lanes *= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
          if (slot() < kShares && tap_column(k) < K) mine[(ky * K + tap_column(k)) * kChannels + i] = sum;
        }
      }
    }
    add_warps(shared, K * K * kChannels, [&](int i, float sum) {
      if (c + i % kChannels < channels) taps[int64_t{i / kChannels} * channels + c + i % kChannels] = sum;
    });
  }
};

}  // namespace fastdarts::cuda
