// Launchers of flat.cu, the way in for torch (flat.cpp) and for tests that know neither torch nor C++. Every one starts
// its kernels on `stream`, waits for nothing, and returns the error of the launch. Pointers may have any alignment of
// their type, and `out` may be `w`. `norm` lies on the device: one float, or one double if `type` is kFloat64. So do
// `rates`, three doubles (lr, mu, decay), and `lr`, one: a graph that holds the launch reads them when it is replayed.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fastdarts::cuda {

enum Type : int { kFloat32, kFloat64, kFloat16, kBFloat16 };

extern "C" {
int fastdarts_flat_norm_blocks(int64_t n);  // doubles that `partial` has room for
cudaError_t fastdarts_flat_norm(int type, const void* x, int64_t n, double* partial, void* out, cudaStream_t stream);
cudaError_t fastdarts_flat_unroll(int type, void* out, const void* w, const void* grad, const void* momentum, int64_t n,
                                  const double* rates, cudaStream_t stream);  // momentum may be null
cudaError_t fastdarts_flat_perturb(int type, void* out, const void* w, const void* v, const void* norm, int64_t n,
                                   double radius, cudaStream_t stream);
cudaError_t fastdarts_flat_hypergradient(int type, void* out, const void* direct, const void* above, const void* below,
                                         const void* norm, int64_t n, double radius, const double* lr,
                                         cudaStream_t stream);
cudaError_t fastdarts_flat_sgd(int type, void* w, void* momentum, const void* grad, const void* norm, int64_t n,
                               double max_norm, const double* rates, bool only_finite,
                               cudaStream_t stream);  // momentum and norm may be null
}

}  // namespace fastdarts::cuda
