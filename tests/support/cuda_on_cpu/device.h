// Runs the kernels of a .cu file on the CPU: g++ -x c++ -include device.h kernels.cu device.cpp. Types, conversions and
// rounding are those of NVIDIA's own headers, compiled for the host; here stands only what a device alone has, as far
// as our kernels use it. Every thread of a block is a thread of the system, so that ThreadSanitizer sees what races;
// blocks run one after another. What a device would leave undefined ends the process with a sentence.
//
// What this cannot show: speed, the memory order between blocks, and the last bit of approximate functions.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#undef __global__
#undef __device__
#undef __shared__
#undef __launch_bounds__
#define __global__
#define __device__
#define __shared__ static  // of the one block that runs
#define __launch_bounds__(...)

namespace device {

constexpr int kMultiprocessors = 2;  // few, so that small arrays already take several turns of a loop over a grid

struct Index {
  unsigned x, y, z;
};

void run(dim3 grid, dim3 block, const std::function<void()>& kernel);
void barrier();  // of the block
uint64_t exchange(unsigned mask, uint64_t value,
                  int to);  // what the lane `to` lanes above has; its own if there is none

template <typename... Parameters, typename... Arguments>
cudaError_t launch(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments... arguments) {
  run(config->gridDim, config->blockDim, [&] { kernel(Parameters(arguments)...); });
  return cudaSuccess;
}

}  // namespace device

extern thread_local device::Index threadIdx, blockIdx;
extern thread_local dim3 blockDim, gridDim;

inline void __syncthreads() { device::barrier(); }

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = device::exchange(mask, bits, static_cast<int>(lanes));
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

#define cudaLaunchKernelEx device::launch

// In place of the runtime, which would look for a driver.
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = device::kMultiprocessors;
  return cudaSuccess;
}
