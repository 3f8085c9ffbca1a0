// Four neighbouring channels at a time: how they are read in any type, computed with in float, and written. Of half
// precision they may stay as they are.
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

// Two numbers of half precision in one register.
template <typename T>
__device__ uint32_t pack2(float low, float high) {
  uint16_t parts[2];
  const T rounded[2] = {from_float<T>(low), from_float<T>(high)};
  memcpy(parts, rounded, sizeof parts);
  return parts[0] | static_cast<uint32_t>(parts[1]) << 16;
}

// Four neighbouring channels in half precision, as products take them.
struct alignas(8) Pairs {
  uint32_t v[2];
};
template <typename T>
__device__ Pairs pairs_of(const Four& x) {
  return {{pack2<T>(x[0], x[1]), pack2<T>(x[2], x[3])}};
}
template <typename T>
__device__ Pairs pairs_of(const Pairs& x) {
  return x;
}
template <typename T>
__device__ Four four_of(const Pairs& x) {
  T parts[4];
  memcpy(static_cast<void*>(parts), &x, sizeof parts);
  return {{to_float(parts[0]), to_float(parts[1]), to_float(parts[2]), to_float(parts[3])}};
}
template <typename T>
__device__ Four four_of(const Four& x) {
  return x;
}

// How shared memory holds four channels of a map of type T.
template <typename T>
using Held = std::conditional_t<sizeof(T) == 4, Four, Pairs>;

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

// The same as shared memory holds them.
template <typename T>
__device__ Held<T> load_held(const T* p, int count, bool vector) {
  if constexpr (sizeof(T) == 4) {
    return load4(p, count, vector);
  } else {
    if (vector) return count > 0 ? *reinterpret_cast<const Pairs*>(p) : Pairs{};
    return pairs_of<T>(load4(p, count, vector));
  }
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
