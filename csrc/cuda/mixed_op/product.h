// The 1×1 convolution of a tile: the 16 channels that a quad of threads holds times a block of weights, on tensor
// cores.
//
// The order of channels within a fragment is free as long as both operands have the same. Thread q of a quad has
// channels 4q to 4q + 3: for TF32 the first product takes the first two of them as its k = q and q + 4, the second the
// others; for half precision one product takes all four. Results are ordered so that a thread gets outputs 4q to 4q +
// 3, too: column n of the j-th product is output 16 (j / 2) + 4 (n / 2) + 2 (j % 2) + n % 2.
#pragma once

#include "cuda/mixed_op/tile.h"
#include "cuda/mma.h"

namespace fastdarts::cuda {

// Sums of a thread: outputs 4q to 4q + 3 of every 16, of its pixels r = 2m and 2m + 1.
template <int N>
struct Sums {
  static_assert(N % 2 == 0);
  float d[kRows / 2][N][4];  // as mma has them

  __device__ void clear() {
#pragma unroll
    for (int m = 0; m < kRows / 2; ++m) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) d[m][j][i] = 0;
      }
    }
  }
  // Outputs 16 b + 4q to 16 b + 4q + 3 of pixel r.
  __device__ Four outputs(int r, int b) const {
    const float* low = &d[r / 2][2 * b][2 * (r % 2)];
    const float* high = &d[r / 2][2 * b + 1][2 * (r % 2)];
    return {{low[0], low[1], high[0], high[1]}};
  }
  __device__ float& output(int r, int b, int i) { return d[r / 2][2 * b + i / 2][2 * (r % 2) + i % 2]; }
};

// Which output column n of the j-th product is, and where an output is: 8 j + n.
__device__ inline int output_of_column(int j, int n) { return 16 * (j / 2) + 4 * (n / 2) + 2 * (j % 2) + n % 2; }
__device__ inline int column_of_output(int o) { return 8 * (o / 16 * 2 + o / 2 % 2) + o % 16 / 4 * 2 + o % 2; }

// As to_tf32, but for the last 13 bits, which products do not look at: two instructions in place of four.
template <bool rounded>
__device__ uint32_t tf32(float x) {
  uint32_t bits = __float_as_uint(x);
  if (!rounded && x == x) bits += 0x1000;
  return bits;
}

// Weights in the order in which products take them, [N, 8 columns, 4] of Fours or Pairs.
template <typename Entry>
struct InColumns {
  const Entry* at;
};
template <typename Entry>
__device__ Entry of_column(const InColumns<Entry>& weights, int j, int n, int k) {
  return weights.at[4 * (8 * j + n) + k];
}
template <typename Entry>
__device__ Entry of_output(const InColumns<Entry>& weights, int o, int k) {
  return weights.at[4 * column_of_output(o) + k];
}
template <typename Weight>
__device__ auto of_column(const Weight& weight, int j, int n, int k) {
  return weight(output_of_column(j, n), k);
}
template <typename Weight>
__device__ auto of_output(const Weight& weight, int o, int k) {
  return weight(o, k);
}

// sums += values · weightsᵀ in the precision of T; `exact`: of float without rounding. weight(o, k) gives the weights
// from channels 4k to 4k + 3 of this block of 16 to output o, 0 where there are none; of half precision they may be
// Pairs, and all may be InColumns. `rounded`: both factors are already, `rounded_weights`: only these.
template <typename T, bool exact, bool rounded = false, bool rounded_weights = rounded, int N, typename Weight>
__device__ void add_product(Sums<N>& sums, const Four (&values)[kRows], const Place& place, const Weight& weight) {
  if constexpr (exact && std::is_same_v<T, float>) {
#pragma unroll 1
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int b = 0; b < N / 2; ++b) {
        Four w[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) w[i] = of_output(weight, 16 * b + 4 * place.quad + i, k);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            const float value = __shfl_sync(~0u, values[r][c], k, 4);
#pragma unroll
            for (int i = 0; i < 4; ++i) sums.output(r, b, i) = fmaf(value, w[i][c], sums.output(r, b, i));
          }
        }
      }
    }
  } else {
    uint32_t a[kRows / 2][2][4];  // of half precision the first of both only
#pragma unroll
    for (int m = 0; m < kRows / 2; ++m) {
      const Four &top = values[2 * m], &bottom = values[2 * m + 1];
      if constexpr (std::is_same_v<T, float>) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          a[m][h][0] = tf32<rounded>(top[2 * h]), a[m][h][1] = tf32<rounded>(bottom[2 * h]);
          a[m][h][2] = tf32<rounded>(top[2 * h + 1]), a[m][h][3] = tf32<rounded>(bottom[2 * h + 1]);
        }
      } else {
        a[m][0][0] = pack2<T>(top[0], top[1]), a[m][0][1] = pack2<T>(bottom[0], bottom[1]);
        a[m][0][2] = pack2<T>(top[2], top[3]), a[m][0][3] = pack2<T>(bottom[2], bottom[3]);
      }
    }
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const auto w = of_column(weight, j, place.group, place.quad);
      if constexpr (std::is_same_v<T, float>) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const uint32_t b[2] = {tf32<rounded_weights>(w[2 * h]), tf32<rounded_weights>(w[2 * h + 1])};
#pragma unroll
          for (int m = 0; m < kRows / 2; ++m) mma_16x8x8_tf32(sums.d[m][j], a[m][h], b);
        }
      } else {
        const Pairs b = pairs_of<T>(w);
#pragma unroll
        for (int m = 0; m < kRows / 2; ++m) mma_16x8x16<T>(sums.d[m][j], a[m][0], b.v);
      }
    }
  }
}

}  // namespace fastdarts::cuda
