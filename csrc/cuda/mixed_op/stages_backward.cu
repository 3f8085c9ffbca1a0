// Backward of the stages of mixed_op: dL/dz is formed on load and never stored; t = dL/d(depthwise output) is the only
// map written. Parts of the weight gradients come from the same pass over dL/dz.
//
// A block has a chunk of tiles of one stage, 16 of its inputs, and up to 64 outputs whose weights it adds up. Where
// there are more outputs, other blocks have them; the first of these blocks also has t and the depthwise weights.
#include "cuda/mixed_op/product.h"
#include "cuda/mixed_op/weight_gradients.h"

namespace fastdarts::cuda {

namespace {

struct StageOperands {
  const void *in, *raw, *gradient, *depthwise, *pointwise;
  int kernel, dilation, shift, first, count, row;
  bool reads_middle;
};

constexpr int kMostGroups = 4;

struct Arguments {
  StageOperands stages[kMaxStages];
  Sizes sizes;
  Affine affine;
  Tiling tiling;
  const float *dgain, *doffset;
  float values;
  bool training, vector, normalises;  // normalises: the middles that stages read
  float floor;
  int blocks;                                              // of 16 inputs
  int padded;                                              // most outputs of a stage, to a multiple of 16
  int groups;                                              // of 16 outputs whose weights a block has
  int pointwise, depthwise, normals, window, areas, sums;  // where these begin in shared memory, in bytes
  void* t;
  float *taps, *products;
};

// dL/dz = scale · g − slope · (z − mean) − level, per output of a stage; in shared memory [outputs / 4, kConstants, 4].
enum { kScale, kSlope, kLevel, kMean, kConstants };

__device__ void load_constants(float* constants, const Arguments& arguments, const StageOperands& stage) {
  for (int o = threadIdx.x; o < arguments.padded; o += blockDim.x) {
    float values[kConstants] = {};
    if (o < stage.count) {
      const int64_t at = int64_t{stage.row} * arguments.sizes.outputs + stage.first + o;
      const float inverse_deviation = inverse(arguments.affine, at);
      values[kScale] = arguments.affine.gain[at] * inverse_deviation;
      if (arguments.training) {
        values[kSlope] = values[kScale] * inverse_deviation * arguments.dgain[at] / arguments.values;
        values[kLevel] = values[kScale] * arguments.doffset[at] / arguments.values;
        values[kMean] = arguments.affine.mean[at];
      }
    }
#pragma unroll
    for (int i = 0; i < kConstants; ++i) constants[(o / 4 * kConstants + i) * 4 + o % 4] = values[i];
  }
}

// A number as products take it. In half precision they round themselves.
template <typename T, bool exact>
__device__ float factor(float x) {
  if constexpr (std::is_same_v<T, float> && !exact) {
    return float_of(to_tf32(x));
  } else {
    return x;
  }
}

// Pointwise weights of 16 inputs from c on, [outputs / 16, 16 inputs, 16 outputs].
template <typename T, bool exact>
__device__ void load_pointwise(float* to, const T* weights, int outputs, int count, int channels, int c) {
  for (int i = threadIdx.x; i < outputs * kChannels; i += blockDim.x) {
    const int o = i / kChannels, own = i % kChannels;
    to[(o / kChannels * kChannels + own) * kChannels + o % kChannels] =
        o < count && c + own < channels ? factor<T, exact>(to_float(weights[int64_t{o} * channels + c + own])) : 0.0f;
  }
}

// The pixels of a thread in the output maps of a stage.
struct Pixels {
  int64_t image;     // the first pixel of the image
  int within, step;  // from there to the thread's first; between its rows
  int rows;          // of the thread that are in the map

  __device__ Pixels(const Place& place, const Sizes& sizes, int dilation) {
    const int n = place.image + place.warp_image, x = place.x + place.column(), y = place.y + place.row(0, dilation);
    image = int64_t{n} * sizes.out_height * sizes.out_width;
    within = y * sizes.out_width + x;
    step = dilation * sizes.out_width;
    rows = n < sizes.images && x < sizes.out_width ? (sizes.out_height - y + dilation - 1) >> (dilation - 1) : 0;
  }
  __device__ bool there(int r) const { return r < rows; }
};

// A number that the compiler takes for another in every turn of a loop. What comes of it is computed again: kept over a
// turn, it would take a register.
__device__ inline void forget(int& x) { asm volatile("" : "+r"(x)); }

template <typename T, bool exact, int K, int S>
__device__ void stage_gradients_of(const Arguments& arguments, const StageOperands& stage) {
  const Sizes& sizes = arguments.sizes;
  const Tiling& tiling = arguments.tiling;
  const int c = static_cast<int>(blockIdx.y) % arguments.blocks * kChannels;
  const int group = static_cast<int>(blockIdx.y) / arguments.blocks;
  if (group * arguments.groups * kChannels >= stage.count) return;
  const bool first = group == 0, weights = arguments.products != nullptr;
  char* const shared = static_cast<char*>(dynamic_shared());
  const Four* const constants = reinterpret_cast<const Four*>(shared);
  float* const pointwise = reinterpret_cast<float*>(shared + arguments.pointwise);
  Four* const taps = reinterpret_cast<Four*>(shared + arguments.depthwise);
  Normal* const normals = reinterpret_cast<Normal*>(shared + arguments.normals);  // of what the stage reads
  Four* const tile = reinterpret_cast<Four*>(shared + arguments.window);
  uint32_t* const areas = reinterpret_cast<uint32_t*>(shared + arguments.areas);
  uint32_t* const inputs = areas + threadIdx.x / kWarp * (2 * kArea);  // of this warp
  uint32_t* const outputs = inputs + kArea;

  Four* const all_sums = reinterpret_cast<Four*>(shared + arguments.sums);
  Four* const sums = all_sums + threadIdx.x / kWarp * (arguments.groups * kFragment) + threadIdx.x % kWarp;

  load_constants(reinterpret_cast<float*>(shared), arguments, stage);
  if (first) {
    load_pointwise<T, exact>(pointwise, static_cast<const T*>(stage.pointwise), arguments.padded, stage.count,
                             sizes.channels, c);
  }
  if (K > 1 && weights) {
    if (threadIdx.x < kChannels / 4) {
      const Normal none = {splat(0), splat(1), splat(0)};
      const int of = c + 4 * threadIdx.x;
      normals[threadIdx.x] = stage.reads_middle && arguments.normalises
                                 ? normal_of(arguments.affine, stage.row - 1, of, sizes.channels)
                                 : none;
    }
    load_taps(reinterpret_cast<float*>(taps), static_cast<const T*>(stage.depthwise), K * K, sizes.channels, c);
  }
  __syncthreads();

  Place place = place_of_thread(tiling);
  const int own_begin = group * arguments.groups;
  if (weights) {
    for (int i = 0; i < arguments.groups * kFragment; i += kWarp) sums[i] = splat(0);
  }
  TapSums<K, exact> tap_sums;  // products without tensor cores need registers themselves
  tap_sums.clear();

  for (int i = 0; i < tiling.tiles_a_chunk; ++i) {
    const int at = static_cast<int>(blockIdx.x) * tiling.tiles_a_chunk + i;
    if (at >= tiling.tiles()) break;
    move_to(place, tiling, at);
    forget(place.group);
    forget(place.quad);
    const int height = stage.reads_middle ? sizes.out_height : sizes.height;
    const int width = stage.reads_middle ? sizes.out_width : sizes.width;
    const int own = c + 4 * place.quad, own_count = min(max(sizes.channels - own, 0), 4);
    const int blocks = (stage.count + kChannels - 1) / kChannels;
    const int own_end = min(own_begin + arguments.groups, blocks);
    const bool vector = arguments.vector && (stage.first | stage.count) % 4 == 0;
    const Pixels pixels(place, sizes, stage.dilation);
    const Halo halo = halo_of(place, tiling, S, K, stage.dilation, stage.shift);
    const int pitch = halo.columns * 4;
    const int corner =
        ((place.warp_image * halo.rows + place.row(0, stage.dilation) * S) * halo.columns + 8 * place.warp_column * S) *
        4;
    if (weights) {
      const T* const in = static_cast<const T*>(stage.in);
      Four d[kRows];
      if constexpr (K > 1) {
        __syncthreads();  // nobody reads the last tile any more
        const float floor = arguments.floor;
        const Normal normal = normals[place.quad];
        load_halo(tile, in, halo, place, tiling, sizes.images, height, width, sizes.channels, c, arguments.vector,
                  [&](const Four& z) { return rectified(normal(z), floor); });
        __syncthreads();
        depthwise<K, S, 1>(d, tile + corner + place.group * S * 4 + place.quad, pitch, stage.dilation,
                           taps + place.quad);
      } else {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const int y = (place.y + place.row(r, 1)) * S + stage.shift;
          const int x = (place.x + place.column()) * S + stage.shift;
          const bool there = pixels.there(r) && y < height && x < width;
          const int64_t at = (int64_t{place.image + place.warp_image} * height + y) * width + x;
          d[r] = rectified(load4(in + at * sizes.channels + own, there ? own_count : 0, arguments.vector),
                           arguments.floor);
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int k = 0; k < 4; ++k) d[r][k] = pixels.there(r) ? factor<T, exact>(d[r][k]) : 0.0f;
      }
      put<T>(inputs, d, place);
    }

    const int64_t base = (pixels.image + pixels.within) * sizes.outputs + stage.first + 4 * place.quad;
    const T* const g = static_cast<const T*>(stage.gradient) + base;
    const T* const z = static_cast<const T*>(stage.raw) + base;
    const auto raw_gradient = [&](Four(&dz)[kRows], int block) {
      const int count = min(max(stage.count - block * kChannels - 4 * place.quad, 0), 4);
      const Four* const of = constants + (block * 4 + place.quad) * kConstants;
      const Four scale = of[kScale], slope = of[kSlope], level = of[kLevel], mean = of[kMean];
#pragma unroll
      for (int m = 0; m < kRows; m += 2) {
        Four values[2];
#pragma unroll
        for (int r = m; r < m + 2; ++r) {
          const int at = r * pixels.step * sizes.outputs + block * kChannels, here = pixels.there(r) ? count : 0;
          dz[r] = load4(g + at, here, vector);
          values[r - m] = arguments.training ? load4(z + at, here, vector) : splat(0.0f);
        }
#pragma unroll
        for (int r = m; r < m + 2; ++r) {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const float value = fmaf(-slope[k], values[r - m][k] - mean[k], fmaf(scale[k], dz[r][k], -level[k]));
            dz[r][k] = pixels.there(r) ? factor<T, exact>(value) : 0.0f;
          }
        }
        __syncwarp();  // what is loaded for two rows is used before more is loaded: registers are few
      }
    };
    Sums<2> t;
    t.clear();
    const auto through = [&](const Four(&dz)[kRows], int block) {
      add_product<T, exact, true>(t, dz, place, [&](int input, int k) {
        return *reinterpret_cast<const Four*>(pointwise + (block * kChannels + input) * kChannels + 4 * k);
      });
    };
    Four dz[kRows];
#pragma unroll 1
    for (int block = own_begin; block < (first ? blocks : own_end); ++block) {
      raw_gradient(dz, block);
      if (first) through(dz, block);
      if (weights && block < own_end) {
        put<T>(outputs, dz, place);
        __syncwarp();
        add_over_pixels<T, exact>(sums + (block - own_begin) * kFragment, outputs, inputs, place);
        __syncwarp();
      }
    }
    if (!first) continue;
    T* const to = static_cast<T*>(arguments.t) +
                  (blockIdx.z * static_cast<int64_t>(sizes.images) * sizes.out_height * sizes.out_width + pixels.image +
                   pixels.within) *
                      sizes.channels +
                  own;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      dz[r] = t.outputs(r, 0);
      if (pixels.there(r)) store4(to + r * pixels.step * sizes.channels, dz[r], own_count, arguments.vector);
    }
    if constexpr (K > 1) {
      if (weights) {
        put<float>(outputs, dz, place);
        __syncwarp();
        const float* const own_window = reinterpret_cast<const float*>(tile + corner);
        if (stage.dilation == 1) {
          tap_sums.template add<S, 1>(outputs, own_window, 4 * pitch);
        } else {
          tap_sums.template add<S, 2>(outputs, own_window, 4 * pitch);
        }
      }
    }
  }
  if (!weights) return;
  const int64_t part = int64_t{blockIdx.z} * tiling.chunks + blockIdx.x;
  float* const products = arguments.products + part * sizes.outputs * sizes.channels + c;
  add_warps(reinterpret_cast<const float*>(all_sums), arguments.groups * kFragment * 4, [&](int i, float sum) {
    const int o = own_begin * kChannels + output_of_fragment(i), input = input_of_fragment(i);
    if (o < stage.count && c + input < sizes.channels) products[int64_t{o} * sizes.channels + input] = sum;
  });
  if constexpr (K > 1) {
    if (first)
      tap_sums.store(reinterpret_cast<float*>(areas), arguments.taps + part * kTaps * sizes.channels, sizes.channels,
                     c);
  }
}

// Blocks of a multiprocessor in full float32; on sm_80 two of them spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kExactBlocks = 1;
#else
constexpr int kExactBlocks = 2;
#endif

// S: the stride of all stages of the launch.
template <typename T, bool exact, int S>
__global__ __launch_bounds__(256, exact ? kExactBlocks
                                        : 2) void stage_gradients_kernel(const __grid_constant__ Arguments arguments) {
  const StageOperands& stage = arguments.stages[blockIdx.z];
  switch (stage.kernel) {
    case 3:
      return stage_gradients_of<T, exact, 3, S>(arguments, stage);
    case 5:
      return stage_gradients_of<T, exact, 5, S>(arguments, stage);
    case 7:
      return stage_gradients_of<T, exact, 7, S>(arguments, stage);
    default:
      return stage_gradients_of<T, exact, 1, S>(arguments, stage);
  }
}

template <typename T, bool exact>
cudaError_t start(const Call& call, const Arguments& arguments, dim3 grid, size_t shared) {
  const unsigned threads = kWarp * arguments.tiling.warps();
  return arguments.sizes.stride == 1
             ? launch<stage_gradients_kernel<T, exact, 1>>(grid, threads, shared, call.stream, arguments)
             : launch<stage_gradients_kernel<T, exact, 2>>(grid, threads, shared, call.stream, arguments);
}

}  // namespace

cudaError_t stage_gradients(const Call& call, const Affine& affine, const Operands& operands, const Stage* stages,
                            int count, const Tiling& tiling, const float* dgain, const float* doffset, float values,
                            bool training, void* t, float* taps, float* products) {
  const Sizes& sizes = call.sizes;
  const int64_t t_bytes = call.pixels() * sizes.channels * (call.type == Type::kFloat32 ? 4 : 2);
  for (int begin = 0; begin < count; begin += kMaxStages) {
    Arguments arguments = {};
    arguments.sizes = sizes;
    if (stages[begin].reads >= 0) arguments.sizes.stride = 1;
    arguments.affine = affine;
    arguments.tiling = tiling;
    arguments.dgain = dgain;
    arguments.doffset = doffset;
    arguments.values = values;
    arguments.training = training;
    arguments.vector = call.vector;
    arguments.normalises = !operands.kept.any;
    arguments.floor = operands.kept.floor();
    arguments.blocks = quotient(sizes.channels, kChannels);
    arguments.t = static_cast<char*>(t) + begin * t_bytes;
    if (products) {
      arguments.taps = taps + int64_t{begin} * tiling.chunks * kTaps * sizes.channels;
      arguments.products = products + int64_t{begin} * tiling.chunks * sizes.outputs * sizes.channels;
    }
    const int here = std::min(kMaxStages, count - begin);
    size_t window = 0, window_taps = 0;
    for (int i = 0; i < here; ++i) {
      const Stage& stage = stages[begin + i];
      const bool reads_middle = stage.reads >= 0;
      arguments.stages[i] = {operands.read_by(stage, begin + i),
                             operands.raw[stage.raw],
                             operands.gradients[stage.edge],
                             stage.depthwise < 0 ? nullptr : operands.weights[stage.depthwise],
                             operands.weights[stage.pointwise],
                             stage.kernel,
                             stage.dilation,
                             stage.shift,
                             stage.first,
                             stage.count,
                             stage.row,
                             reads_middle};
      arguments.padded = std::max(arguments.padded, static_cast<int>(quotient(stage.count, kChannels)) * kChannels);
      if (stage.kernel > 1 && products) {
        window = std::max(window, halo_bytes(tiling, arguments.sizes.stride, stage.kernel, stage.dilation));
        window_taps = std::max(window_taps, tap_bytes(stage.kernel));
      }
    }
    arguments.pointwise = kConstants * arguments.padded * sizeof(float);
    arguments.depthwise = arguments.pointwise + arguments.padded * kChannels * sizeof(float);
    arguments.normals = arguments.depthwise + static_cast<int>(window_taps);
    arguments.window = arguments.normals + kChannels / 4 * sizeof(Normal);
    arguments.areas = arguments.window + static_cast<int>(window);
    arguments.sums = arguments.areas + (products ? tiling.warps() * 2 * kArea * static_cast<int>(sizeof(uint32_t)) : 0);
    arguments.groups = std::min(arguments.padded / kChannels, kMostGroups);
    const size_t shared =
        arguments.sums + (products ? tiling.warps() * arguments.groups * kFragment * sizeof(Four) : size_t{0});
    const int of_outputs = products ? static_cast<int>(quotient(arguments.padded, arguments.groups * kChannels)) : 1;
    const dim3 grid(tiling.chunks, arguments.blocks * of_outputs, here);
    const auto error = [&] {
      switch (call.type) {
        case Type::kFloat16:
          return start<__half, false>(call, arguments, grid, shared);
        case Type::kBFloat16:
          return start<__nv_bfloat16, false>(call, arguments, grid, shared);
        default:
          return call.exact ? start<float, true>(call, arguments, grid, shared)
                            : start<float, false>(call, arguments, grid, shared);
      }
    }();
    if (error) return error;
  }
  return cudaSuccess;
}

}  // namespace fastdarts::cuda
