// Four neighbouring channels at a time: how they are read in any type, computed with in float, and written.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace fastdarts::cuda {

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ T from_float(float x) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

struct alignas(16) Four {
  float v[4];

  __device__ float& operator[](int i) { return v[i]; }
  __device__ const float& operator[](int i) const { return v[i]; }
};

__device__ inline Four splat(float x) { return {{x, x, x, x}}; }

template <typename T>
struct alignas(4 * sizeof(T)) Packed {
  T v[4];
};

// p[0..3], of which `count` are there (others: 0). `vector`: p is aligned to four elements and count is 0 or 4.
template <typename T>
__device__ Four load4(const T* p, int count, bool vector) {
  Four result = splat(0.0f);
  if (vector) {
    if (count > 0) {
      const Packed<T> packed = *reinterpret_cast<const Packed<T>*>(p);
#pragma unroll
      for (int i = 0; i < 4; ++i) result[i] = to_float(packed.v[i]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < count) result[i] = to_float(p[i]);
    }
  }
  return result;
}

template <typename T>
__device__ void store4(T* p, const Four& x, int count, bool vector) {
  if (vector) {
    if (count > 0) {
      Packed<T> packed;
#pragma unroll
      for (int i = 0; i < 4; ++i) packed.v[i] = from_float<T>(x[i]);
#ifdef FASTDARTS_EMULATED
      *reinterpret_cast<Packed<T>*>(p) = packed;
#else
      // Told to be one store: nvcc takes some conditional ones of a structure apart.
      std::conditional_t<sizeof(T) == 4, uint4, uint2> bits;
      memcpy(&bits, &packed, sizeof bits);
      __stwb(reinterpret_cast<decltype(bits)*>(p), bits);
#endif
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < count) p[i] = from_float<T>(x[i]);
    }
  }
}

__device__ inline void add_product(Four& sum, const Four& a, const Four& b) {
#pragma unroll
  for (int i = 0; i < 4; ++i) sum[i] = fmaf(a[i], b[i], sum[i]);
}

}  // namespace fastdarts::cuda
