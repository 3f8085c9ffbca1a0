// Stages of mixed_op forward: ReLU, depthwise k×k and 1×1 convolution in one kernel, with the moments of what they
// give.
//
// A block has a chunk of tiles of one stage and a block of its outputs. Depthwise outputs live in registers only,
// between a window in shared memory and the fragments of the product.
#include "cuda/mixed_op/diagonal.h"
#include "cuda/mixed_op/product.h"
#include "cuda/mixed_op/statistics.h"
#include "cuda/mixed_op/strips.h"
#include "cuda/mixed_op/window.h"

namespace fastdarts::cuda {

namespace {

struct StageOperands {
  const void *in, *depthwise, *pointwise;
  void* raw;
  int kernel, dilation, first, count, row;
  bool reads_middle;
  int height, width;  // of what it reads
  Window window;
};

struct Arguments {
  StageOperands stages[kMaxStages];
  Sizes sizes;
  Affine affine;
  Tiling tiling;
  Statistics statistics;
  bool normalises;  // the middles that stages read
  float floor;
  int taps, pointwise, normals, pivots;  // where these begin in shared memory, in bytes
  int own_taps;                          // elements there, of 16 inputs
  bool holds;                            // weights of all inputs lie there, not of 16
  Divisor by_columns, by_rows;           // of tiles
};

__device__ inline void move_to(Place& place, const Arguments& a, int tile) {
  const int line = static_cast<int>(a.by_columns.quotient(tile)), group = static_cast<int>(a.by_rows.quotient(line));
  place.x = (tile - line * a.tiling.columns) * 8 * a.tiling.across;
  place.y = (line - group * a.tiling.rows) * kRows * a.tiling.down;
  place.image = group * a.tiling.images;
}

// Pixels of a tile that are in the map.
__device__ inline int pixels_of(const Place& place, const Arguments& a) {
  return min(a.sizes.images - place.image, a.tiling.images) * min(a.sizes.out_height - place.y, kRows * a.tiling.down) *
         min(a.sizes.out_width - place.x, 8 * a.tiling.across);
}

// Σ over the eight groups of a warp of E values of each thread, spread over them: thread (group, quad) ends up with
// values [E / 8 · group, ...) of its quad in the order of the bits of `group`, or with one that two threads share where
// E is 4.
template <int E>
__device__ void spread_sums(float (&values)[E]) {
  const int lane = threadIdx.x % kWarp;
  int n = E;
#pragma unroll
  for (int bit = 16; bit >= 4; bit /= 2) {
    if (n > 1) {
      n /= 2;
#pragma unroll
      for (int i = 0; i < E / 2; ++i) {
        if (i < n) {
          const bool upper = lane & bit;
          const float give = upper ? values[i] : values[i + n], keep = upper ? values[i + n] : values[i];
          values[i] = keep + __shfl_xor_sync(~0u, give, bit);
        }
      }
    } else {
      values[0] += __shfl_xor_sync(~0u, values[0], bit);
    }
  }
}

// Rows of a thread, all of which are there, or the first `count`.
struct All {
  __device__ bool operator()(int) const { return true; }
};
struct First {
  int count;
  __device__ bool operator()(int r) const { return r < count; }
};

// The moments of a block's outputs. Every thread adds up its own, about the mean of the first warp's first pixels: a
// mean far from 0 costs no digits. The sums lie in shared memory, as registers are few.
template <int N>
struct Moments {
  static constexpr int kHeld = 2 * N, kOwn = kHeld > 8 ? kHeld / 8 : 1, kOutputs = 8 * N;
  Four* pivots;  // [kOutputs]
  Four* own;     // Σ and Σ² of this thread, `blockDim.x` apart

  static int fours(int threads) { return kOutputs / 4 + N * threads; }

  __device__ explicit Moments(void* shared)
      : pivots(static_cast<Four*>(shared)), own(pivots + kOutputs / 4 + threadIdx.x) {
#pragma unroll
    for (int i = 0; i < N; ++i) own[i * blockDim.x] = splat(0);
  }

  // The whole block; its first warp always has a pixel.
  __device__ void begin(const Sums<N>& sums, const Place& place, int rows) {
    if (threadIdx.x < kWarp) {
      float pixels = static_cast<float>(min(max(rows, 0), kRows));
      Four values[N / 2];
#pragma unroll
      for (int b = 0; b < N / 2; ++b) {
        values[b] = splat(0);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int i = 0; i < 4; ++i) values[b][i] += r < rows ? sums.outputs(r, b)[i] : 0.0f;
        }
      }
#pragma unroll
      for (int lanes = 4; lanes < kWarp; lanes *= 2) {
        pixels += __shfl_xor_sync(~0u, pixels, lanes);
#pragma unroll
        for (int b = 0; b < N / 2; ++b) {
#pragma unroll
          for (int i = 0; i < 4; ++i) values[b][i] += __shfl_xor_sync(~0u, values[b][i], lanes);
        }
      }
      if (place.group == 0) {
#pragma unroll
        for (int b = 0; b < N / 2; ++b) {
#pragma unroll
          for (int i = 0; i < 4; ++i) values[b][i] /= pixels;
          pivots[4 * b + place.quad] = values[b];
        }
      }
    }
    __syncthreads();
  }

  template <typename There>
  __device__ void add(const Sums<N>& sums, const Place& place, const There& there) {
#pragma unroll
    for (int b = 0; b < N / 2; ++b) {
      const Four pivot = pivots[4 * b + place.quad];
      Four &first = own[2 * b * blockDim.x], &second = own[(2 * b + 1) * blockDim.x];
      Four sum = first, squares = second;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (!there(r)) continue;
        const Four value = sums.outputs(r, b);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float d = value[i] - pivot[i];
          sum[i] += d;
          squares[i] = fmaf(d, d, squares[i]);
        }
      }
      first = sum, second = squares;
    }
  }

  // Writes the moments of the chunk, which has count() pixels. `shared` [warps, 2, kOutputs] is anybody's; all threads
  // of the block take part.
  template <typename Count>
  __device__ void store(float* shared, int warps, const Statistics& to, const StageOperands& stage, int begin,
                        int outputs, const Count& count) const {
    float first[kHeld], second[kHeld];
#pragma unroll
    for (int e = 0; e < kHeld; ++e) {
      first[e] = own[e / 4 * 2 * blockDim.x][e % 4];
      second[e] = own[(e / 4 * 2 + 1) * blockDim.x][e % 4];
    }
    spread_sums(first);
    spread_sums(second);
    __syncthreads();  // nobody reads a window any more
    const int group = threadIdx.x % kWarp / 4, quad = threadIdx.x % 4;
    float* const mine = shared + threadIdx.x / kWarp * 2 * kOutputs;
    if (kHeld >= 8 || group % 2 == 0) {
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const int place = kHeld >= 8 ? group * kOwn + i : group / 2;
        const int o = 16 * (place / 4) + 4 * quad + place % 4;
        mine[o] = first[i];
        mine[kOutputs + o] = second[i];
      }
    }
    __syncthreads();
    if (threadIdx.x < kOutputs) write(shared, warps, to, stage, begin, outputs, count);
  }

  // Of the output of this thread: adds up the warps.
  template <typename Count>
  __device__ void write(const float* shared, int warps, const Statistics& to, const StageOperands& stage, int begin,
                        int outputs, const Count& count) const {
    const int i = threadIdx.x;
    if (begin + i >= stage.count) return;
    float sum = 0, squares = 0;
    for (int warp = 0; warp < warps; ++warp) {
      sum += shared[2 * warp * kOutputs + i];
      squares += shared[(2 * warp + 1) * kOutputs + i];
    }
    const float n = count(), shift = sum / n, around = fmaf(-sum, shift, squares);
    float* const at =
        to.partial + (int64_t{stage.row} * to.chunks + blockIdx.x) * kMoments * outputs + stage.first + begin + i;
    at[0] = pivots[i / 4][i % 4];
    at[outputs] = shift;
    at[2 * outputs] = around < 0 ? 0 : around;  // NaN stays NaN
    at[3 * outputs] = n;
  }
};

// Pointwise weights of 16 inputs from c on, of 8 N outputs from o on, as products take them: [N, 8 columns, 4] fours.
template <typename T, bool exact>
using Weights = std::conditional_t<std::is_same_v<T, float>, Four, Pairs>;

template <typename T, bool exact, bool vector, int N>
__device__ void load_pointwise(Weights<T, exact>* to, const T* weights, int count, int o, int channels, int c) {
  for (int i = threadIdx.x; i < 8 * N * 4; i += blockDim.x) {
    const int own = o + i / 4, from = c + 4 * (i % 4);
    const Four w =
        load4(weights + int64_t{own} * channels + from, own < count ? min(max(channels - from, 0), 4) : 0, vector);
    Weights<T, exact> rounded;
    if constexpr (std::is_same_v<T, float>) {
#pragma unroll
      for (int k = 0; k < 4; ++k) rounded[k] = exact ? w[k] : __uint_as_float(to_tf32(w[k]));
    } else {
      rounded = pairs_of<T>(w);
    }
    to[4 * column_of_output(i / 4) + i % 4] = rounded;
  }
}

// Depthwise outputs. Windows of the usual sizes are unrolled with their dilation known: no addresses are computed.
template <typename T>
__device__ void convolve(Four (&out)[kRows], const Cell<T>* window, int pitch, int size, int stride, int dilation,
                         const Taps<T>* taps) {
  if (stride == 1 && dilation == 1) {
    if (size == 3) return depthwise<3, 1>(out, window, pitch, 1, taps);
    if (size == 5) return depthwise<5, 1, 5>(out, window, pitch, 1, taps);
  } else if (stride == 1) {
    if (size == 3) return depthwise<3, 1>(out, window, pitch, 2, taps);
    if (size == 5) return depthwise<5, 1, 5>(out, window, pitch, 2, taps);
  }
  if (size == 7) {
    if (stride == 1) return depthwise<7, 1>(out, window, pitch, dilation, taps);
    return depthwise<7, 2>(out, window, pitch, dilation, taps);
  }
  if (size == 3) return depthwise<3, 2>(out, window, pitch, dilation, taps);
  return depthwise<5, 2>(out, window, pitch, dilation, taps);
}

// The same where there is no convolution, with rows `step` apart.
template <typename T>
__device__ void take(Four (&out)[kRows], const Cell<T>* from, int pitch, int step, const Window& window,
                     const Place& place) {
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) out[r] = from[r * step * pitch];
  } else {
    const auto* words = reinterpret_cast<const uint32_t*>(from + place.group * window.stride) + place.quad;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      out[r] = four_of<T>(Pairs{{words[4 * r * step * pitch], words[4 * (r * step * pitch + window.columns)]}});
    }
  }
}

template <typename T, bool exact, bool vector, int N>
__global__ __launch_bounds__(256, exact ? 1 : 2) void stages_kernel(const __grid_constant__ Arguments arguments) {
  const StageOperands& stage = arguments.stages[blockIdx.z];
  const int o = static_cast<int>(blockIdx.y) * 8 * N;
  if (o >= stage.count) return;
  const Tiling& tiling = arguments.tiling;
  const Sizes& sizes = arguments.sizes;
  const Window& window = stage.window;
  char* const shared = static_cast<char*>(dynamic_shared());
  auto* const tile = reinterpret_cast<Cell<T>*>(shared);
  auto* const first_taps = reinterpret_cast<Taps<T>*>(shared + arguments.taps);
  auto* const first_pointwise = reinterpret_cast<Weights<T, exact>*>(shared + arguments.pointwise);
  Normal* const normals =
      reinterpret_cast<Normal*>(shared + arguments.normals);  // of the middle, of four channels each
  Moments<N> moments(shared + arguments.pivots);
  const bool normalises = stage.reads_middle && arguments.normalises;
  if (normalises) {
    for (int c = 4 * static_cast<int>(threadIdx.x); c < sizes.channels; c += 4 * static_cast<int>(blockDim.x)) {
      const Normal normal = normal_of(arguments.affine, stage.row - 1, c, sizes.channels);
      normals[c / 4] = normal;
    }
  }
  if constexpr (sizeof(T) == 2) clear_diagonals(first_taps, arguments.pointwise - arguments.taps);
  const int first_tile = static_cast<int>(blockIdx.x) * tiling.tiles_a_chunk;
  const int tiles = min(static_cast<int>(tiling.tiles()) - first_tile, tiling.tiles_a_chunk);
  for (int t = 0; t < tiles; ++t) {
    unsigned thread = threadIdx.x;
    if constexpr (sizeof(T) == 4) forget(thread);
    Place place = place_of_thread(tiling, thread);
    move_to(place, arguments, first_tile + t);
    const int first_row = place.row(0, stage.dilation);
    const int pitch = kCells<T> * window.columns;
    auto* taps = first_taps;
    auto* pointwise = first_pointwise;
    Sums<N> sums;
    sums.clear();
    for (int c = 0; c < sizes.channels; c += kChannels) {
      __syncthreads();  // nobody reads the tile before this one any more
      if (t == 0 || !arguments.holds) {
        if (stage.kernel > 1) {
          load_weights<T>(taps, static_cast<const T*>(stage.depthwise), stage.kernel, sizes.channels, c);
        }
        load_pointwise<T, exact, vector, N>(pointwise, static_cast<const T*>(stage.pointwise), stage.count, o,
                                            sizes.channels, c);
      }
      const auto load = [&](const auto& transform) {
        fill<vector>(tile, window, static_cast<const T*>(stage.in), place, share_of(place, tiling), sizes.images,
                     stage.height, stage.width, sizes.channels, c, transform);
      };
      if (normalises) {
        load(Normalise<T>{normals[min(c / 4 + place.quad, (sizes.channels - 1) / 4)], arguments.floor});
      } else {
        load(Rectify<T>{arguments.floor});
      }
      __syncthreads();
      Four out[kRows];
      int first = static_cast<int>(first_pixel<T>(tile, window, place, first_row) - tile);
      forget(first);  // else it is computed in every branch of what follows
      const Cell<T>* const own = tile + first;
      if (stage.kernel > 1) {
        convolve<T>(out, own, pitch, stage.kernel, window.stride, stage.dilation, own_taps<T>(taps, place));
      } else {
        take<T>(out, own, pitch, stage.dilation * window.stride, window, place);
      }
      add_product<T, exact, false, true>(sums, out, place, InColumns<Weights<T, exact>>{pointwise});
      if (arguments.holds) taps += arguments.own_taps, pointwise += 8 * N * 4;
    }
    const int n = place.image + place.warp_image, x = place.x + place.column(), y = place.y + first_row;
    T* const to = static_cast<T*>(stage.raw) + (int64_t{n} * sizes.out_height + y) * (sizes.out_width * sizes.outputs) +
                  x * sizes.outputs + stage.first + o + 4 * place.quad;
    const int step = stage.dilation * sizes.out_width * sizes.outputs;
    const auto finish = [&](const auto& there) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (!there(r)) continue;
#pragma unroll
        for (int b = 0; b < N / 2; ++b) {
          store4(to + r * step + 16 * b, sums.outputs(r, b), min(max(stage.count - o - 16 * b - 4 * place.quad, 0), 4),
                 vector);
        }
      }
      if (arguments.statistics.partial) moments.add(sums, place, there);
    };
    const bool whole = pixels_of(place, arguments) == kWarp * tiling.warps();
    const int own_rows = n < sizes.images && x < sizes.out_width
                             ? (sizes.out_height - y + stage.dilation - 1) >> (stage.dilation - 1)
                             : 0;
    if (arguments.statistics.partial && t == 0) moments.begin(sums, place, own_rows);
    if (whole) {
      finish(All());
    } else {
      finish(First{own_rows});
    }
  }
  if (arguments.statistics.partial) {
    float* const sums = reinterpret_cast<float*>(shared);
    const auto pixels = [&] {
      Place place = {};
      int count = 0;
      for (int t = 0; t < tiles; ++t) {
        move_to(place, arguments, first_tile + t);
        count += pixels_of(place, arguments);
      }
      return static_cast<float>(count);
    };
    moments.store(sums, tiling.warps(), arguments.statistics, stage, o, sizes.outputs, pixels);
    finish_row(arguments.statistics, &stage.row, 1, stage.first + o, min(8 * N, stage.count - o), tiling.chunks,
               sizes.outputs, sums);
  }
}

template <typename T, bool exact, bool vector, int N>
cudaError_t start(Arguments& arguments, int count, int widest, size_t window, int kernel, cudaStream_t stream) {
  const Tiling& tiling = arguments.tiling;
  const int64_t inputs = quotient(arguments.sizes.channels, kChannels);
  const size_t taps = taps_bytes<T>(kernel);
  const size_t pointwise = 8 * N * 4 * sizeof(Weights<T, exact>);
  const size_t normals = quotient(arguments.sizes.channels, 4) * sizeof(Normal);
  const size_t moments = Moments<N>::fours(kWarp * tiling.warps()) * sizeof(Four);
  arguments.holds = inputs == 1 || window + inputs * (taps + pointwise) + normals + moments <= kHeldBytes;
  const int64_t held = arguments.holds ? inputs : 1;
  arguments.own_taps = static_cast<int>(taps / sizeof(Taps<T>));
  arguments.taps = static_cast<int>(window);
  arguments.pointwise = static_cast<int>(arguments.taps + held * taps);
  arguments.normals = static_cast<int>(arguments.pointwise + held * pointwise);
  arguments.pivots = static_cast<int>(arguments.normals + normals);
  const size_t shared = arguments.pivots + moments;
  const dim3 grid(tiling.chunks, static_cast<unsigned>(quotient(widest, 8 * N)), count);
  return launch<stages_kernel<T, exact, vector, N>>(grid, kWarp * tiling.warps(), shared, stream, arguments);
}

// More than 32 outputs are several blocks, each with the depthwise convolution again: the registers of 64 sums would
// leave one block on a multiprocessor, and maps with many channels are small, so that there would be few blocks.
template <typename T>
cudaError_t start(const Call& call, Arguments& arguments, int count, int widest, size_t window, int kernel) {
  if (!call.vector) return start<T, false, false, 2>(arguments, count, widest, window, kernel, call.stream);
  return widest <= 16 ? start<T, false, true, 2>(arguments, count, widest, window, kernel, call.stream)
                      : start<T, false, true, 4>(arguments, count, widest, window, kernel, call.stream);
}

}  // namespace

cudaError_t run_stages(const Call& call, const Affine& affine, const Operands& operands, const Stage* stages, int count,
                       const Tiling& tiling, const Statistics* statistics) {
  for (int begin = 0; begin < count; begin += kMaxStages) {
    Arguments arguments = {};
    arguments.sizes = call.sizes;
    arguments.affine = affine;
    arguments.tiling = tiling;
    arguments.by_columns = divisor_of(tiling.columns), arguments.by_rows = divisor_of(tiling.rows);
    if (statistics) arguments.statistics = *statistics;
    arguments.normalises = !operands.kept.any;
    arguments.floor = operands.kept.floor();
    const int here = std::min(kMaxStages, count - begin);
    const int stride = stages[begin].reads < 0 ? call.sizes.stride : 1;
    int widest = 0, kernel = 1;
    size_t window = 0;
    for (int i = 0; i < here; ++i) {
      const Stage& stage = stages[begin + i];
      const bool reads_middle = stage.reads >= 0;
      const Window of(tiling, stride, stage.kernel, stage.dilation, stage.shift);
      arguments.stages[i] = {operands.read_by(stage, begin + i),
                             stage.depthwise < 0 ? nullptr : operands.weights[stage.depthwise],
                             operands.weights[stage.pointwise],
                             operands.raw[stage.raw],
                             stage.kernel,
                             stage.dilation,
                             stage.first,
                             stage.count,
                             stage.row,
                             reads_middle,
                             reads_middle ? call.sizes.out_height : call.sizes.height,
                             reads_middle ? call.sizes.out_width : call.sizes.width,
                             of};
      widest = std::max(widest, stage.count);
      kernel = std::max(kernel, stage.kernel);
      window = std::max(window, of.bytes(tiling, call.type == Type::kFloat32 ? 4 : 2));
    }
    const auto error = [&] {
      switch (call.type) {
        case Type::kFloat16:
          return start<__half>(call, arguments, here, widest, window, kernel);
        case Type::kBFloat16:
          return start<__nv_bfloat16>(call, arguments, here, widest, window, kernel);
        default:
          return call.exact ? start<float, true, false, 2>(arguments, here, widest, window, kernel, call.stream)
                            : start<float>(call, arguments, here, widest, window, kernel);
      }
    }();
    if (error) return error;
  }
  return cudaSuccess;
}

}  // namespace fastdarts::cuda
