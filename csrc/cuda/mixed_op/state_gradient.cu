// Gradients of what stages read: the transposed depthwise convolution of t = dL/d(depthwise output), and what else
// hands gradients to the state. t lies in shared memory with all that the windows over a tile meet.
#include <limits>

#include "cuda/mixed_op/noise.h"
#include "cuda/mixed_op/strips.h"
#include "cuda/mixed_op/walk.h"
#include "cuda/mixed_op/window.h"

namespace fastdarts::cuda {

namespace {

// out += the K rows of a window times `columns` of its columns; pixels of the thread are next to each other, rows of
// the window D apart. `pitch`, `right`: Fours from row to row and from column to column of the window; the same of
// taps.
template <int K, int D>
__device__ void correlate(Four (&out)[kRows], const Four* tile, int pitch, int right, int columns, const Four* taps,
                          int taps_pitch, int taps_right) {
#pragma unroll 1
  for (int column = 0; column < columns; ++column) {
    Four weights[K];
#pragma unroll
    for (int row = 0; row < K; ++row) weights[row] = taps[row * taps_pitch];
    const Four* at = tile;
#pragma unroll
    for (int i = 0; i < kRows + (K - 1) * D; ++i) {
      const Four value = *at;
      at += pitch;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (i >= r && (i - r) % D == 0 && (i - r) / D < K) add_product(out[r], value, weights[(i - r) / D]);
      }
    }
    tile += right;
    taps += taps_right;
  }
}

struct Read {
  const void* depthwise;
  int kernel, dilation, shift;
  Window window;
};

struct Skip {
  const void* gradient;
  int row, seed;  // seed: its place, if it drops elements
};

struct StateArguments {
  Read reads[kMaxStages];
  Skip skips[kMaxTensors];  // those that drop elements behind the others
  int stages, skip_rows, dropped_rows;
  Sizes sizes;
  Tiling tiling;
  bool adds;  // dx has a part already
  int taps;   // where they begin in shared memory, in bytes
  int taps_bytes;
  const float* gain;
  const void *x, *t;
  const float *dmax, *davg;
  const int8_t* which;
  const int64_t* seeds;
  const uint8_t* bits;  // of the state's ReLUs if they are kept
  void* dx;
};

// Where the windows of a stage that hold pixel 2Y + parity begin among the outputs of stride 2. In one dimension these
// outputs are Y + begin, Y + begin + 1, ...; their taps, the last first, are `first`, first + step, ...
struct Windows {
  int begin, first, step, count;

  __device__ Windows(int kernel, int dilation, int parity) {
    const int half = kernel / 2;
    step = dilation == 1 ? 2 : 1;
    first = dilation == 1 ? (kernel - 1 - half - parity) & 1 : 0;
    count = dilation == 1 ? (kernel - 1 - first) / 2 + 1 : parity ? 0 : kernel;
    begin = (parity - (kernel - 1 - first - half) * dilation) >> 1;
  }
  // The least and the largest distance from Y to an output, of both parities.
  __host__ __device__ static int before(int kernel, int dilation) { return kernel / 2 * dilation / 2; }
  __host__ __device__ static int after(int kernel, int dilation) { return (kernel / 2 * dilation + 1) / 2; }
};

// The outputs that hold pixels of a tile, at stride 1 or 2.
inline Window reads_of(const Tiling& tiling, int stride, int kernel, int dilation) {
  if (stride == 1) return Window(tiling, 1, kernel, dilation, 0);
  const int before = Windows::before(kernel, dilation), more = before + Windows::after(kernel, dilation);
  return Window(kRows * tiling.down + more, 8 * tiling.across + more, before);
}

// The pairs of taps of half precision at stride 2, for all parities: of columns that are `step` apart all rows. The
// windows of one parity have every second row of them, and the pairs of even or of odd columns.
struct InParities {
  int kernel, dilation;
  __device__ static int even_pairs(int kernel) { return (kernel + 3) / 4; }
  __host__ __device__ static int pairs(int kernel) { return (kernel + 1) / 2 * kernel; }
  __device__ TapPair operator()(int i) const {
    const int columns = i * (kernel == 3 ? 86 : kernel == 5 ? 52 : 37) >> 8;  // i / kernel
    const int row = i - columns * kernel, even = even_pairs(kernel), step = dilation == 1 ? 2 : 1;
    int column = 2 * columns;
    if (dilation == 1) column = columns < even ? 4 * columns : 4 * (columns - even) + 1;
    const int last = kernel * kernel - 1 - row * kernel - column;  // the last tap first
    return {last, column + step < kernel ? last - step : -1};
  }
};

// `tile` begins with the window of the thread's first pixel, as first_pixel says.
template <typename T, int S>
__device__ void gather(Four (&out)[kRows], const Cell<T>* tile, int down, int right, const Read& read,
                       const Taps<T>* taps) {
  const Window& window = read.window;
  const int size = read.kernel;
  int pitch = kCells<T> * window.columns;
  if constexpr (S == 1) {
    const auto run = [&](auto k, auto d) {
      constexpr int kSize = decltype(k)::value, kApart = decltype(d)::value;
      if constexpr (sizeof(T) == 4) {
        correlate<kSize, kApart>(out, tile, pitch, 4 * kApart, kSize, taps, 4 * kSize, 4);
      } else {
        forget(pitch);
        add_window<kSize, 1, kApart>(out, tile, pitch / 2, pitch, kApart, taps);
      }
    };
    using One = std::integral_constant<int, 1>;
    using Two = std::integral_constant<int, 2>;
    switch (read.dilation == 1 ? size : -size) {
      case 3:
        return run(std::integral_constant<int, 3>(), One());
      case 5:
        return run(std::integral_constant<int, 5>(), One());
      case 7:
        return run(std::integral_constant<int, 7>(), One());
      case -3:
        return run(std::integral_constant<int, 3>(), Two());
      case -5:
        return run(std::integral_constant<int, 5>(), Two());
      case -7:
        return run(std::integral_constant<int, 7>(), Two());
    }
  } else {
    const Windows rows(size, read.dilation, down), columns(size, read.dilation, right);
    tile += (rows.begin + window.before) * pitch + (columns.begin + window.before) * (sizeof(T) == 4 ? 4 : 1);
    taps += sizeof(T) == 4 ? (rows.first * size + columns.first) * 4
                           : (columns.first * InParities::even_pairs(size) * size + rows.first) * kWarp;
    const auto run = [&](auto k) {
      if constexpr (sizeof(T) == 4) {
        correlate<decltype(k)::value, 1>(out, tile, pitch, 4, columns.count, taps, rows.step * size * 4,
                                         columns.step * 4);
      } else {
        forget(pitch);
        add_column_pairs<decltype(k)::value>(out, tile, pitch / 2, pitch, columns.count, taps, rows.step * kWarp,
                                             size * kWarp);
      }
    };
    switch (rows.count) {
      case 1:
        return run(std::integral_constant<int, 1>());
      case 2:
        return run(std::integral_constant<int, 2>());
      case 3:
        return run(std::integral_constant<int, 3>());
      case 4:
        return run(std::integral_constant<int, 4>());
      case 5:
        return run(std::integral_constant<int, 5>());
      case 7:
        return run(std::integral_constant<int, 7>());
    }
  }
}

// Four places of maxima, one in every byte.
template <bool vector>
__device__ unsigned load_places(const int8_t* p, int count) {
  if constexpr (vector) return *reinterpret_cast<const unsigned*>(p);
  unsigned packed = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < count) packed |= static_cast<uint8_t>(p[i]) << 8 * i;
  }
  return packed;
}

// out += what the 3×3 pools hand to pixels (S · (row + r) + down, S · column + right) of image n.
template <int S, bool vector>
__device__ void add_pools(Four (&out)[kRows], const StateArguments& arguments, int n, int row, int column, int down,
                          int right, int own, int count) {
  const Sizes& sizes = arguments.sizes;
  constexpr int kBefore = S == 1 ? -1 : 0;  // from a pixel to the first window that may hold it
  constexpr int kLines = kRows + 1 - kBefore;
  const int step = sizes.out_width * sizes.channels;
  const int64_t first = (int64_t{n} * sizes.out_height + row + kBefore) * step + column * sizes.channels + own;
  Four averages[kLines];  // of a line of windows: they are the same for all pixels
#pragma unroll
  for (int i = 0; i < kLines; ++i) averages[i] = splat(0.0f);
#pragma unroll 1
  for (int dx = kBefore; dx <= (S == 1 ? 1 : right); ++dx) {
    if (static_cast<unsigned>(column + dx) >= static_cast<unsigned>(sizes.out_width)) continue;
    int64_t at = first + dx * sizes.channels;
#pragma unroll
    for (int i = 0; i < kLines; ++i, at += step) {
      if (static_cast<unsigned>(row + kBefore + i) >= static_cast<unsigned>(sizes.out_height)) continue;
      const Four average = load4(arguments.davg + at, vector ? 4 : count, vector);
      const Four maximum = load4(arguments.dmax + at, vector ? 4 : count, vector);
      const unsigned which = load_places<vector>(arguments.which + at, count);
#pragma unroll
      for (int k = 0; k < 4; ++k) averages[i][k] += average[k];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int dy = i + kBefore - r;
        if (dy < kBefore || dy > 1 || (S == 2 && dy > down)) continue;
        const unsigned others = which ^ 0x01010101u * ((1 - S * dy + down) * 3 + 1 - S * dx + right);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if ((others & 255u << 8 * k) == 0) out[r][k] += maximum[k];
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int i = r; i <= r + 1 - kBefore; ++i) {
      if (S == 2 && i - r > down) continue;
#pragma unroll
      for (int k = 0; k < 4; ++k) out[r][k] += averages[i][k];
    }
  }
}

// out += t of a stage without a window, pixels (row + r, column) of image n.
template <typename T, bool vector>
__device__ void add_point(Four (&out)[kRows], const T* t, const Sizes& sizes, int n, int row, int column, int own,
                          int count) {
  const Pixels pixels(false, n, row, column, 1, sizes.images, sizes.out_height, sizes.out_width, sizes.channels, own,
                      count);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const Four value = load4(t + pixels.base + pixels.at[r], vector ? 4 : count, vector);
#pragma unroll
    for (int k = 0; k < 4; ++k) out[r][k] += value[k];
  }
}

// Which places of these words a dropped skip keeps: a bit each.
__device__ inline uint32_t kept(const Words& words, int64_t limit) {
  uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) bits |= static_cast<uint32_t>(static_cast<int64_t>(words.v[i]) >= limit) << i;
  return bits;
}

// What a dropped skip keeps of its gradient. Bits in place of factors, and one block of words after the other, as
// registers are scarce here.
__device__ inline void keep(Four& gradient, const int64_t* seed, int64_t place, bool vector) {
  a_branch();
  const auto of_block = [&](int64_t block) {
    return kept(philox(static_cast<uint64_t>(*seed), static_cast<uint64_t>(block)), seed[1]);
  };
  uint32_t bits = of_block(place >> 2);
  if (!vector && (place & 3)) {
    a_branch();
    bits = (bits | of_block((place >> 2) + 1) << 4) >> (place & 3);
  }
  const float scale = scale_of_kept(seed[1]);
#pragma unroll
  for (int i = 0; i < 4; ++i) gradient[i] *= bits >> i & 1 ? scale : 0.0f;
}

// A warp has pixels that are next to each other or, of stride 2, two apart: then the windows that hold them are alike,
// and the warps of a block have the four parities of one tile, [2 rows, 2 columns] of them.
template <typename T, int S, bool vector>
__global__ __launch_bounds__(256, 2) void state_gradient_kernel(const __grid_constant__ StateArguments arguments) {
  const Sizes& sizes = arguments.sizes;
  const Tiling& tiling = arguments.tiling;
  const int channels = sizes.channels;
  char* const shared = static_cast<char*>(dynamic_shared());
  auto* const tile = reinterpret_cast<Cell<T>*>(shared);
  auto* const taps = reinterpret_cast<Taps<T>*>(shared + arguments.taps);
  if constexpr (sizeof(T) == 2) clear_diagonals(taps, arguments.taps_bytes);
  Place place = place_of_thread(tiling);
  const int parity = place.warp_image / tiling.images, down = parity / 2, right = parity % 2;
  place.warp_image %= tiling.images;
  move_to(place, tiling, blockIdx.x);
  const int c = blockIdx.y * kChannels, own = c + 4 * place.quad, count = min(max(channels - own, 0), 4);
  const int n = place.image + place.warp_image, row = place.y + place.row(0, 1), column = place.x + place.column();
  Four out[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) out[r] = splat(0);
  const int64_t map = int64_t{sizes.images} * sizes.out_height * sizes.out_width * channels;
  const T* t = static_cast<const T*>(arguments.t);
  for (int i = 0; i < arguments.stages; ++i, t += map) {
    const Read& read = arguments.reads[i];
    if (read.kernel == 1) {
      if (S == 2 && (down != read.shift || right != read.shift)) continue;
      add_point<T, vector>(out, t, sizes, n, row, column, own, count);
      continue;
    }
    __syncthreads();  // nobody reads the last tile any more
    const T* const weights = static_cast<const T*>(read.depthwise);
    if constexpr (sizeof(T) == 2 && S == 2) {
      load_diagonals(taps, InParities::pairs(read.kernel), weights, read.kernel * read.kernel, channels, c,
                     InParities{read.kernel, read.dilation});
    } else {
      load_weights<T, true>(taps, weights, read.kernel, channels, c);
    }
    const Share share = S == 1 ? share_of(place, tiling) : Share{0, static_cast<int>(threadIdx.x) / kWarp, 8};
    fill<vector>(tile, read.window, t, place, share, sizes.images, sizes.out_height, sizes.out_width, channels, c,
                 Copy<T>());
    __syncthreads();
    gather<T, S>(out, first_pixel<T>(tile, read.window, place, place.row(0, 1)), down, right, read,
                 own_taps<T>(taps, place));
  }
  const bool whole = is_whole(place, tiling, sizes.images, sizes.height / S, sizes.width / S, channels, c);
  const Pixels pixels(whole, n, S * row + down, S * column + right, S, sizes.images, sizes.height, sizes.width,
                      channels, own, count);
  if (arguments.bits) {
    keep_kinks(out, arguments.bits, pixels, channels, own);
  } else {
    const T* const x = static_cast<const T*>(arguments.x) + pixels.base;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Four value = load4(x + pixels.at[r], vector ? 4 : count, vector);
#pragma unroll
      for (int k = 0; k < 4; ++k) out[r][k] = value[k] <= 0 ? 0 : out[r][k];  // NaN passes
    }
  }
  const auto add_skip = [&](const Skip& skip, auto drops) {
    const float* const gains = arguments.gain + int64_t{skip.row} * sizes.outputs;
    const T* const gradient = static_cast<const T*>(skip.gradient) + pixels.base;
    Four gain;
#pragma unroll
    for (int k = 0; k < 4; ++k) gain[k] = gains[vector ? min(own, channels - 4) + k : min(own + k, channels - 1)];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      Four value = load4(gradient + pixels.at[r], vector ? 4 : count, vector);
      if constexpr (decltype(drops)::value)
        keep(value, arguments.seeds + skip.seed, pixels.base + pixels.at[r], vector);
      add_product(out[r], gain, value);
    }
  };
  for (int i = 0; i < arguments.skip_rows; ++i) add_skip(arguments.skips[i], std::false_type());
  if constexpr (S == 1) {
    const Skip* const dropped = arguments.skips + arguments.skip_rows;
    for (int d = 0; d < arguments.dropped_rows; ++d) add_skip(dropped[d], std::true_type());
  }
  if (pixels.rows == 0) return;
  if (arguments.dmax) add_pools<S, vector>(out, arguments, n, row, column, down, right, own, count);
  T* const to = static_cast<T*>(arguments.dx) + pixels.base;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (!pixels.there(r)) continue;
    if (arguments.adds) {
      const Four before = load4(to + pixels.at[r], count, vector);
#pragma unroll
      for (int k = 0; k < 4; ++k) out[r][k] += before[k];
    }
    store4(to + pixels.at[r], out[r], vector ? 4 : count, vector);
  }
}

template <typename T, bool vector>
cudaError_t start(const Call& call, const StateArguments& arguments, dim3 grid, size_t shared) {
  const unsigned threads = kWarp * arguments.tiling.warps();
  return call.sizes.stride == 1
             ? launch<state_gradient_kernel<T, 1, vector>>(grid, threads, shared, call.stream, arguments)
             : launch<state_gradient_kernel<T, 2, vector>>(grid, 4 * threads, shared, call.stream, arguments);
}

}  // namespace

cudaError_t state_gradient(const Call& call, const Affine& affine, const Operands& operands, const Stage* stages,
                           int count, const Final* finals, int finals_count, const void* t, const float* dmax,
                           const float* davg, const int8_t* which, void* dx) {
  const Sizes& sizes = call.sizes;
  const int64_t t_bytes = call.pixels() * sizes.channels * (call.type == Type::kFloat32 ? 4 : 2);
  const bool strided = sizes.stride == 2;
  Tiling tiling = tiling_of(sizes.images, sizes.height, sizes.width, 1, std::numeric_limits<int>::max());
  if (strided) {  // of pixels of one parity
    const int columns = (sizes.width + 1) / 2, rows = (sizes.height + 1) / 2;
    tiling = {1, 2, 1, (columns + 7) / 8, (rows + 7) / 8, sizes.images, 0, 1};
  }
  std::vector<Skip> skips;
  int plain = 0;
  for (const FinalKind kind : {FinalKind::kSkip, FinalKind::kDropped}) {
    for (int i = 0; i < finals_count; ++i) {
      if (finals[i].kind == kind)
        skips.push_back({operands.gradients[finals[i].edge], finals[i].row, finals[i].source});
    }
    if (kind == FinalKind::kSkip) plain = static_cast<int>(skips.size());
  }
  const int skip_count = static_cast<int>(skips.size());
  for (int stage = 0, skip = 0; stage == 0 || stage < count || skip < skip_count;
       stage += kMaxStages, skip += kMaxTensors) {
    StateArguments arguments = {};
    arguments.sizes = sizes;
    arguments.tiling = tiling;
    arguments.adds = stage > 0;
    arguments.gain = affine.gain;
    arguments.x = operands.x;
    arguments.t = static_cast<const char*>(t) + stage * t_bytes;
    if (stage == 0) {
      arguments.dmax = dmax;
      arguments.davg = davg;
      arguments.which = which;
    }
    arguments.seeds = operands.seeds;
    arguments.bits = operands.kept.state;
    arguments.dx = dx;
    arguments.stages = std::clamp(count - stage, 0, kMaxStages);
    const int here = std::clamp(skip_count - skip, 0, kMaxTensors);
    arguments.skip_rows = std::clamp(plain - skip, 0, here);
    arguments.dropped_rows = here - arguments.skip_rows;
    const size_t itemsize = call.type == Type::kFloat32 ? 4 : 2;
    size_t window = 0, window_taps = 0;
    for (int i = 0; i < arguments.stages; ++i) {
      const Stage& of = stages[stage + i];
      arguments.reads[i] = {of.depthwise < 0 ? nullptr : operands.weights[of.depthwise], of.kernel, of.dilation,
                            of.shift, reads_of(tiling, sizes.stride, of.kernel, of.dilation)};
      if (of.kernel == 1) continue;
      window = std::max(window, arguments.reads[i].window.bytes(tiling, itemsize));
      const int pairs = strided ? InParities::pairs(of.kernel) : pairs_of_taps(of.kernel);
      window_taps = std::max(window_taps, itemsize == 4 ? tap_bytes(of.kernel) : diagonal_bytes(pairs));
    }
    std::copy_n(skips.begin() + std::min(skip, skip_count), here, arguments.skips);
    arguments.taps = static_cast<int>(window);
    arguments.taps_bytes = static_cast<int>(window_taps);
    const dim3 grid(static_cast<unsigned>(tiling.tiles()), static_cast<unsigned>(quotient(sizes.channels, kChannels)));
    const cudaError_t error = for_type(call, [&](auto type, auto vector) {
      return start<decltype(type), decltype(vector)::value>(call, arguments, grid, window + window_taps);
    });
    if (error) return error;
  }
  return cudaSuccess;
}

}  // namespace fastdarts::cuda
