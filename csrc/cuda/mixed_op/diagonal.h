// Depthwise convolutions of half precision on tensor cores.
//
// A product (cuda/mma.h) takes two taps of a window that are side by side. Its left factor has two rows of eight
// pixels: 8 channels of what lies under the first tap, then of what lies under the second. Its right factor has two
// diagonals, one above the other: the weights of these channels at the first tap and at the second. Nearly all of its
// numbers are 0, and it still does what eight instructions of a lane did. Sums are in float, and no factor is rounded.
//
// Thread q of a quad has channels 4q to 4q + 3, as everywhere. A product has the first two channels of every quad, or
// the last two: half 0 or 1. Its column n is channel 4 (n / 2) + 2 half + n % 2. A window in shared memory has the
// halves apart, [images, rows, halves, columns, 8 channels]: then eight pixels meet no bank twice.
//
// 0 · ∞ is NaN: where one channel of a pixel is not finite, the others of its half become NaN, too.
#pragma once

#include "cuda/mixed_op/tile.h"
#include "cuda/mma.h"

namespace fastdarts::cuda {

// What a lane hands to the products of two taps.
template <typename T>
struct alignas(16) Diagonals {
  uint32_t v[2][2];  // [halves, taps]
};

// Taps of a window, as shared memory holds them: Fours of float weights, or diagonals of half precision.
template <typename T>
using Taps = std::conditional_t<sizeof(T) == 4, Four, Diagonals<T>>;

__host__ __device__ constexpr int pairs_of_taps(int kernel) { return (kernel * kernel + 1) / 2; }
inline size_t diagonal_bytes(int pairs) { return size_t(pairs) * kWarp * sizeof(Diagonals<__half>); }

// What is 0 for good.
template <typename T>
__device__ void clear_diagonals(Diagonals<T>* to, int bytes) {
  for (int i = threadIdx.x; i < bytes / static_cast<int>(sizeof *to); i += blockDim.x) to[i] = {};
}

// Which weights of a channel a pair of taps has; −1 for none.
struct TapPair {
  int first, second;
};

// Diagonals of channels [c, c + 16) of weights [C, 1, size]. pair_at(i): the i-th TapPair.
template <typename T, typename PairAt>
__device__ void load_diagonals(Diagonals<T>* to, int pairs, const T* weights, int size, int channels, int c,
                               const PairAt& pair_at) {
  for (int i = threadIdx.x; i < pairs * 8; i += blockDim.x) {
    const int pair = i / 8, column = i % 8, own = c + 4 * (column / 2) + column % 2;
    const TapPair taps = pair_at(pair);
    const uint16_t* const of = reinterpret_cast<const uint16_t*>(weights) + int64_t{own} * size;
    const auto diagonal = [&](int channel, int tap) {
      const uint32_t bits = own + channel < channels && tap >= 0 ? of[channel * size + tap] : 0;
      return bits << 16 * (column % 2);
    };
    to[pair * kWarp + 4 * column + column / 2] = {
        {{diagonal(0, taps.first), diagonal(0, taps.second)}, {diagonal(2, taps.first), diagonal(2, taps.second)}}};
  }
}

// The pairs of a K × K window: of columns 0 and 1, 2 and 3, ... all rows, then two rows each of the last column.
// `flipped`: the last tap first.
template <bool flipped>
struct InColumnPairs {
  int kernel;
  __device__ TapPair operator()(int i) const {
    const int columns = i * (kernel == 3 ? 86 : kernel == 5 ? 52 : 37) >> 8;  // i / kernel
    const int row = i - columns * kernel, first = row * kernel + 2 * columns;
    const int last = (2 * row + 1) * kernel - 1, end = kernel * kernel - 1;
    const bool two = 2 * columns < kernel - 1;
    const TapPair pair = {two ? first : last, two ? first + 1 : 2 * row + 1 < kernel ? last + kernel : -1};
    return flipped ? TapPair{end - pair.first, pair.second < 0 ? -1 : end - pair.second} : pair;
  }
};

// Sums of a thread as products have them: two rows of pixels, of a half. These rows are `kApart` apart.
template <int kApart>
struct DiagonalSums {
  float d[kRows / 2][2][4];

  __device__ static constexpr int product(int r) { return kApart == 1 ? r / 2 : r % 2; }
  __device__ static constexpr int place(int r, int k) { return (kApart == 1 ? r % 2 : r / 2) * 2 + k % 2; }
  __device__ static constexpr int first_row(int m) { return kApart == 1 ? 2 * m : m; }

  __device__ explicit DiagonalSums(const Four (&values)[kRows]) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int k = 0; k < 4; ++k) d[product(r)][k / 2][place(r, k)] = values[r][k];
    }
  }
  __device__ void to(Four (&values)[kRows]) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int k = 0; k < 4; ++k) values[r][k] = d[product(r)][k / 2][place(r, k)];
    }
  }
};

// A window of K rows for products: rows of the thread are R lines apart, rows of the window D.
template <int K, int R, int D>
struct Lines {
  static constexpr int kApart = D == 1 ? 2 : 1;  // of the rows of a product: with these, fewest lines are read
  using Sums = DiagonalSums<kApart>;
  static constexpr int kCount = Sums::first_row(1) * R + (K - 1) * D + 1;  // at which products may begin

  // The row of the window that the m-th product has at a line, −1 for none.
  __device__ static constexpr int row(int line, int m) {
    const int under = line - Sums::first_row(m) * R;
    return under >= 0 && under % D == 0 && under / D < K ? under / D : -1;
  }

  // Where a lane finds its row of a matrix. Matrices are of two rows of pixels, at two places that are `apart` cells
  // apart: under two taps, or of both halves.
  __device__ static const uint4* of_lane(const uint4* tile, int pitch, int apart) {
    const int lane = threadIdx.x % kWarp, matrix = lane / 8;
    return tile + lane % 8 * R + (matrix & 1) * (kApart * R * pitch) + (matrix >> 1) * apart;
  }

  // sums += two columns of the window. `taps`: the first pair of rows; `step`: from pair to pair.
  template <typename T>
  __device__ static void add_two(Sums& sums, const uint4* of_lane, int half, int pitch, const Diagonals<T>* taps,
                                 int step) {
    Diagonals<T> weights[K];
#pragma unroll
    for (int i = 0; i < K; ++i) weights[i] = taps[i * step];
#pragma unroll
    for (int line = 0; line < kCount; ++line) {
      const int rows[kRows / 2] = {row(line, 0), row(line, 1)};
      if (rows[0] < 0 && rows[1] < 0) continue;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        uint32_t values[4];
        load_matrices(values, of_lane + line * pitch + h * half);
#pragma unroll
        for (int m = 0; m < kRows / 2; ++m) {
          if (rows[m] >= 0) mma_16x8x16<T>(sums.d[m][h], values, weights[rows[m]].v[h]);
        }
      }
    }
  }

  // sums += one column of the window, whose taps are paired by rows.
  template <typename T>
  __device__ static void add_one(Sums& sums, const uint4* of_lane, int pitch, const Diagonals<T>* taps) {
    Diagonals<T> weights[(K + 1) / 2];
#pragma unroll
    for (int i = 0; i < (K + 1) / 2; ++i) weights[i] = taps[i * kWarp];
#pragma unroll
    for (int line = 0; line < kCount; ++line) {
      const int rows[kRows / 2] = {row(line, 0), row(line, 1)};
      if (rows[0] < 0 && rows[1] < 0) continue;
      uint32_t values[4];
      load_matrices(values, of_lane + line * pitch);
#pragma unroll
      for (int m = 0; m < kRows / 2; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          if (rows[m] < 0) continue;
          const uint32_t a[2] = {values[2 * h], values[2 * h + 1]};
          mma_16x8x8<T>(sums.d[m][h], a, weights[rows[m] / 2].v[h][rows[m] % 2]);
        }
      }
    }
  }
};

// out += a K × K window, its taps in column pairs. `tile`: the first pixel of the warp's first row, half 0; `half`,
// `pitch`, `right`: from half to half, from line to line and from one column of the window to the next.
template <int K, int R, int D, typename T>
__device__ void add_window(Four (&out)[kRows], const uint4* tile, int half, int pitch, int right,
                           const Diagonals<T>* taps) {
  using Own = Lines<K, R, D>;
  typename Own::Sums sums(out);
  const uint4* const two = Own::of_lane(tile, pitch, right);
#pragma unroll
  for (int pair = 0; pair < K / 2; ++pair) {
    Own::add_two(sums, two + 2 * pair * right, half, pitch, taps + pair * K * kWarp, kWarp);
  }
  Own::add_one(sums, Own::of_lane(tile + (K - 1) * right, pitch, half), pitch, taps + K / 2 * K * kWarp);
  sums.to(out);
}

// The same of K rows and `columns` columns, in pairs, of which the last may lack its second. `step`, `next`: from row
// to row and from pair to pair of the taps.
template <int K, typename T>
__device__ void add_column_pairs(Four (&out)[kRows], const uint4* tile, int half, int pitch, int columns,
                                 const Diagonals<T>* taps, int step, int next) {
  using Own = Lines<K, 1, 1>;
  typename Own::Sums sums(out);
#pragma unroll 1
  for (int column = 0; column < columns; column += 2) {
    // what lies under the second tap that is not there is of the first: 0 times it is 0
    const uint4* const two = Own::of_lane(tile + column, pitch, column + 1 < columns ? 1 : 0);
    Own::add_two(sums, two, half, pitch, taps, step);
    taps += next;
  }
  sums.to(out);
}

// As depthwise of tile.h, from a window whose halves are apart. `tile` is the first pixel of the warp.
template <int K, int S, int unrolled = K, typename T>
__device__ void depthwise(Four (&out)[kRows], const uint4* tile, int pitch, int dilation, const Diagonals<T>* taps) {
#pragma unroll
  for (int r = 0; r < kRows; ++r) out[r] = splat(0.0f);
  forget(pitch);  // else the addresses of all kinds of windows are computed for each
  add_window<K, S, 1>(out, tile, pitch / 2, dilation * pitch, dilation, taps);
}

}  // namespace fastdarts::cuda
