// Runs the kernels of a .cu file on the CPU: g++ -x c++ -include device.h kernels.cu, linked with device.cpp. Types,
// conversions and rounding are those of NVIDIA's own headers, compiled for the host; here stands only what a device
// alone has, as far as our kernels use it. What a device would leave undefined ends the process with a sentence.
//
// Every thread of a block is a fiber of one thread of the system, so that a barrier costs tens of nanoseconds. Blocks
// run on several threads. AddressSanitizer and ThreadSanitizer are told of every switch: to them a fiber is a thread,
// and only the barriers of a kernel order what its threads do.
//
// What this cannot show: speed, memory order weaker than the host's, and the last bit of approximate functions.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <type_traits>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#undef __forceinline__
#define __global__
#define __device__
#define __host__
#define __shared__ thread_local  // a block's, as it has its thread of the system for itself
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline

// Barriers at this line of the file of this name are left out from now on, to see whether ThreadSanitizer misses them;
// 0: none is.
extern "C" void device_leave_out(const char* file, unsigned line);

// Writes blocks, threads of a block and bytes of dynamic shared memory of every launch since the last call, `most` of
// them; returns how many.
extern "C" int64_t device_launches(int64_t* at, int64_t most);

namespace device {

constexpr int kWarp = 32;
constexpr int kMultiprocessors = 2;  // few, so that small arrays already take several turns of a loop over a grid
constexpr int kSharedMemory = 48 << 10, kMostSharedMemory = 227 << 10;  // bytes of a block: always; on request

struct Index {
  unsigned x, y, z;
};

void run(dim3 grid, dim3 block, size_t shared, const void* kernel, const std::function<void()>& call);
cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value);

template <typename... Parameters, typename... Arguments>
cudaError_t launch(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), const Arguments&... arguments) {
  run(config->gridDim, config->blockDim, config->dynamicSmemBytes, reinterpret_cast<const void*>(kernel),
      [&] { kernel(static_cast<Parameters>(arguments)...); });
  return cudaSuccess;
}

template <typename... Parameters>
cudaError_t set_attribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute, int value) {
  return set_attribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

inline cudaError_t set_memory(void* memory, int value, size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

void* dynamic_shared();  // of the block, full of NaN when the block starts
void barrier(const std::source_location& where);
void warp_barrier(unsigned mask);
uint64_t exchange(unsigned mask, uint64_t value, int from);  // what lane `from` has
unsigned ballot(unsigned mask, bool vote);
int lane();

// The lane that a shuffle reads from, among `width` neighbours; the caller itself if there is none.
inline int neighbour(int source, int width) {
  const int first = lane() & ~(width - 1);
  return source >= first && source < first + width ? source : lane();
}

template <typename T>
T shuffle(unsigned mask, T value, int from) {
  static_assert(std::is_arithmetic_v<T> || std::is_same_v<T, __half> || std::is_same_v<T, __half2> ||
                std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __nv_bfloat162>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = exchange(mask, bits, from);
  std::memcpy(static_cast<void*>(&value), &bits, sizeof value);
  return value;
}

// d += a · b of one warp, fragments as in the PTX ISA (mma.m16n8k8 and mma.m16n8k16), sums in float.
void mma_16x8x8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void mma_16x8x16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void mma_16x8x16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void mma_16x8x8_bf16(float (&d)[4], const uint32_t (&a)[2], uint32_t b);
void mma_16x8x8_f16(float (&d)[4], const uint32_t (&a)[2], uint32_t b);

// ldmatrix.x4: every lane reads what it gets, so that sanitizers see who reads. Rows are aligned to their 16 bytes.
template <typename Row>
void load_matrices(uint32_t (&to)[4], const Row* row) {
  static_assert(sizeof(Row) == 16);
  for (int i = 0; i < 4; ++i) {
    const uint64_t address = exchange(~0u, reinterpret_cast<uint64_t>(row), 8 * i + lane() / 4);
    to[i] = reinterpret_cast<const uint32_t*>(address)[lane() % 4];
  }
}

template <typename Row>
void load_transposed(uint32_t (&to)[4], const Row* row) {
  static_assert(sizeof(Row) == 16);
  for (int i = 0; i < 4; ++i) {
    to[i] = 0;
    for (int k = 0; k < 2; ++k) {
      const uint64_t address = exchange(~0u, reinterpret_cast<uint64_t>(row), 8 * i + lane() % 4 * 2 + k);
      to[i] |= static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(address)[lane() / 4]) << 16 * k;
    }
  }
}

// cvt.rna.tf32.f32: 10 bits of mantissa, ties away from zero.
inline uint32_t to_tf32(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const bool finite = (bits & 0x7f800000) != 0x7f800000;
  return (finite ? bits + 0x1000 : bits) & ~0x1fffu;
}

}  // namespace device

extern constinit thread_local device::Index threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = device::kWarp;

inline void __syncthreads(std::source_location where = std::source_location::current()) { device::barrier(where); }
inline void __syncwarp(unsigned mask = ~0u) { device::warp_barrier(mask); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = device::kWarp) {
  return device::shuffle(mask, value, (device::lane() & ~(width - 1)) | (source & (width - 1)));
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = device::kWarp) {
  return device::shuffle(mask, value, device::neighbour(device::lane() - static_cast<int>(lanes), width));
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = device::kWarp) {
  return device::shuffle(mask, value, device::neighbour(device::lane() + static_cast<int>(lanes), width));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = device::kWarp) {
  return device::shuffle(mask, value, device::neighbour(device::lane() ^ lanes, width));
}
inline unsigned __ballot_sync(unsigned mask, int vote) { return device::ballot(mask, vote != 0); }
inline int __any_sync(unsigned mask, int vote) { return device::ballot(mask, vote != 0) != 0; }
inline int __all_sync(unsigned mask, int vote) { return device::ballot(mask, vote == 0) == 0; }

template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename T>
T __ldcs(const T* p) {
  return *p;
}
template <typename T>
void __stcs(T* p, T value) {
  *p = value;
}

template <typename T>
T __ldcg(const T* p) {
  return *p;
}

// Blocks on other threads of the system see what was written before a fence once they see an atomic after it.
inline void __threadfence() {}
inline unsigned atomicAdd(unsigned* p, unsigned value) {
  return std::atomic_ref<unsigned>(*p).fetch_add(value, std::memory_order_acq_rel);
}

// As CUDA has them, the arguments of min and max may be of two types.
template <typename A, typename B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  return b < a ? b : a;
}
template <typename A, typename B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  return a < b ? b : a;
}
inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }
inline float __uint_as_float(uint32_t bits) { return std::bit_cast<float>(bits); }
inline int __popc(unsigned bits) { return std::popcount(bits); }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float __frcp_rn(float x) { return 1 / x; }

#define cudaLaunchKernelEx device::launch
#define cudaFuncSetAttribute device::set_attribute

// In place of the runtime, which would look for a driver.
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "refused by the emulated device"; }
#define cudaMemsetAsync device::set_memory
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = device::kMultiprocessors;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = device::kMostSharedMemory;
      return cudaSuccess;
    default:
      return cudaErrorInvalidValue;
  }
}
