// What a device has, in kernels that show it, and faults that the emulated device or a sanitizer must find:
// device FAULT runs one of them. test_cuda_on_cpu.py says what to expect.
#include <cuda_runtime.h>

#include <cstdio>
#include <map>
#include <string>

namespace {

template <typename... Parameters, typename... Arguments>
void start(dim3 grid, dim3 block, size_t shared, void (*kernel)(Parameters...), Arguments... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  cudaLaunchKernelEx(&config, kernel, arguments...);
}

__device__ int rank_in_grid() {
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  return block * (blockDim.x * blockDim.y * blockDim.z) + thread;
}

__global__ void places_kernel(int* out) {
  int* place = out + 6 * rank_in_grid();
  for (const unsigned i : {blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z}) *place++ = i;
}

constexpr unsigned kFirstBarrier = __LINE__ + 8;

// Every warp turns its part of a row around, in shared memory of both sorts.
__global__ void turn_kernel(const float* x, float* out) {
  __shared__ float once[256];
  float* twice = static_cast<float*>(device::dynamic_shared());
  const int i = threadIdx.x, at = blockIdx.x * blockDim.x + i;
  once[i] = x[at];
  __syncthreads();
  twice[i] = once[blockDim.x - 1 - i] + 1;
  __syncthreads();
  out[at] = twice[i] + once[i];
}

// What is in shared memory before anything is written there, in every block, after blocks that wrote there.
__global__ void poison_kernel(float* out) {
  __shared__ float fixed[32];
  float* dynamic = static_cast<float*>(device::dynamic_shared());
  out[blockIdx.x * 64 + threadIdx.x] = fixed[threadIdx.x];
  out[blockIdx.x * 64 + 32 + threadIdx.x] = dynamic[threadIdx.x];
  fixed[threadIdx.x] = dynamic[threadIdx.x] = 1;
}

template <typename T>
__device__ void shuffles(T own, double* out) {
  const auto put = [&](int row, T value) { out[row * 32 + threadIdx.x] = static_cast<double>(value); };
  put(0, __shfl_sync(~0u, own, 5));
  put(1, __shfl_sync(~0u, own, threadIdx.x + 1, 8));
  put(2, __shfl_up_sync(~0u, own, 3));
  put(3, __shfl_down_sync(~0u, own, 3, 16));
  put(4, __shfl_xor_sync(~0u, own, 9));
  if (threadIdx.x % 2) put(5, __shfl_xor_sync(0xaaaaaaaau, own, 2));
}

__global__ void shuffles_kernel(double* out) {
  const int lane = threadIdx.x;
  shuffles(static_cast<float>(lane), out);
  shuffles(lane, out + 192);
  shuffles(static_cast<double>(lane), out + 384);
  shuffles(static_cast<long long>(lane) << 40 >> 40, out + 576);
  const __half2 pair = __shfl_xor_sync(~0u, __floats2half2_rn(lane, lane + 0.5f), 1);
  out[768 + lane] = __low2float(pair) + __high2float(pair);
  out[800 + lane] = __ballot_sync(~0u, lane % 3 == 0);
  out[832 + lane] = __any_sync(~0u, lane == 7) + 2 * __all_sync(~0u, lane < 31) + 4 * __all_sync(~0u, lane < 32);
}

// A [16, k], B [k, 8] and D [16, 8], as rows; k is 8 of TF32 (type 0), 16 of bfloat16 and float16 (1 and 2), and 8 of
// these (3 and 4). The places of fragments are written as the PTX ISA has them (9.7.14.5).
__global__ void product_kernel(int type, const float* a, const float* b, float* d) {
  const int group = threadIdx.x >> 2, member = threadIdx.x % 4;
  uint32_t as[4], bs[2];
  float ds[4];
  const auto half_bits = [&](float x) -> uint32_t {
    const __half half = __float2half_rn(x);
    const __nv_bfloat16 brain = __float2bfloat16_rn(x);
    uint16_t bits;
    std::memcpy(&bits, type % 2 == 1 ? static_cast<const void*>(&brain) : &half, sizeof bits);
    return bits;
  };
  for (int i = 0; i < 4; ++i) ds[i] = d[(i < 2 ? group : group + 8) * 8 + member * 2 + (i & 1)];
  if (type == 0) {
    for (int i = 0; i < 4; ++i) {
      const int row = i == 0 || i == 2 ? group : group + 8, column = i < 2 ? member : member + 4;
      std::memcpy(&as[i], &a[row * 8 + column], 4);
    }
    for (int i = 0; i < 2; ++i) std::memcpy(&bs[i], &b[(i == 0 ? member : member + 4) * 8 + group], 4);
    device::mma_16x8x8_tf32(ds, as, bs);
  } else {
    const int depth = type > 2 ? 8 : 16;
    for (int i = 0; i < depth / 2; ++i) {
      const int row = i < 2 || (4 <= i && i < 6) ? group : group + 8;
      const int column = i < 4 ? member * 2 + (i & 1) : member * 2 + (i & 1) + 8;
      as[i / 2] = (i & 1 ? as[i / 2] : 0) | half_bits(a[row * depth + column]) << 16 * (i & 1);
    }
    for (int i = 0; i < depth / 4; ++i) {
      const int row = i < 2 ? member * 2 + (i & 1) : member * 2 + (i & 1) + 8;
      bs[i / 2] = (i & 1 ? bs[i / 2] : 0) | half_bits(b[row * 8 + group]) << 16 * (i & 1);
    }
    const uint32_t two[2] = {as[0], as[1]};
    if (type < 3) {
      (type == 1 ? device::mma_16x8x16_bf16 : device::mma_16x8x16_f16)(ds, as, bs);
    } else {
      (type == 3 ? device::mma_16x8x8_bf16 : device::mma_16x8x8_f16)(ds, two, bs[0]);
    }
  }
  for (int i = 0; i < 4; ++i) d[(i < 2 ? group : group + 8) * 8 + member * 2 + (i & 1)] = ds[i];
}

// Four matrices of 8 × 8 numbers of 16 bits, and what every lane gets of them, as they are and transposed.
__global__ void matrices_kernel(const uint4* rows, uint32_t* out) {
  uint4* const shared = static_cast<uint4*>(device::dynamic_shared());
  shared[threadIdx.x] = rows[threadIdx.x];
  __syncwarp();
  uint32_t values[4];
  device::load_matrices(values, shared + threadIdx.x);
  std::memcpy(out + 4 * threadIdx.x, values, sizeof values);
  device::load_transposed(values, shared + threadIdx.x);
  std::memcpy(out + 4 * (32 + threadIdx.x), values, sizeof values);
}

__global__ void barriers_kernel(int count) {
  for (int i = 0; i < count; ++i) __syncthreads();
}

__global__ void block_race_kernel(float* out) { out[blockIdx.x == 0 || threadIdx.x ? threadIdx.x : 31] = blockIdx.x; }

__global__ void late_barrier_kernel(float* out) {
  __shared__ float sums[64];
  float* tile = static_cast<float*>(device::dynamic_shared());
  sums[threadIdx.x] = tile[threadIdx.x] = out[threadIdx.x];
  __syncwarp();
  if (threadIdx.x % 32) out[threadIdx.x] = tile[threadIdx.x - 1];  // of the same warp
  out[threadIdx.x] += sums[63 - threadIdx.x];                      // of the other one
  __syncthreads();
}

__global__ void beyond_kernel() { static_cast<float*>(device::dynamic_shared())[threadIdx.x] = 0; }

__global__ void branch_kernel() {
  if (threadIdx.x < 32) __syncthreads();
}

__global__ void two_barriers_kernel() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void absent_lane_kernel() {
  if (threadIdx.x == 3) return;
  __shfl_sync(~0u, 1, 0);
}

__global__ void warp_in_branch_kernel() {
  if (threadIdx.x < 16) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}

__global__ void mixed_operations_kernel() {
  if (threadIdx.x < 16) {
    __syncwarp();
  } else {
    __shfl_sync(~0u, 1, 0);
  }
}

__global__ void without_itself_kernel() { __shfl_sync(0xffu, 1, 0); }

__global__ void from_outside_kernel() {
  if (threadIdx.x < 8) __shfl_sync(0xffu, 1, 8);
}

float out[64];

}  // namespace

extern "C" {

void places(const unsigned* g, const unsigned* b, int* out) {
  start({g[0], g[1], g[2]}, {b[0], b[1], b[2]}, 0, places_kernel, out);
}
void turn(int blocks, int threads, const float* x, float* out) {
  start(blocks, threads, threads * sizeof(float), turn_kernel, x, out);
}
void poison(int blocks, float* out) { start(blocks, 32, 32 * sizeof(float), poison_kernel, out); }
void shuffle(double* out) { start(1, 32, 0, shuffles_kernel, out); }
void matrices(const uint4* rows, uint32_t* out) { start(1, 32, 32 * sizeof *rows, matrices_kernel, rows, out); }
void product(int type, const float* a, const float* b, float* d) { start(1, 32, 0, product_kernel, type, a, b, d); }
void barriers(int blocks, int threads, int count) { start(blocks, threads, 0, barriers_kernel, count); }
uint32_t to_tf32(float x) { return device::to_tf32(x); }

}  // extern "C"

int main(int, char** arguments) {
  const std::map<std::string, void (*)()> faults = {
      {"two blocks write one place", [] { start(2, 32, 0, block_race_kernel, out); }},
      {"shared memory is read too early", [] { start(1, 64, 256, late_barrier_kernel, out); }},
      {"a barrier that is left out",
       [] {
         device_leave_out("device.cu", kFirstBarrier);
         start(1, 64, 256, turn_kernel, out, out);
       }},
      {"more than the dynamic memory", [] { start(1, 64, 252, beyond_kernel); }},
      {"barrier in a branch", [] { start(1, 64, 0, branch_kernel); }},
      {"different barriers", [] { start(1, 64, 0, two_barriers_kernel); }},
      {"a lane that left", [] { start(1, 32, 0, absent_lane_kernel); }},
      {"a lane that never was", [] { start(1, 24, 0, absent_lane_kernel); }},
      {"lanes at a barrier", [] { start(1, 32, 0, warp_in_branch_kernel); }},
      {"different operations", [] { start(1, 32, 0, mixed_operations_kernel); }},
      {"a mask without the lane", [] { start(1, 32, 0, without_itself_kernel); }},
      {"a lane outside the mask", [] { start(1, 32, 0, from_outside_kernel); }},
      {"too much shared memory", [] { start(1, 32, 49153, beyond_kernel); }},
      {"more than a device has",
       [] { cudaFuncSetAttribute(beyond_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 232449); }},
      {"too many threads", [] { start(1, {32, 33}, 0, branch_kernel); }},
      {"no fault",
       [] {
         cudaFuncSetAttribute(beyond_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 232448);
         start(7, 1024, 232448, beyond_kernel);
         start(5, 64, 0, barriers_kernel, 3);
         start(1, 64, 0, block_race_kernel, out);
       }},
  };
  faults.at(arguments[1])();
  std::puts("done");
}
