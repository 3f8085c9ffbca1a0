// Statistics of rows out of the moments of chunks, by the last block of a row: no launch of their own. Which block is
// the last depends on the device; what it adds and in which order does not.
#pragma once

#include <cuda_runtime.h>

#include "cuda/launch.h"
#include "cuda/mixed_op/call.h"

namespace fastdarts::cuda {

constexpr int kColumn = 16;  // channels that a block adds up at a time

// Whether this is the last of `blocks` blocks that come here with this counter. What all of them wrote before is then
// visible to it. The whole block takes part.
__device__ inline bool is_last(unsigned* counter, unsigned blocks, bool* shared) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    *shared = atomicAdd(counter, 1u) == blocks - 1;
    __threadfence();
  }
  __syncthreads();
  return *shared;
}

// The sum over the threads of a column, in the order of the threads, for all of them. `shared` has a float a thread.
__device__ inline float over_column(float value, float* shared) {
  __syncthreads();
  shared[threadIdx.x] = value;
  __syncthreads();
  float sum = 0;
  for (unsigned i = threadIdx.x % kColumn; i < blockDim.x; i += kColumn) sum += shared[i];
  return sum;
}

// mean and unbiased var of channels [c, c + count) of a row from all of its chunks, if this is the last block of them;
// `rows` have the same, and the moments lie in the first of them. `shared` has a float a thread.
__device__ inline void finish_row(const Statistics& to, const int* rows, int row_count, int c, int count, int chunks,
                                  int channels, float* shared) {
  __shared__ bool last;
  if (!is_last(to.counters + int64_t{rows[0]} * channels + c, chunks, &last)) return;
  const int slice = threadIdx.x / kColumn, slices = blockDim.x / kColumn;
  const float* const partial = to.partial + int64_t{rows[0]} * to.chunks * kMoments * channels + c;
  for (int begin = 0; begin < count; begin += kColumn) {
    const int own = begin + static_cast<int>(threadIdx.x) % kColumn;
    const float* const of = partial + min(own, count - 1);
    const float about = __ldcg(of), more = __ldcg(of + channels);
    float total = 0, sum = 0, second = 0;
    for (int chunk = slice; chunk < chunks; chunk += slices) {
      const float* const values = of + int64_t{chunk} * kMoments * channels;
      const float n = __ldcg(values + 3 * channels);
      if (n == 0) continue;
      total += n;
      sum = fmaf(n, (__ldcg(values) - about) + (__ldcg(values + channels) - more), sum);
      second += __ldcg(values + 2 * channels);
    }
    total = over_column(total, shared);
    const float shift = over_column(sum, shared) / total;
    for (int chunk = slice; chunk < chunks; chunk += slices) {
      const float* const values = of + int64_t{chunk} * kMoments * channels;
      const float n = __ldcg(values + 3 * channels);
      if (n == 0) continue;
      const float apart = (__ldcg(values) - about) + (__ldcg(values + channels) - more) - shift;
      second = fmaf(n * apart, apart, second);
    }
    second = over_column(second, shared);
    for (int i = slice; own < count && i < row_count; i += slices) {
      const int64_t at = int64_t{rows[i]} * channels + c + own;
      to.mean[at] = about + (more + shift);
      to.var[at] = second / (total - 1.0f);
    }
  }
}

}  // namespace fastdarts::cuda
