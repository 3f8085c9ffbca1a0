// The weight gradients of mixed_op from the parts of their chunks.
#include "cuda/launch.h"
#include "cuda/mixed_op/call.h"
#include "cuda/vectors.h"

namespace fastdarts::cuda {

namespace {

struct Totals {
  struct {
    int taps, count;
    void *depthwise, *pointwise;
  } stages[kMaxStages];
  int channels, outputs, chunks;
  const float *taps, *products;
};

__device__ float total(const float* parts, int chunks, int64_t size) {
  float sum = 0;
#pragma unroll 8
  for (int i = 0; i < chunks; ++i) sum += parts[i * size];
  return sum;
}

template <typename T>
__global__ __launch_bounds__(256) void weight_totals_kernel(const __grid_constant__ Totals arguments) {
  const auto& stage = arguments.stages[blockIdx.y];
  const int i = blockIdx.x * blockDim.x + threadIdx.x, chunks = arguments.chunks;
  const int64_t part = int64_t{blockIdx.y} * chunks, size = int64_t{arguments.outputs} * arguments.channels;
  if (i < stage.count * arguments.channels) {
    static_cast<T*>(stage.pointwise)[i] = from_float<T>(total(arguments.products + part * size + i, chunks, size));
  }
  if (stage.depthwise && i < stage.taps * arguments.channels) {
    const int64_t taps = int64_t{kTaps} * arguments.channels;
    const int c = i % arguments.channels, tap = i / arguments.channels;
    const float sum = total(arguments.taps + part * taps + i, chunks, taps);
    static_cast<T*>(stage.depthwise)[c * stage.taps + tap] = from_float<T>(sum);
  }
}

}  // namespace

cudaError_t weight_totals(const Call& call, const Stage* stages, int count, int chunks, const float* taps,
                          const float* products, const std::vector<void*>& dweights) {
  const int channels = call.sizes.channels, outputs = call.sizes.outputs;
  for (int begin = 0; begin < count; begin += kMaxStages) {
    Totals arguments = {};
    arguments.channels = channels;
    arguments.outputs = outputs;
    arguments.chunks = chunks;
    arguments.taps = taps + int64_t{begin} * chunks * kTaps * channels;
    arguments.products = products + int64_t{begin} * chunks * outputs * channels;
    const int here = std::min(kMaxStages, count - begin);
    int rows = 0;
    for (int i = 0; i < here; ++i) {
      const Stage& stage = stages[begin + i];
      arguments.stages[i] = {stage.kernel * stage.kernel, stage.count,
                             stage.depthwise < 0 ? nullptr : dweights[stage.depthwise], dweights[stage.pointwise]};
      rows = std::max({rows, stage.count, stage.depthwise < 0 ? 0 : stage.kernel * stage.kernel});
    }
    const dim3 grid(static_cast<unsigned>(quotient(int64_t{rows} * channels, 256)), here);
    const auto error = [&] {
      switch (call.type) {
        case Type::kFloat16:
          return launch<weight_totals_kernel<__half>>(grid, 256, 0, call.stream, arguments);
        case Type::kBFloat16:
          return launch<weight_totals_kernel<__nv_bfloat16>>(grid, 256, 0, call.stream, arguments);
        default:
          return launch<weight_totals_kernel<float>>(grid, 256, 0, call.stream, arguments);
      }
    }();
    if (error) return error;
  }
  return cudaSuccess;
}

}  // namespace fastdarts::cuda
