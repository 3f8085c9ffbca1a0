// Products of small matrices by one warp on its tensor cores: d += a · b, sums in float.
//
// Fragments (PTX ISA, mma.m16n8k8 and mma.m16n8k16), g = lane / 4, q = lane % 4:
//   d: (g, 2q) (g, 2q+1) (g+8, 2q) (g+8, 2q+1)
//   TF32  a: (g, q) (g+8, q) (g, q+4) (g+8, q+4)           b: (q, g) (q+4, g)
//   half  a: pairs from (g, 2q) (g+8, 2q) (g, 2q+8) (g+8, 2q+8)   b: pairs from (2q, g) (2q+8, g)
//         of m16n8k8 the first two of a and the first of b
// A pair's first element is in the low half of its register.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "cuda/vectors.h"

namespace fastdarts::cuda {

#ifdef FASTDARTS_EMULATED
using device::mma_16x8x16_bf16;
using device::mma_16x8x16_f16;
using device::mma_16x8x8_bf16;
using device::mma_16x8x8_f16;
using device::mma_16x8x8_tf32;
using device::to_tf32;
#else

// The nearest TF32 number, ties away from zero, as float bits.
__device__ inline uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

__device__ inline void mma_16x8x8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline void mma_16x8x16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline void mma_16x8x16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ inline void mma_16x8x8_bf16(float (&d)[4], const uint32_t (&a)[2], uint32_t b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
}

__device__ inline void mma_16x8x8_f16(float (&d)[4], const uint32_t (&a)[2], uint32_t b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
}

#endif

// Four 8 × 8 matrices of half precision out of shared memory. Lane l says where row l % 8 of matrix l / 8 is, and gets
// the pair (g, 2q) of each (PTX ISA, ldmatrix).
__device__ inline void load_matrices(uint32_t (&to)[4], const uint4* row) {
#ifdef FASTDARTS_EMULATED
  device::load_matrices(to, row);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}

// The same of transposed matrices: a lane gets elements 2q and 2q + 1 of column g.
__device__ inline void load_transposed(uint32_t (&to)[4], const uint4* row) {
#ifdef FASTDARTS_EMULATED
  device::load_transposed(to, row);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}

// Of either type of half precision.
template <typename T>
__device__ void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<T, __half>) {
    mma_16x8x16_f16(d, a, b);
  } else {
    mma_16x8x16_bf16(d, a, b);
  }
}
template <typename T>
__device__ void mma_16x8x8(float (&d)[4], const uint32_t (&a)[2], uint32_t b) {
  if constexpr (std::is_same_v<T, __half>) {
    mma_16x8x8_f16(d, a, b);
  } else {
    mma_16x8x8_bf16(d, a, b);
  }
}

}  // namespace fastdarts::cuda
