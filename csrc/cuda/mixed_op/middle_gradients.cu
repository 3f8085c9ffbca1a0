// Gradients of the middles of separable convolutions: the transposed depthwise convolution of the second halves' t, on
// through the ReLU, and its sums.
#include "cuda/mixed_op/strips.h"
#include "cuda/mixed_op/walk.h"
#include "cuda/mixed_op/window.h"

namespace fastdarts::cuda {

namespace {

struct Middle {
  const void *depthwise, *raw;
  void* gradient;
  const uint8_t* bits;  // of its ReLU if they are kept
  int kernel, row;
  Window window;
};

struct MiddleArguments {
  Middle middles[kMaxStages];
  Sizes sizes;
  Affine affine;
  Tiling tiling;
  int taps, normals, sums;  // where these begin in shared memory, in bytes
  const void* t;
  float* partial;
};

template <typename T>
__device__ void convolve(Four (&out)[kRows], const Cell<T>* window, int pitch, int size, const Taps<T>* taps) {
  if (size == 3) return depthwise<3, 1>(out, window, pitch, 1, taps);
  if (size == 5) return depthwise<5, 1>(out, window, pitch, 1, taps);
  return depthwise<7, 1>(out, window, pitch, 1, taps);
}

template <typename T, bool vector>
__global__ __launch_bounds__(256, 2) void middle_gradients_kernel(const __grid_constant__ MiddleArguments arguments) {
  const Middle& middle = arguments.middles[blockIdx.z];
  const Sizes& sizes = arguments.sizes;
  const Tiling& tiling = arguments.tiling;
  const int channels = sizes.outputs, height = sizes.out_height, width = sizes.out_width;
  char* const shared = static_cast<char*>(dynamic_shared());
  auto* const tile = reinterpret_cast<Cell<T>*>(shared);
  auto* const taps = reinterpret_cast<Taps<T>*>(shared + arguments.taps);
  const Window& window = middle.window;
  Place place = place_of_thread(tiling);
  const int c = blockIdx.y * kChannels, own = c + 4 * place.quad, count = min(max(channels - own, 0), 4);
  const T* const t =
      static_cast<const T*>(arguments.t) + blockIdx.z * static_cast<int64_t>(sizes.images) * height * width * channels;
  Normal* const normals = reinterpret_cast<Normal*>(shared + arguments.normals);
  load_normals(normals, arguments.affine, middle.row, c, channels);
  if constexpr (sizeof(T) == 2) {
    clear_diagonals(taps, arguments.normals - arguments.taps);
    __syncthreads();
  }
  load_weights<T, true>(taps, static_cast<const T*>(middle.depthwise), middle.kernel, channels, c);
  Four sum = splat(0), product = splat(0);
  move_to(place, tiling, static_cast<int>(blockIdx.x) * tiling.tiles_a_chunk);
  const int row = place.row(0, 1), column = place.column(), pitch = kCells<T> * window.columns;
  const Cell<T>* const first = first_pixel<T>(tile, window, place, row);
  for (int i = tiles_of_chunk(tiling); i > 0; --i) {
    __syncthreads();  // nobody reads the last tile any more
    fill<vector>(tile, window, t, place, share_of(place, tiling), sizes.images, height, width, channels, c, Copy<T>());
    __syncthreads();
    Four g[kRows];
    convolve<T>(g, first, pitch, middle.kernel, own_taps<T>(taps, place));
    const bool whole = is_whole(place, tiling, sizes.images, height, width, channels, c);
    const Pixels pixels(whole, place.image + place.warp_image, place.y + row, place.x + column, 1, sizes.images, height,
                        width, channels, own, count);
    const T* const raw = static_cast<const T*>(middle.raw) + pixels.base;
    T* const to = static_cast<T*>(middle.gradient) + pixels.base;
    pixels.clear(g, whole);
    const Normal normal = normals[place.quad];
    Four z[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) z[r] = load4(raw + pixels.at[r], vector ? 4 : count, vector);
    if (middle.bits) {
      keep_kinks(g, middle.bits, pixels, channels, own);
    } else {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const Four value = normal(z[r]);
#pragma unroll
        for (int k = 0; k < 4; ++k) g[r][k] = value[k] <= 0 ? 0 : g[r][k];  // NaN passes
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        sum[k] += g[r][k];
        product[k] = fmaf(g[r][k], z[r][k] - normal.mean[k], product[k]);
      }
      if (pixels.there(r)) store4(to + pixels.at[r], g[r], vector ? 4 : count, vector);
    }
    move_on(place, tiling);
  }
  // over the groups of a warp, then over the warps in their order
  Four* const sums = reinterpret_cast<Four*>(shared + arguments.sums);  // [warps, kSums, 4]
#pragma unroll
  for (int lanes = 4; lanes < kWarp; lanes *= 2) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      sum[k] += __shfl_xor_sync(~0u, sum[k], lanes);
      product[k] += __shfl_xor_sync(~0u, product[k], lanes);
    }
  }
  if (place.group == 0) {
    Four* const mine = sums + threadIdx.x / kWarp * (kSums * 4) + place.quad;
    mine[0] = sum;
    mine[4] = product;
  }
  __syncthreads();
  const int i = threadIdx.x;
  if (i < kSums * kChannels && c + i % kChannels < channels) {
    const float* const all = reinterpret_cast<const float*>(sums);
    float total = 0;
    for (int warp = 0; warp < tiling.warps(); ++warp) total += all[warp * kSums * kChannels + i];
    arguments.partial[((int64_t{middle.row} * tiling.chunks + blockIdx.x) * kSums + i / kChannels) * channels + c +
                      i % kChannels] = total;
  }
}

}  // namespace

cudaError_t middle_gradients(const Call& call, const Affine& affine, const Operands& operands, const Stage* seconds,
                             int count, const Tiling& tiling, const void* t, const std::vector<void*>& middle,
                             float* partial) {
  const Sizes& sizes = call.sizes;
  const int64_t t_bytes = call.pixels() * sizes.channels * (call.type == Type::kFloat32 ? 4 : 2);
  for (int begin = 0; begin < count; begin += kMaxStages) {
    MiddleArguments arguments = {};
    arguments.sizes = sizes;
    arguments.affine = affine;
    arguments.tiling = tiling;
    arguments.t = static_cast<const char*>(t) + begin * t_bytes;
    arguments.partial = partial;
    const int here = std::min(kMaxStages, count - begin);
    int largest = 1;
    for (int i = 0; i < here; ++i) {
      const Stage& stage = seconds[begin + i];
      arguments.middles[i] = {operands.weights[stage.depthwise],
                              operands.raw[stage.reads],
                              middle[begin + i],
                              operands.kept.any ? operands.kept.middles[begin + i] : nullptr,
                              stage.kernel,
                              stage.middle(),
                              Window(tiling, 1, stage.kernel, 1, 0)};
      largest = std::max(largest, stage.kernel);
    }
    const dim3 grid(tiling.chunks, static_cast<unsigned>(quotient(sizes.outputs, kChannels)), here);
    const unsigned threads = kWarp * tiling.warps();
    const cudaError_t error = for_type(call, [&](auto type, auto vector) {
      using T = decltype(type);
      arguments.taps = static_cast<int>(Window(tiling, 1, largest, 1, 0).bytes(tiling, sizeof(T)));
      arguments.normals = arguments.taps + static_cast<int>(taps_bytes<T>(largest));
      arguments.sums = arguments.normals + kChannels / 4 * static_cast<int>(sizeof(Normal));
      const size_t shared = arguments.sums + tiling.warps() * kSums * kChannels * sizeof(float);
      return launch<middle_gradients_kernel<decltype(type), decltype(vector)::value>>(grid, threads, shared,
                                                                                      call.stream, arguments);
    });
    if (error) return error;
  }
  return cudaSuccess;
}

}  // namespace fastdarts::cuda
