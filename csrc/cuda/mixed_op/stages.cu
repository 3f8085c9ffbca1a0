// Stages of mixed_op forward: ReLU, depthwise k×k and 1×1 convolution in one kernel, with the moments of what they
// give.
//
// A block has a chunk of tiles of one stage and a block of its outputs. Depthwise outputs live in registers only,
// between a window in shared memory and the fragments of the product.
#include "cuda/mixed_op/product.h"

namespace fastdarts::cuda {

namespace {

struct StageOperands {
  const void *in, *depthwise, *pointwise;
  void* raw;
  int kernel, dilation, shift, first, count, row;
  bool reads_middle;
};

struct Arguments {
  StageOperands stages[kMaxStages];
  Sizes sizes;
  Affine affine;
  Tiling tiling;
  float* partial;
  bool vector, normalises;  // normalises: the middles that stages read
  float floor;
  int normals, pivots, sums;  // where these begin in shared memory, in bytes
};

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

// The moments of a block's outputs, gathered tile by tile. Every warp takes them about a pivot of its own, the mean of
// its first pixels: a mean far from 0 costs no digits. After spread_sums a thread has kOwn outputs.
template <int N>
struct Moments {
  static constexpr int kHeld = 2 * N, kOwn = kHeld > 8 ? kHeld / 8 : 1, kOutputs = 8 * N;
  float first[kOwn], second[kOwn];
  float count;    // pixels of this warp
  float* pivots;  // of this warp, [kOutputs]

  __device__ explicit Moments(float* all_pivots) : count(0), pivots(all_pivots + threadIdx.x / kWarp * kOutputs) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) first[i] = second[i] = 0;
  }

  // The outputs (of the block's) that this thread ends up with.
  __device__ static int own(int i) {
    const int group = threadIdx.x % kWarp / 4, quad = threadIdx.x % 4;
    const int place = kHeld >= 8 ? group * kOwn + i : group / 2;
    return 16 * (place / 4) + 4 * quad + place % 4;
  }
  __device__ static bool owns() { return kHeld >= 8 || threadIdx.x / 4 % 2 == 0; }

  __device__ void add(const Sums<N>& sums, const bool (&there)[kRows]) {
    int pixels = 0;
#pragma unroll
    for (int r = 0; r < kRows; ++r) pixels += __popc(__ballot_sync(~0u, there[r])) / 4;
    if (pixels == 0) return;  // the whole warp
    const int quad = threadIdx.x % 4;
    if (count == 0) {
      float values[kHeld];
#pragma unroll
      for (int e = 0; e < kHeld; ++e) {
        values[e] = 0;
#pragma unroll
        for (int r = 0; r < kRows; ++r) values[e] += there[r] ? sums.outputs(r, e / 4)[e % 4] : 0.0f;
      }
      spread_sums(values);
      if (owns()) {
#pragma unroll
        for (int i = 0; i < kOwn; ++i) pivots[own(i)] = values[i] / static_cast<float>(pixels);
      }
      __syncwarp();
    }
    count += static_cast<float>(pixels);
    float ones[kHeld], squares[kHeld];
#pragma unroll
    for (int e = 0; e < kHeld; ++e) {
      const float pivot = pivots[16 * (e / 4) + 4 * quad + e % 4];
      ones[e] = squares[e] = 0;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float d = there[r] ? sums.outputs(r, e / 4)[e % 4] - pivot : 0.0f;
        ones[e] += d;
        squares[e] = fmaf(d, d, squares[e]);
      }
    }
    spread_sums(ones);
    spread_sums(squares);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) first[i] += ones[i], second[i] += squares[i];
  }

  // Merges the warps in their order (Chan, Golub and LeVeque 1979) and writes the moments of the chunk. `shared`
  // [warps, 3, kOutputs] is nobody's; all threads of the block take part.
  __device__ void store(float* shared, int warps, const StageOperands& stage, int o, int chunks, int outputs,
                        float* partial) const {
    float* mine = shared + threadIdx.x / kWarp * 3 * kOutputs;
    if (owns()) {
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        mine[own(i)] = first[i];
        mine[kOutputs + own(i)] = second[i];
        mine[2 * kOutputs + own(i)] = count;
      }
    }
    __syncthreads();
    const float* all_pivots = pivots - threadIdx.x / kWarp * kOutputs;
    for (int i = threadIdx.x; i < min(kOutputs, stage.count - o); i += blockDim.x) {
      float about = 0, shift = 0, squares = 0, before = 0;
      for (int w = 0; w < warps; ++w) {
        const float* of = shared + w * 3 * kOutputs;
        const float n = of[2 * kOutputs + i];
        if (n == 0) continue;
        const float pivot = all_pivots[w * kOutputs + i];
        if (before == 0) about = pivot;
        const float mean = of[i] / n;  // about the warp's pivot
        const float apart = pivot - about + mean - shift, share = n / (before + n);
        squares += of[kOutputs + i] - of[i] * mean + apart * apart * share * before;
        shift += apart * share;
        before += n;
      }
      float* to = partial + (int64_t{stage.row} * chunks + blockIdx.x) * kMoments * outputs + stage.first + o + i;
      to[0] = about;
      to[outputs] = shift;
      to[2 * outputs] = squares;
      to[3 * outputs] = before;
    }
  }
};

// Loads that are started before the first is used; for sm_100 nvcc takes more registers elsewhere.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
template <int N>
constexpr int ahead = N == 2 ? 2 : 1;
#else
template <int N>
constexpr int ahead = 3;
#endif

template <typename T, bool exact, int N>
__global__ __launch_bounds__(256, exact ? 1 : 2) void stages_kernel(const __grid_constant__ Arguments arguments) {
  const StageOperands& stage = arguments.stages[blockIdx.z];
  if (static_cast<int>(blockIdx.y) * 8 * N >= stage.count) return;
  const Tiling& tiling = arguments.tiling;
  const Sizes& sizes = arguments.sizes;
  const bool vector = arguments.vector;
  const int height = stage.reads_middle ? sizes.out_height : sizes.height;
  const int width = stage.reads_middle ? sizes.out_width : sizes.width;
  const int stride = stage.reads_middle ? 1 : sizes.stride;
  const int o = blockIdx.y * 8 * N;
  auto* const tile = static_cast<Four*>(dynamic_shared());
  Place place = place_of_thread(tiling);
  Halo halo = halo_of(place, tiling, stride, stage.kernel, stage.dilation, stage.shift);
  Four* const taps = tile + tiling.images * halo.rows * halo.columns * 4;
  char* const shared = static_cast<char*>(dynamic_shared());
  Moments<N> moments(reinterpret_cast<float*>(shared + arguments.pivots));
  Normal* const normals =
      reinterpret_cast<Normal*>(shared + arguments.normals);  // of the middle, of four channels each
  const bool normalises = stage.reads_middle && arguments.normalises;
  if (normalises) {
    for (int c = 4 * static_cast<int>(threadIdx.x); c < sizes.channels; c += 4 * static_cast<int>(blockDim.x)) {
      const Normal normal = normal_of(arguments.affine, stage.row - 1, c, sizes.channels);
      normals[c / 4] = normal;
    }
  }
  const int pitch = halo.columns * 4;
  const Four* const window = tile +
                             ((place.warp_image * halo.rows + place.row(0, stage.dilation) * stride) * halo.columns +
                              place.column() * stride) *
                                 4 +
                             place.quad;
  const T* const pointwise = static_cast<const T*>(stage.pointwise);
  const int64_t first_tile = int64_t{blockIdx.x} * tiling.tiles_a_chunk;
  const int64_t end = min(first_tile + tiling.tiles_a_chunk, tiling.tiles());
  for (int64_t t = first_tile; t < end; ++t) {
    move_to(place, tiling, t);
    halo = halo_of(place, tiling, stride, stage.kernel, stage.dilation, stage.shift);
    Sums<N> sums;
    sums.clear();
    for (int c = 0; c < sizes.channels; c += kChannels) {
      __syncthreads();  // nobody reads the tile before this one any more
      if (stage.kernel > 1 && (t == first_tile || sizes.channels > kChannels)) {
        load_taps(reinterpret_cast<float*>(taps), static_cast<const T*>(stage.depthwise), stage.kernel * stage.kernel,
                  sizes.channels, c);
      }
      const T* const in = static_cast<const T*>(stage.in);
      const float floor = arguments.floor;
      if (normalises) {
        const Normal normal = normals[min(c / 4 + place.quad, (sizes.channels - 1) / 4)];
        load_halo<ahead<N>>(tile, in, halo, place, tiling, sizes.images, height, width, sizes.channels, c, vector,
                            [&](const Four& z) { return rectified(normal(z), floor); });
      } else {
        load_halo<ahead<N>>(tile, in, halo, place, tiling, sizes.images, height, width, sizes.channels, c, vector,
                            [&](const Four& z) { return rectified(z, floor); });
      }
      __syncthreads();
      Four out[kRows];
      depthwise(out, window, pitch, stage.kernel, stride, stage.dilation, taps + place.quad);
      add_product<T, exact>(sums, out, place, [&](int i, int k) {
        const int from = c + 4 * k, count = o + i < stage.count ? min(max(sizes.channels - from, 0), 4) : 0;
        return load4(pointwise + int64_t{o + i} * sizes.channels + from, count, vector);
      });
    }
    bool there[kRows];
    const int n = place.image + place.warp_image, x = place.x + place.column();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int y = place.y + place.row(r, stage.dilation);
      there[r] = n < sizes.images && x < sizes.out_width && y < sizes.out_height;
      if (!there[r]) continue;
      T* const to = static_cast<T*>(stage.raw) +
                    ((int64_t{n} * sizes.out_height + y) * sizes.out_width + x) * sizes.outputs + stage.first + o +
                    4 * place.quad;
#pragma unroll
      for (int b = 0; b < N / 2; ++b) {
        store4(to + 16 * b, sums.outputs(r, b), min(max(stage.count - o - 16 * b - 4 * place.quad, 0), 4), vector);
      }
    }
    if (arguments.partial) moments.add(sums, there);
  }
  if (arguments.partial) {
    moments.store(reinterpret_cast<float*>(shared + arguments.sums), tiling.warps(), stage, o, tiling.chunks,
                  sizes.outputs, arguments.partial);
  }
}

template <typename T, bool exact, int N>
cudaError_t start(Arguments& arguments, int count, int widest, size_t window, cudaStream_t stream) {
  const Tiling& tiling = arguments.tiling;
  const size_t outputs = 8 * N * tiling.warps() * sizeof(float);
  arguments.normals = static_cast<int>(window);
  arguments.pivots = arguments.normals + (arguments.sizes.channels + 3) / 4 * static_cast<int>(sizeof(Normal));
  arguments.sums = arguments.pivots + static_cast<int>(outputs);
  const dim3 grid(tiling.chunks, static_cast<unsigned>(quotient(widest, 8 * N)), count);
  return launch<stages_kernel<T, exact, N>>(grid, kWarp * tiling.warps(), arguments.sums + 3 * outputs, stream,
                                            arguments);
}

// More than 32 outputs are several blocks, each with the depthwise convolution again: the registers of 64 sums would
// leave one block on a multiprocessor, and maps with many channels are small, so that there would be few blocks.
template <typename T>
cudaError_t start(Arguments& arguments, int count, int widest, size_t window, cudaStream_t stream) {
  return widest <= 16 ? start<T, false, 2>(arguments, count, widest, window, stream)
                      : start<T, false, 4>(arguments, count, widest, window, stream);
}

}  // namespace

cudaError_t run_stages(const Call& call, const Affine& affine, const Operands& operands, const Stage* stages, int count,
                       const Tiling& tiling, float* partial) {
  for (int begin = 0; begin < count; begin += kMaxStages) {
    Arguments arguments = {};
    arguments.sizes = call.sizes;
    arguments.affine = affine;
    arguments.tiling = tiling;
    arguments.partial = partial;
    arguments.vector = call.vector;
    arguments.normalises = !operands.kept.any;
    arguments.floor = operands.kept.floor();
    const int here = std::min(kMaxStages, count - begin);
    const int stride = stages[begin].reads < 0 ? call.sizes.stride : 1;
    int widest = 0;
    size_t window = 0;
    for (int i = 0; i < here; ++i) {
      const Stage& stage = stages[begin + i];
      arguments.stages[i] = {operands.read_by(stage, begin + i),
                             stage.depthwise < 0 ? nullptr : operands.weights[stage.depthwise],
                             operands.weights[stage.pointwise],
                             operands.raw[stage.raw],
                             stage.kernel,
                             stage.dilation,
                             stage.shift,
                             stage.first,
                             stage.count,
                             stage.row,
                             stage.reads >= 0};
      widest = std::max(widest, stage.count);
      window = std::max(window, halo_bytes(tiling, stride, stage.kernel, stage.dilation) + tap_bytes(stage.kernel));
    }
    const auto error = [&] {
      switch (call.type) {
        case Type::kFloat16:
          return start<__half>(arguments, here, widest, window, call.stream);
        case Type::kBFloat16:
          return start<__nv_bfloat16>(arguments, here, widest, window, call.stream);
        default:
          return call.exact ? start<float, true, 2>(arguments, here, widest, window, call.stream)
                            : start<float>(arguments, here, widest, window, call.stream);
      }
    }();
    if (error) return error;
  }
  return cudaSuccess;
}

}  // namespace fastdarts::cuda
