// Backward of the stages of mixed_op: dL/dz is formed on load and never stored; t = dL/d(depthwise output) is the only
// map written. Parts of the weight gradients come from the same pass over dL/dz.
//
// A block has a chunk of tiles of one stage, 16 of its inputs, and up to 64 outputs whose weights it adds up. Where
// there are more outputs, other blocks have them; the first of these blocks also has t and the depthwise weights.
#include "cuda/mixed_op/product.h"
#include "cuda/mixed_op/strips.h"
#include "cuda/mixed_op/weight_gradients.h"
#include "cuda/mixed_op/window.h"

namespace fastdarts::cuda {

namespace {

struct StageOperands {
  const void *in, *raw, *gradient, *depthwise, *pointwise;
  void* t;
  int kernel, dilation, shift, first, count, row;
  bool reads_middle;
  Window window;
};

constexpr int kMostGroups = 4;

struct Arguments {
  StageOperands stages[kMaxStages];
  Sizes sizes;
  Affine affine;
  Tiling tiling;
  const float *dgain, *doffset;
  float values;
  bool training, normalises;  // normalises: the middles that stages read
  float floor;
  int blocks;                                              // of 16 inputs
  int padded;                                              // most outputs of a stage, to a multiple of 16
  int groups;                                              // of 16 outputs whose weights a block has
  int pointwise, depthwise, normals, window, areas, sums;  // where these begin in shared memory, in bytes
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

// A number as products take it: rounded to TF32, but for the last 13 bits, which they do not look at. In half precision
// they round themselves.
template <typename T, bool exact>
__device__ float factor(float x) {
  if constexpr (std::is_same_v<T, float> && !exact) {
    return x == x ? float_of(bits_of(x) + 0x1000) : x;
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

// Which inputs and outputs of its stage a block has, and its chunk begins.
struct Part {
  int c, group;
  Place place;
};

template <typename T, bool exact, bool vector, int K, int S>
__device__ void stage_gradients_of(const Arguments& arguments, const StageOperands& stage, Part part) {
  const Sizes& sizes = arguments.sizes;
  const Tiling& tiling = arguments.tiling;
  const int c = part.c, group = part.group;
  Place& place = part.place;
  const bool first = group == 0, weights = arguments.products != nullptr;
  char* const shared = static_cast<char*>(dynamic_shared());
  const Four* const constants = reinterpret_cast<const Four*>(shared);
  const float* const pointwise = reinterpret_cast<const float*>(shared + arguments.pointwise);
  const auto* const taps = reinterpret_cast<const Taps<T>*>(shared + arguments.depthwise);
  const Normal* const normals = reinterpret_cast<const Normal*>(shared + arguments.normals);
  auto* const tile = reinterpret_cast<Cell<T>*>(shared + arguments.window);
  uint32_t* const areas = reinterpret_cast<uint32_t*>(shared + arguments.areas);
  uint32_t* const inputs = areas + threadIdx.x / kWarp * (2 * kArea);  // of this warp
  uint32_t* const outputs = inputs + kArea;

  Four* const all_sums = reinterpret_cast<Four*>(shared + arguments.sums);
  Four* const sums = all_sums + threadIdx.x / kWarp * (arguments.groups * kFragment) + threadIdx.x % kWarp;
  const int own_begin = group * arguments.groups;
  TapSums<T, exact, K> tap_sums;
  if (weights) tap_sums.clear(outputs);

  const int height = stage.reads_middle ? sizes.out_height : sizes.height;
  const int width = stage.reads_middle ? sizes.out_width : sizes.width;
  const int blocks = (stage.count + kChannels - 1) / kChannels;
  const int own_end = min(own_begin + arguments.groups, blocks);
  const Window& window = stage.window;
  const T* const g_map = static_cast<const T*>(stage.gradient) + stage.first;
  // by running statistics the slope is 0, and anything will do
  const T* const z_map = static_cast<const T*>(arguments.training ? stage.raw : stage.gradient) + stage.first;
  T* const t_map = static_cast<T*>(stage.t) + c;

  for (int left = tiles_of_chunk(tiling); left > 0; --left, move_on(place, tiling)) {
    // computed again for every tile: registers are few
    if constexpr (sizeof(T) == 4) {
      unsigned thread = threadIdx.x;
      forget(thread);
      const Place again = place_of_thread(tiling, thread);
      place = {place.image, place.y,          place.x,        again.group,
               again.quad,  again.warp_image, again.warp_row, again.warp_column};
    } else {
      forget(place.group);
      forget(place.quad);
    }
    const int row = place.row(0, stage.dilation), pitch = kCells<T> * window.columns;
    const Cell<T>* const first_of_thread = first_pixel<T>(tile, window, place, row);
    const int own_count = min(max(sizes.channels - c - 4 * place.quad, 0), 4);
    const int n = place.image + place.warp_image, y = place.y + row, x = place.x + place.column();
    const bool whole = stage.count % kChannels == 0 &&
                       is_whole(place, tiling, sizes.images, sizes.out_height, sizes.out_width, sizes.channels, c);
    const Pixels pixels(whole, n, y, x, stage.dilation, sizes.images, sizes.out_height, sizes.out_width, 1, 0, 1);
    if (weights) {
      const T* const in = static_cast<const T*>(stage.in);
      Four d[kRows];
      if constexpr (K > 1) {
        __syncthreads();  // nobody reads the last tile any more
        const auto load = [&](const auto& transform) {
          constexpr int kAhead = sizeof(T) == 4 && K > 3 ? 1 : 3;  // registers are few
          fill<vector, kAhead>(tile, window, in, place, share_of(place, tiling), sizes.images, height, width,
                               sizes.channels, c, transform);
        };
        if (stage.reads_middle && arguments.normalises) {
          load(Normalise<T>{normals[place.quad], arguments.floor});
        } else {
          load(Rectify<T>{arguments.floor});
        }
        __syncthreads();
        depthwise<K, S, 1>(d, first_of_thread, pitch, stage.dilation, own_taps<T>(taps, place));
        pixels.clear(d, whole);
      } else {
        // of stride 2 an output may be in its map and what it reads not
        const bool inside = whole && (place.y + kRows * tiling.down - 1) * S + stage.shift < height &&
                            (place.x + 8 * tiling.across - 1) * S + stage.shift < width;
        const Pixels read(inside, n, y * S + stage.shift, x * S + stage.shift, S, sizes.images, height, width,
                          sizes.channels, c + 4 * place.quad, own_count);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          d[r] = rectified(load4(in + read.base + read.at[r], vector ? 4 : own_count, vector), arguments.floor);
        }
        read.clear(d, inside);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int k = 0; k < 4; ++k) d[r][k] = factor<T, exact>(d[r][k]);
      }
      put<T>(inputs, d, place);
    }

    const auto raw_gradient = [&](Four(&dz)[kRows], int block) {
      const int count = min(max(stage.count - block * kChannels - 4 * place.quad, 0), 4);
      const Four* const of = constants + (block * 4 + place.quad) * kConstants;
      const Four scale = of[kScale], slope = of[kSlope], level = of[kLevel], mean = of[kMean];
      int64_t from = pixels.base * sizes.outputs + block * kChannels + 4 * place.quad;
      if (!whole) from = count == 0 || pixels.rows == 0 ? -stage.first : from;
#pragma unroll
      for (int m = 0; m < kRows; m += 2) {
        Four values[2];
#pragma unroll
        for (int r = m; r < m + 2; ++r) {
          const int64_t at = from + pixels.at[r] * sizes.outputs;
          dz[r] = load4(g_map + at, vector ? 4 : count, vector);
          values[r - m] = load4(z_map + at, vector ? 4 : count, vector);
        }
#pragma unroll
        for (int r = m; r < m + 2; ++r) {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            dz[r][k] =
                factor<T, exact>(fmaf(-slope[k], values[r - m][k] - mean[k], fmaf(scale[k], dz[r][k], -level[k])));
          }
        }
        __syncwarp();  // what is loaded for two rows is used before more is loaded: registers are few
      }
      pixels.clear(dz, whole, count);
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
    T* const to = t_map + pixels.base * sizes.channels + 4 * place.quad;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      dz[r] = t.outputs(r, 0);
      if (pixels.there(r) && own_count > 0) {
        store4(to + pixels.at[r] * sizes.channels, dz[r], vector ? 4 : own_count, vector);
      }
    }
    if constexpr (K > 1) {
      if (weights) {
        if (stage.dilation == 1) {
          tap_sums.template add<S, 1>(dz, outputs, first_of_thread, window.columns, place, tiling);
        } else {
          tap_sums.template add<S, 2>(dz, outputs, first_of_thread, window.columns, place, tiling);
        }
      }
    }
  }
  if (!weights) return;
  const int64_t chunk = int64_t{blockIdx.z} * tiling.chunks + blockIdx.x;
  float* const products = arguments.products + chunk * sizes.outputs * sizes.channels + c;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  add_parts<2>(reinterpret_cast<const float*>(all_sums), arguments.groups * kFragment * 4, warps,
               [&](int i, float sum) {
                 const int o = own_begin * kChannels + output_of_fragment(i), input = input_of_fragment(i);
                 if (o < stage.count && c + input < sizes.channels) products[int64_t{o} * sizes.channels + input] = sum;
               });
  if constexpr (K > 1) {
    if (first) {
      tap_sums.store(reinterpret_cast<float*>(tile), outputs, arguments.taps + chunk * kTaps * sizes.channels,
                     sizes.channels, c);
    }
  }
}

// Blocks of a multiprocessor: two, where that does not spill. Floats do on sm_80 and sm_100, single accesses anywhere.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1000
template <typename T, bool vector>
constexpr int resident = vector ? 2 : 1;
#else
template <typename T, bool vector>
constexpr int resident = vector && sizeof(T) == 2 ? 2 : 1;
#endif

// S: the stride of all stages of the launch.
template <typename T, bool exact, bool vector, int S>
__global__ __launch_bounds__(256, resident<T, vector>) void stage_gradients_kernel(
    const __grid_constant__ Arguments arguments) {
  const StageOperands& stage = arguments.stages[blockIdx.z];
  const Sizes& sizes = arguments.sizes;
  Part part = {static_cast<int>(blockIdx.y), 0, place_of_thread(arguments.tiling)};
  while (part.c >= arguments.blocks) part.c -= arguments.blocks, ++part.group;  // no division
  part.c *= kChannels;
  if (part.group * arguments.groups * kChannels >= stage.count) return;
  move_to(part.place, arguments.tiling, static_cast<int>(blockIdx.x) * arguments.tiling.tiles_a_chunk);
  char* const shared = static_cast<char*>(dynamic_shared());
  load_constants(reinterpret_cast<float*>(shared), arguments, stage);
  if (part.group == 0) {
    load_pointwise<T, exact>(reinterpret_cast<float*>(shared + arguments.pointwise),
                             static_cast<const T*>(stage.pointwise), arguments.padded, stage.count, sizes.channels,
                             part.c);
  }
  if (arguments.products) {
    if (stage.kernel > 1) {
      if (stage.reads_middle && arguments.normalises) {
        load_normals(reinterpret_cast<Normal*>(shared + arguments.normals), arguments.affine, stage.row - 1, part.c,
                     sizes.channels);
      }
      auto* const taps = reinterpret_cast<Taps<T>*>(shared + arguments.depthwise);
      if constexpr (sizeof(T) == 2) {
        clear_diagonals(taps, arguments.normals - arguments.depthwise);
        __syncthreads();
      }
      load_weights<T>(taps, static_cast<const T*>(stage.depthwise), stage.kernel, sizes.channels, part.c);
    }
    Four* const sums = reinterpret_cast<Four*>(shared + arguments.sums);
    const int size = static_cast<int>(blockDim.x) / kWarp * arguments.groups * kFragment;
#pragma unroll 1
    for (int i = threadIdx.x; i < size; i += blockDim.x) sums[i] = splat(0);
  }
  __syncthreads();
  switch (stage.kernel) {
    case 3:
      return stage_gradients_of<T, exact, vector, 3, S>(arguments, stage, part);
    case 5:
      return stage_gradients_of<T, exact, vector, 5, S>(arguments, stage, part);
    case 7:
      return stage_gradients_of<T, exact, vector, 7, S>(arguments, stage, part);
    default:
      return stage_gradients_of<T, exact, vector, 1, S>(arguments, stage, part);
  }
}

template <typename T, bool exact, bool vector>
cudaError_t start(const Call& call, const Arguments& arguments, dim3 grid, size_t shared) {
  const unsigned threads = kWarp * arguments.tiling.warps();
  return arguments.sizes.stride == 1
             ? launch<stage_gradients_kernel<T, exact, vector, 1>>(grid, threads, shared, call.stream, arguments)
             : launch<stage_gradients_kernel<T, exact, vector, 2>>(grid, threads, shared, call.stream, arguments);
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
    arguments.normalises = !operands.kept.any;
    arguments.floor = operands.kept.floor();
    arguments.blocks = quotient(sizes.channels, kChannels);
    if (products) {
      arguments.taps = taps + int64_t{begin} * tiling.chunks * kTaps * sizes.channels;
      arguments.products = products + int64_t{begin} * tiling.chunks * sizes.outputs * sizes.channels;
    }
    const int here = std::min(kMaxStages, count - begin);
    const size_t itemsize = call.type == Type::kFloat32 ? 4 : 2;
    size_t window = 0, window_taps = 0;
    for (int i = 0; i < here; ++i) {
      const Stage& stage = stages[begin + i];
      const bool reads_middle = stage.reads >= 0;
      arguments.stages[i] = {operands.read_by(stage, begin + i),
                             operands.raw[stage.raw],
                             operands.gradients[stage.edge],
                             stage.depthwise < 0 ? nullptr : operands.weights[stage.depthwise],
                             operands.weights[stage.pointwise],
                             static_cast<char*>(t) + (begin + i) * t_bytes,
                             stage.kernel,
                             stage.dilation,
                             stage.shift,
                             stage.first,
                             stage.count,
                             stage.row,
                             reads_middle,
                             Window(tiling, arguments.sizes.stride, stage.kernel, stage.dilation, stage.shift)};
      arguments.padded = std::max(arguments.padded, static_cast<int>(quotient(stage.count, kChannels)) * kChannels);
      if (stage.kernel > 1 && products) {
        window = std::max(window, arguments.stages[i].window.bytes(tiling, itemsize));
        window_taps = std::max(window_taps,
                               itemsize == 4 ? tap_bytes(stage.kernel) : diagonal_bytes(pairs_of_taps(stage.kernel)));
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
    const cudaError_t error = for_type(call, [&](auto type, auto vector) {
      using T = decltype(type);
      constexpr bool kVector = decltype(vector)::value;
      if constexpr (std::is_same_v<T, float>) {
        if (call.exact) return start<T, true, kVector>(call, arguments, grid, shared);
      }
      return start<T, false, kVector>(call, arguments, grid, shared);
    });
    if (error) return error;
  }
  return cudaSuccess;
}

}  // namespace fastdarts::cuda
