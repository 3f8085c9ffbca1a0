// Gradients of what stages read: the transposed depthwise convolution of t = dL/d(depthwise output), and what else
// hands gradients to the state. t lies in shared memory with all that the windows over a tile meet.
#include <limits>

#include "cuda/mixed_op/tile.h"

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
};

struct Skip {
  const void* gradient;
  int row;
};

struct StateArguments {
  Read reads[kMaxStages];
  Skip skips[kMaxTensors];
  int stages, skip_rows;
  Sizes sizes;
  Tiling tiling;
  bool vector, adds;  // adds: dx has a part already
  int taps;           // where they begin in shared memory, in bytes
  const float* gain;
  const void *x, *t;
  const float *dmax, *davg;
  const int8_t* which;
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

template <int S>
__host__ __device__ Halo reads_of(const Tiling& tiling, int kernel, int dilation) {
  const int half = kernel / 2 * dilation;
  const int before = S == 1 ? half : Windows::before(kernel, dilation);
  const int more = before + (S == 1 ? half : Windows::after(kernel, dilation));
  return {kRows * tiling.down + more, 8 * tiling.across + more, -before, -before};
}

// `tile` begins with the halo of the thread's image, at the thread's channels; row and column are the thread's first.
template <int S>
__device__ void gather(Four (&out)[kRows], const Four* tile, const Halo& halo, int row, int column, int down, int right,
                       const Read& read, const Four* taps) {
  const int size = read.kernel, pitch = halo.columns * 4;
  if constexpr (S == 1) {
    tile += row * pitch + column * 4;
    const auto run = [&](auto k, auto d) {
      constexpr int kSize = decltype(k)::value, kApart = decltype(d)::value;
      correlate<kSize, kApart>(out, tile, pitch, 4 * kApart, kSize, taps, 4 * kSize, 4);
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
    tile += (row + rows.begin - halo.top) * pitch + (column + columns.begin - halo.left) * 4;
    taps += (rows.first * size + columns.first) * 4;
    const auto run = [&](auto k) {
      correlate<decltype(k)::value, 1>(out, tile, pitch, 4, columns.count, taps, rows.step * size * 4,
                                       columns.step * 4);
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

// Four places of maxima.
__device__ inline void load_places(int (&places)[4], const int8_t* p, int count, bool vector) {
  Packed<int8_t> packed = {};
  if (vector) {
    if (count > 0) packed = *reinterpret_cast<const Packed<int8_t>*>(p);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < count) packed.v[i] = p[i];
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) places[i] = packed.v[i];
}

// out += what the 3×3 pools hand to pixels (S · (row + r) + down, S · column + right) of image n.
template <int S>
__device__ void add_pools(Four (&out)[kRows], const StateArguments& arguments, int n, int row, int column, int down,
                          int right, int own, int count) {
  const Sizes& sizes = arguments.sizes;
  constexpr int kBefore = S == 1 ? -1 : 0;  // from a pixel to the first window that may hold it
  const int64_t image = int64_t{n} * sizes.out_height * sizes.out_width;
#pragma unroll 1
  for (int dx = kBefore; dx <= (S == 1 ? 1 : right); ++dx) {
    const int x = column + dx;
    if (x < 0 || x >= sizes.out_width) continue;
#pragma unroll
    for (int i = kBefore; i <= kRows; ++i) {
      const int y = row + i;
      if (y < 0 || y >= sizes.out_height) continue;
      const int64_t at = (image + y * sizes.out_width + x) * sizes.channels + own;
      const Four average = load4(arguments.davg + at, count, arguments.vector);
      const Four maximum = load4(arguments.dmax + at, count, arguments.vector);
      int which[4];
      load_places(which, arguments.which + at, count, arguments.vector);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int dy = i - r;
        if (dy < kBefore || dy > 1 || (S == 2 && dy > down)) continue;
        const int place = (1 - S * dy + down) * 3 + 1 - S * dx + right;
#pragma unroll
        for (int k = 0; k < 4; ++k) out[r][k] += average[k] + (which[k] == place ? maximum[k] : 0.0f);
      }
    }
  }
}

// A warp has pixels that are next to each other or, of stride 2, two apart: then the windows that hold them are alike,
// and the warps of a block have the four parities of one tile, [2 rows, 2 columns] of them.
template <typename T, int S>
__global__ __launch_bounds__(256, 2) void state_gradient_kernel(const __grid_constant__ StateArguments arguments) {
  const Sizes& sizes = arguments.sizes;
  const Tiling& tiling = arguments.tiling;
  const int channels = sizes.channels;
  char* const shared = static_cast<char*>(dynamic_shared());
  Four* const tile = reinterpret_cast<Four*>(shared);
  Four* const taps = reinterpret_cast<Four*>(shared + arguments.taps);
  Place place = place_of_thread(tiling);
  const int parity = place.warp_image / tiling.images, down = parity / 2, right = parity % 2;
  place.warp_image -= parity * tiling.images;
  move_to(place, tiling, blockIdx.x);
  const int c = blockIdx.y * kChannels, own = c + 4 * place.quad, count = min(max(channels - own, 0), 4);
  const int n = place.image + place.warp_image, row = place.y + place.row(0, 1), column = place.x + place.column();
  Four out[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) out[r] = splat(0);
  const int64_t map = int64_t{sizes.out_height} * sizes.out_width * channels;
  for (int i = 0; i < arguments.stages; ++i) {
    const Read& read = arguments.reads[i];
    const T* const t = static_cast<const T*>(arguments.t) + i * sizes.images * map;
    if (read.kernel == 1) {
      if (S == 2 && (down != read.shift || right != read.shift)) continue;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const bool there = n < sizes.images && row + r < sizes.out_height && column < sizes.out_width;
        const Four value = load4(t + n * map + int64_t{(row + r) * sizes.out_width + column} * channels + own,
                                 there ? count : 0, arguments.vector);
#pragma unroll
        for (int k = 0; k < 4; ++k) out[r][k] += value[k];
      }
      continue;
    }
    Halo halo = reads_of<S>(tiling, read.kernel, read.dilation);
    __syncthreads();  // nobody reads the last tile any more
    load_flipped_taps(reinterpret_cast<float*>(taps), static_cast<const T*>(read.depthwise), read.kernel * read.kernel,
                      channels, c);
    halo.top += place.y;
    halo.left += place.x;
    load_halo(tile, t, halo, place, tiling, sizes.images, sizes.out_height, sizes.out_width, channels, c,
              arguments.vector, [](const Four& x) { return x; });
    __syncthreads();
    halo.top -= place.y;
    halo.left -= place.x;
    gather<S>(out, tile + place.warp_image * halo.rows * halo.columns * 4 + place.quad, halo, place.row(0, 1),
              place.column(), down, right, read, taps + place.quad);
  }
  const int x = S * column + right;
  if (n >= sizes.images || x >= sizes.width) return;
  bool there[kRows];
  int64_t at[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int y = S * (row + r) + down;
    there[r] = y < sizes.height;
    at[r] = (int64_t{n} * sizes.height * sizes.width + y * sizes.width + x) * channels + own;
    const Four value = load4(static_cast<const T*>(arguments.x) + at[r], there[r] ? count : 0, arguments.vector);
    const int64_t pixel = int64_t{n} * sizes.height * sizes.width + (there[r] ? y * sizes.width + x : 0);
    const Passes passes(value, arguments.bits, pixel, channels, own);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (!passes.v[k]) out[r][k] = 0;
    }
  }
  for (int i = 0; i < arguments.skip_rows; ++i) {
    const Skip& skip = arguments.skips[i];
    Four gain = splat(0);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (k < count) gain[k] = arguments.gain[int64_t{skip.row} * sizes.outputs + own + k];
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      add_product(out[r], gain,
                  load4(static_cast<const T*>(skip.gradient) + at[r], there[r] ? count : 0, arguments.vector));
    }
  }
  if (arguments.dmax) add_pools<S>(out, arguments, n, row, column, down, right, own, count);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (!there[r]) continue;
    T* const to = static_cast<T*>(arguments.dx) + at[r];
    if (arguments.adds) {
      const Four before = load4(to, count, arguments.vector);
#pragma unroll
      for (int k = 0; k < 4; ++k) out[r][k] += before[k];
    }
    store4(to, out[r], count, arguments.vector);
  }
}

template <typename T>
cudaError_t start(const Call& call, const StateArguments& arguments, dim3 grid, size_t shared) {
  return call.sizes.stride == 1 ? launch<state_gradient_kernel<T, 1>>(grid, kWarp * arguments.tiling.warps(), shared,
                                                                      call.stream, arguments)
                                : launch<state_gradient_kernel<T, 2>>(grid, 4 * kWarp * arguments.tiling.warps(),
                                                                      shared, call.stream, arguments);
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
  for (int i = 0; i < finals_count; ++i) {
    if (finals[i].kind == FinalKind::kSkip) skips.push_back({operands.gradients[finals[i].edge], finals[i].row});
  }
  const int skip_count = static_cast<int>(skips.size());
  for (int stage = 0, skip = 0; stage == 0 || stage < count || skip < skip_count;
       stage += kMaxStages, skip += kMaxTensors) {
    StateArguments arguments = {};
    arguments.sizes = sizes;
    arguments.tiling = tiling;
    arguments.vector = call.vector;
    arguments.adds = stage > 0;
    arguments.gain = affine.gain;
    arguments.x = operands.x;
    arguments.t = static_cast<const char*>(t) + stage * t_bytes;
    if (stage == 0) {
      arguments.dmax = dmax;
      arguments.davg = davg;
      arguments.which = which;
    }
    arguments.bits = operands.kept.state;
    arguments.dx = dx;
    arguments.stages = std::clamp(count - stage, 0, kMaxStages);
    arguments.skip_rows = std::clamp(skip_count - skip, 0, kMaxTensors);
    size_t window = 0, window_taps = 0;
    for (int i = 0; i < arguments.stages; ++i) {
      const Stage& of = stages[stage + i];
      arguments.reads[i] = {of.depthwise < 0 ? nullptr : operands.weights[of.depthwise], of.kernel, of.dilation,
                            of.shift};
      if (of.kernel == 1) continue;
      const Halo halo =
          strided ? reads_of<2>(tiling, of.kernel, of.dilation) : reads_of<1>(tiling, of.kernel, of.dilation);
      window = std::max(window, sizeof(float) * kChannels * tiling.images * halo.rows * halo.columns);
      window_taps = std::max(window_taps, tap_bytes(of.kernel));
    }
    std::copy_n(skips.begin() + std::min(skip, skip_count), arguments.skip_rows, arguments.skips);
    arguments.taps = static_cast<int>(window);
    const dim3 grid(static_cast<unsigned>(tiling.tiles()), static_cast<unsigned>(quotient(sizes.channels, kChannels)));
    const auto error = [&] {
      switch (call.type) {
        case Type::kFloat16:
          return start<__half>(call, arguments, grid, window + window_taps);
        case Type::kBFloat16:
          return start<__nv_bfloat16>(call, arguments, grid, window + window_taps);
        default:
          return start<float>(call, arguments, grid, window + window_taps);
      }
    }();
    if (error) return error;
  }
  return cudaSuccess;
}

}  // namespace fastdarts::cuda
