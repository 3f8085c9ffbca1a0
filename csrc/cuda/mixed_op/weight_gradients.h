// Parts of the weight gradients of a stage. Every warp adds over its own 32 pixels, over a whole chunk of tiles: taps
// in registers, products in shared memory. At the end the warps' sums are added in their order.
//
// Pixels are what these sums run over, but a fragment has channels where a thread has its pixels. So a warp hands its
// numbers on in an area of shared memory, [pixels, 16 channels] words, that no other warp touches.
#pragma once

#include "cuda/mixed_op/walk.h"
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
  uint32_t* const to = area + in_area(place.group, 4 * place.quad);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if constexpr (sizeof(T) == 4) {
      *reinterpret_cast<Four*>(to + r * 8 * kChannels) = values[r];
    } else if (r % 2 == 0) {
      uint4 words;
      words.x = pack2<T>(values[r][0], values[r + 1][0]);
      words.y = pack2<T>(values[r][1], values[r + 1][1]);
      words.z = pack2<T>(values[r][2], values[r + 1][2]);
      words.w = pack2<T>(values[r][3], values[r + 1][3]);
      *reinterpret_cast<uint4*>(to + r / 2 * 8 * kChannels) = words;
    }
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
        } else {
          mma_16x8x16<T>(sums[j], a, b);
        }
      }
    }
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) to[j * kWarp] = {{sums[j][0], sums[j][1], sums[j][2], sums[j][3]}};
}

// Adds [parts, size] floats of shared memory in the order of the parts, a multiple of `together`: write(i, sum). All
// threads of a block.
template <int together, typename Write>
__device__ void add_parts(const float* shared, int size, int parts, const Write& write) {
  __syncthreads();
#pragma unroll 1
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    const float* at = shared + i;
    float sum = 0;
#pragma unroll 1
    for (int part = 0; part < parts; part += together) {
#pragma unroll
      for (int k = 0; k < together; ++k) sum += at[k * size];
      at += together * size;
    }
    write(i, sum);
  }
}

// N floats that lie next to each other, as one access.
template <int N>
struct alignas(N * sizeof(float)) Wide {
  float v[N];
};

// Σ t · x over pixels for every tap of a depthwise window. All taps stay in registers. Of a 3×3 window a thread has
// them for the pixels and channels that are its own. Of larger ones it has fewer channels: the threads of a warp have
// the 16 channels of kColumns columns of pixels at a time. Of a 7×7 window two threads share the taps.
//
// `few`: as few registers as can be, where products in full float32 need them.
template <typename T, bool few, int K>
struct TapSums {
  static constexpr int kWidth = few || K > 5 ? 1 : (K == 3 ? 4 : 2) / (sizeof(T) == 2 ? 1 : 2);  // channels of a thread
  static constexpr bool kOwnPixels = kWidth == 4;
  static constexpr int kThreads = kChannels / kWidth, kShares = K == 7 ? 2 : 1;
  static constexpr int kColumns = kWarp / kThreads / kShares;
  static constexpr int kOwn = (K + kShares - 1) / kShares;  // columns of the window
  using Channels = Wide<kWidth>;
  Channels sums[kOwn][K];

  __device__ static int channel() { return threadIdx.x % kThreads * kWidth; }
  __device__ static int slot() { return threadIdx.x % kWarp / kThreads; }
  __device__ static int tap_column(int k) { return k * kShares + slot() % kShares; }

  __device__ void clear() {
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
#pragma unroll
      for (int ky = 0; ky < K; ++ky) sums[k][ky] = {};
    }
  }

  // `window`: the first input pixel of the first of four windows, `pitch`: the floats of a row.
  template <int S, int D>
  __device__ void add_column(const Channels (&own)[kRows], const float* window, int pitch) {
#pragma unroll
    for (int y = 0; y < (kRows - 1) * S + K; ++y) {
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        // the last column of a thread without one is another's again, and is not written
        const int kx = kShares == 1 ? k : min(tap_column(k), K - 1);
        const Channels value = *reinterpret_cast<const Channels*>(window + kx * D * kChannels);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (y - r * S >= 0 && y - r * S < K) {
#pragma unroll
            for (int i = 0; i < kWidth; ++i) {
              sums[k][y - r * S].v[i] = fmaf(own[r].v[i], value.v[i], sums[k][y - r * S].v[i]);
            }
          }
        }
      }
      window += D * pitch;
    }
  }

  // `t`: of this thread; `area`: of its warp, for nobody else. `window` is the first input pixel of the warp's first
  // window.
  template <int S, int D>
  __device__ void add(const Four (&t)[kRows], uint32_t* area, const float* window, int pitch, const Place& place) {
    Channels own[kRows];
    if constexpr (kOwnPixels) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) own[r] = {{t[r][0], t[r][1], t[r][2], t[r][3]}};
      add_column<S, D>(own, window + place.group * S * kChannels + channel(), pitch);
    } else {
      put<float>(area, t, place);
      __syncwarp();
#pragma unroll 1
      for (int column = slot() / kShares; column < 8; column += kColumns) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          own[r] = *reinterpret_cast<const Channels*>(area + in_area(8 * r + column, channel()));
        }
        add_column<S, D>(own, window + column * S * kChannels + channel(), pitch);
      }
    }
  }

  // Of all warps into taps [K · K, channels] from channel c on. `shared` is nobody's.
  __device__ void store(float* shared, float* taps, int channels, int c) {
    const int part = threadIdx.x / kWarp * kColumns + slot() / kShares;
    float* const mine = shared + part * (K * K * kChannels) + channel();
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
#pragma unroll
      for (int ky = 0; ky < K; ++ky) {
        if (kShares > 1 && tap_column(k) >= K) continue;
        *reinterpret_cast<Channels*>(mine + (ky * K + tap_column(k)) * kChannels) = sums[k][ky];
      }
    }
    const int parts = static_cast<int>(blockDim.x) / kWarp * kColumns;
    add_parts<kColumns>(shared, K * K * kChannels, parts, [&](int i, float sum) {
      if (c + i % kChannels < channels) taps[int64_t{i / kChannels} * channels + c + i % kChannels] = sum;
    });
  }
};

}  // namespace fastdarts::cuda
