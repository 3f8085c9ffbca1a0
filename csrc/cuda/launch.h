// How host code starts a kernel, and how a kernel finds its dynamic shared memory.
//
// launch<kernel>(...) is one call of the runtime. In a dry run it starts nothing and counts: what is left is the host's
// own work, which can be measured without a GPU.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

namespace fastdarts::cuda {

constexpr int kWarp = 32;

inline std::atomic<bool> dry_run{false};
inline std::atomic<int64_t> launches{0};  // of all kernels since the process began, in a dry run

// A block would need more shared memory than the GPU has. The runtime would say no more than "invalid argument".
constexpr cudaError_t kTooMuchShared = cudaErrorLaunchOutOfResources;

constexpr int64_t quotient(int64_t n, int64_t divisor) { return (n + divisor - 1) / divisor; }

// `shared`: bytes of dynamic shared memory a block. Above 48 KiB a kernel has to be told once on every device.
template <auto kernel, typename... Arguments>
cudaError_t launch(dim3 grid, unsigned threads, size_t shared, cudaStream_t stream, const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
  if (dry_run.load(std::memory_order_relaxed)) {
    launches.fetch_add(1, std::memory_order_relaxed);
    return cudaSuccess;
  }
  if (shared > 48 * 1024) {
    constexpr int kDevices = 64;
    static std::atomic<size_t> told[kDevices];  // what a block may have, once the kernel has been told; 0 before
    int device = 0;
    if (const cudaError_t error = cudaGetDevice(&device)) return error;
    auto& known = told[device % kDevices];
    if (!known.load()) {
      int most = 0;
      if (const auto error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)) {
        return error;
      }
      if (const auto error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most)) {
        return error;
      }
      known = most;
    }
    if (shared > known.load()) return kTooMuchShared;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// Sets memory to 0. In a CUDA graph it is a node as a kernel is, and a dry run counts it.
inline cudaError_t set_to_zero(void* memory, size_t bytes, cudaStream_t stream) {
  if (dry_run.load(std::memory_order_relaxed)) {
    launches.fetch_add(1, std::memory_order_relaxed);
    return cudaSuccess;
  }
  return cudaMemsetAsync(memory, 0, bytes, stream);
}

// A number that the compiler takes for another from here on. What comes of it is computed again, in every turn of a
// loop: kept, it would take a register.
template <typename Integer>
__device__ void forget(Integer& x) {
  asm volatile("" : "+r"(x));
}

#ifndef FASTDARTS_EMULATED
__device__ inline void* dynamic_shared() {
  extern __shared__ uint4 bytes[];
  return bytes;
}
#else
using device::dynamic_shared;
#endif

}  // namespace fastdarts::cuda
