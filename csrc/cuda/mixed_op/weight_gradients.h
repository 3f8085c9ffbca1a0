// Parts of the weight gradients of a stage. Every warp adds over its own 32 pixels, over a whole chunk of tiles: taps
// in registers, products in shared memory. At the end the warps' sums are added in their order.
//
// Pixels are what these sums run over, but a fragment has channels where a thread has its pixels. So a warp hands its
// numbers on in an area of shared memory, [pixels, 16 channels] words, that no other warp touches.
#pragma once

#include "cuda/mixed_op/walk.h"
#include "cuda/mixed_op/window.h"
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

// Σ t · x over pixels for every tap of a depthwise window, in float. All taps stay in registers. The threads of a warp
// have the 16 channels of kColumns columns of pixels at a time. Of a 7×7 window two threads share the taps.
//
// `few`: as few registers as can be, where products in full float32 need them.
template <bool few, int K>
struct FloatTapSums {
  static constexpr int kWidth = K == 3 && !few ? 2 : 1;  // channels of a thread
  static constexpr int kThreads = kChannels / kWidth, kShares = K == 7 ? 2 : 1;
  static constexpr int kColumns = kWarp / kThreads / kShares;
  static constexpr int kOwn = (K + kShares - 1) / kShares;  // columns of the window
  using Channels = Wide<kWidth>;
  Channels sums[kOwn][K];

  __device__ static int channel() { return threadIdx.x % kThreads * kWidth; }
  __device__ static int slot() { return threadIdx.x % kWarp / kThreads; }
  __device__ static int tap_column(int k) { return k * kShares + slot() % kShares; }

  __device__ void clear(uint32_t*) {
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

  // `t`: of this thread; `area`: of its warp, for nobody else. `first` is the first pixel of the thread's windows.
  template <int S, int D>
  __device__ void add(const Four (&t)[kRows], uint32_t* area, const Four* first, int columns, const Place& place,
                      const Tiling&) {
    const float* const window = reinterpret_cast<const float*>(first - place.quad - place.group * S * 4);
    Channels own[kRows];
    put<float>(area, t, place);
    __syncwarp();
#pragma unroll 1
    for (int column = slot() / kShares; column < 8; column += kColumns) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        own[r] = *reinterpret_cast<const Channels*>(area + in_area(8 * r + column, channel()));
      }
      add_column<S, D>(own, window + column * S * kChannels + channel(), kChannels * columns);
    }
  }

  // Of all warps into taps [K · K, channels] from channel c on. `shared` is nobody's.
  __device__ void store(float* shared, const uint32_t*, float* taps, int channels, int c) {
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

// The same of half precision, on tensor cores. A product adds over 16 pixels, two rows of eight: its left factor has
// what lies there under two taps, one below the other, of the 8 channels of a half, its right factor has t of these
// channels. Of 16 × 8 sums those of a channel with itself are wanted, which 8 lanes have. t is rounded, as it is
// stored.
//
// Two neighbouring warps share their pixels: the first has half 0, the second half 1. So a thread has few sums.
template <typename T, int K>
struct DiagonalTapSums {
  static constexpr int kPairs = (K + 1) / 2;  // of rows of the window
  static constexpr bool kShared = K > 3;      // registers are few
  float sums[kShared ? 1 : K][2 * kPairs];

  __device__ static int half() { return threadIdx.x / kWarp % 2; }
  __device__ static bool wants() { return threadIdx.x % kWarp / 8 == threadIdx.x % 4; }

  // The sums of a column where they are in shared memory: in the upper halves of the warp's areas, which nothing else
  // of half precision takes. `area`: the second one.
  __device__ static float* kept(uint32_t* area, int column) {
    const int place = kArea / 2 + (column % 4 * 8 + threadIdx.x % kWarp / 4) * 8;
    return reinterpret_cast<float*>(column < 4 ? area - kArea : area) + place;
  }

  __device__ void clear(uint32_t* area) {
#pragma unroll
    for (int column = 0; column < K; ++column) {
      float* const of = kShared ? kept(area, column) : sums[kShared ? 0 : column];
#pragma unroll
      for (int i = 0; i < 2 * kPairs; ++i) {
        if (!kShared || wants()) of[i] = 0;
      }
    }
  }

  // As of FloatTapSums, but other warps read the area, until the next barrier of the block.
  template <int S, int D>
  __device__ void add(const Four (&t)[kRows], uint32_t* area, const uint4* first, int columns, const Place& place,
                      const Tiling& tiling) {
    // t of this warp, [halves, rows, 8 columns, 8 channels]
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Pairs pairs = pairs_of<T>(t[r]);
#pragma unroll
      for (int h = 0; h < 2; ++h) area[((h * kRows + r) * 8 + place.group) * 4 + place.quad] = pairs.v[h];
    }
    __syncthreads();
    int pitch = 2 * columns;
    const int lane = threadIdx.x % kWarp, matrix = lane / 8, own = half();
    const int apart = tiling.across == 2 ? 8 * S : (D == 1 ? kRows : 1) * S * pitch;  // from warp to warp
    const uint4* const windows = first - own * apart + own * columns + lane % 8 * S;
    const uint4* const t_of = reinterpret_cast<const uint4*>(area - own * 2 * kArea) + own * kRows * 8 + lane;
    forget(pitch);
    pitch *= D;
    // matrices: two taps under the upper row of pixels, then under the lower; the last row of a window has no second
    // tap
    const uint4* const two = windows + (matrix % 2 + matrix / 2 * S) * pitch;
    const uint4* const one = windows + matrix / 2 * S * pitch;
#pragma unroll
    for (int column = 0; column < K; ++column) {
      float d[kPairs][4] = {};
#pragma unroll
      for (int warp = 0; warp < 2; ++warp) {
        constexpr int kLast = S + kPairs - 1;  // lines are counted by twos
        uint32_t right[4];
        load_transposed(right, t_of + warp * (2 * kArea / 4));
#pragma unroll
        for (int line = 0; line <= kLast; ++line) {
          uint32_t left[4];
          load_transposed(left, (line < kLast ? two : one) + 2 * line * pitch + warp * apart + column * D);
#pragma unroll
          for (int m = 0; m < kRows / 2; ++m) {
            const int pair = line - m * S;
            if (pair < 0 || pair >= kPairs) continue;
            const uint32_t b[2] = {right[2 * m], right[2 * m + 1]};
            mma_16x8x16<T>(d[pair], left, b);
          }
        }
      }
      const bool odd = place.group % 2;
      float own_sums[2 * kPairs];
#pragma unroll
      for (int i = 0; i < 2 * kPairs; ++i) own_sums[i] = odd ? d[i / 2][i % 2 * 2 + 1] : d[i / 2][i % 2 * 2];
      if constexpr (!kShared) {
#pragma unroll
        for (int i = 0; i < 2 * kPairs; ++i) sums[column][i] += own_sums[i];
      } else if (wants()) {
        constexpr int kWide = kPairs % 2 == 0 ? 4 : 2;
        auto* const to = reinterpret_cast<Wide<kWide>*>(kept(area, column));
#pragma unroll
        for (int i = 0; i < 2 * kPairs / kWide; ++i) {
          Wide<kWide> before = to[i];
#pragma unroll
          for (int k = 0; k < kWide; ++k) before.v[k] += own_sums[kWide * i + k];
          to[i] = before;
        }
      }
    }
  }

  // As of FloatTapSums.
  __device__ void store(float* shared, uint32_t* area, float* taps, int channels, int c) {
    const int group = threadIdx.x % kWarp / 4, quad = threadIdx.x % 4;
    float* const mine = shared + threadIdx.x / kWarp / 2 * (K * K * kChannels) + 4 * quad + 2 * half() + group % 2;
    if (wants()) {
#pragma unroll
      for (int column = 0; column < K; ++column) {
        const float* const of = kShared ? kept(area, column) : sums[kShared ? 0 : column];
#pragma unroll
        for (int row = 0; row < K; ++row) mine[(row * K + column) * kChannels] = of[row];
      }
    }
    add_parts<1>(shared, K * K * kChannels, static_cast<int>(blockDim.x) / kWarp / 2, [&](int i, float sum) {
      if (c + i % kChannels < channels) taps[int64_t{i / kChannels} * channels + c + i % kChannels] = sum;
    });
  }
};

template <typename T, bool few, int K>
using TapSums = std::conditional_t<sizeof(T) == 4, FloatTapSums<few, K>, DiagonalTapSums<T, K>>;

}  // namespace fastdarts::cuda
