// The flat updates on a GPU: the maths stands in kernels/flat/contract.py. All are bound by memory. A thread moves 16
// bytes of each array at a time, or one element where an array begins at an odd place. Arithmetic is in float, in
// double for doubles; fused multiply-adds are written out, so that the bits do not depend on the compiler.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "cuda/flat/flat.h"

namespace fastdarts::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerSm = 8;     // fill a multiprocessor of 2048 threads
constexpr int kSumBlocks = 1024;    // at most: partial sums for the second kernel
constexpr int kSumElements = 4096;  // at least, for a block to sum

template <typename T>
struct Wide {
  using Type = float;
};
template <>
struct Wide<double> {
  using Type = double;
};

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ T narrow(typename Wide<T>::Type x) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

// N elements that are moved by one instruction.
template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
  T element[N];
};

template <int N, typename T>
__device__ Pack<T, N> load(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}

template <int N, typename T>
__device__ void store(T* p, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(p) = pack;
}

template <typename Real>
struct Rates {
  Real lr, mu, decay;
};

template <typename Real>
__device__ Rates<Real> read(const double* rates) {
  return {static_cast<Real>(rates[0]), static_cast<Real>(rates[1]), static_cast<Real>(rates[2])};
}

// Each update has the type it works on, prepare(), which reads what all elements share, and at<N>(i, shared), which
// updates elements i to i + N - 1.
template <typename T>
struct Unroll {
  using Type = T;
  using Real = typename Wide<T>::Type;
  T* out;
  const T *w, *grad, *momentum;
  const double* rates;

  __device__ Rates<Real> prepare() const { return read<Real>(rates); }
  template <int N>
  __device__ void at(int64_t i, const Rates<Real>& by) const {
    const Pack<T, N> ws = load<N>(w + i), grads = load<N>(grad + i), momenta = momentum ? load<N>(momentum + i) : ws;
    Pack<T, N> result;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const Real value = widen(ws.element[k]);
      Real step = fma(by.decay, value, widen(grads.element[k]));
      if (momentum) step = fma(by.mu, widen(momenta.element[k]), step);
      result.element[k] = narrow<T>(fma(-by.lr, step, value));
    }
    store(out + i, result);
  }
};

template <typename T>
struct Perturb {
  using Type = T;
  using Real = typename Wide<T>::Type;
  T* out;
  const T *w, *v;
  const Real* norm;
  Real radius;

  __device__ Real prepare() const { return radius / *norm; }
  template <int N>
  __device__ void at(int64_t i, Real epsilon) const {
    const Pack<T, N> ws = load<N>(w + i), vs = load<N>(v + i);
    Pack<T, N> result;
#pragma unroll
    for (int k = 0; k < N; ++k) result.element[k] = narrow<T>(fma(epsilon, widen(vs.element[k]), widen(ws.element[k])));
    store(out + i, result);
  }
};

template <typename T>
struct Hypergradient {
  using Type = T;
  using Real = typename Wide<T>::Type;
  T* out;
  const T *direct, *above, *below;
  const Real* norm;
  Real radius;
  const double* lr;

  struct Shared {
    Real width, lr;
  };
  __device__ Shared prepare() const { return {2 * (radius / *norm), static_cast<Real>(*lr)}; }
  template <int N>
  __device__ void at(int64_t i, const Shared& by) const {
    const Pack<T, N> directs = load<N>(direct + i), aboves = load<N>(above + i), belows = load<N>(below + i);
    Pack<T, N> result;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const Real slope = (widen(aboves.element[k]) - widen(belows.element[k])) / by.width;
      result.element[k] = narrow<T>(fma(-by.lr, slope, widen(directs.element[k])));
    }
    store(out + i, result);
  }
};

template <typename T>
struct Sgd {
  using Type = T;
  using Real = typename Wide<T>::Type;
  T *w, *momentum;
  const T* grad;
  const Real* norm;
  Real max_norm;
  const double* rates;
  bool only_finite;

  struct Shared {
    Rates<Real> rates;
    Real clip;
    bool skip;
  };
  __device__ Shared prepare() const {
    const Real clip = norm ? max_norm / (*norm + Real(1e-6)) : 1;
    const bool skip = only_finite && norm && *norm - *norm != 0;  // NaN or infinite
    return {read<Real>(rates), clip > 1 ? 1 : clip, skip};        // a comparison that lets NaN through
  }
  template <int N>
  __device__ void at(int64_t i, const Shared& by) const {
    if (by.skip) return;
    const Pack<T, N> grads = load<N>(grad + i);
    Pack<T, N> ws = load<N>(w + i), momenta = momentum ? load<N>(momentum + i) : ws;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const Real value = widen(ws.element[k]);
      Real step = fma(by.rates.decay, value, by.clip * widen(grads.element[k]));
      if (momentum) step = fma(by.rates.mu, widen(momenta.element[k]), step);
      momenta.element[k] = narrow<T>(step);
      ws.element[k] = narrow<T>(fma(-by.rates.lr, step, value));
    }
    if (momentum) store(momentum + i, momenta);
    store(w + i, ws);
  }
};

template <typename Update, int N>
__global__ __launch_bounds__(kThreads) void update_kernel(const Update update, const int64_t n) {
  const auto shared = update.prepare();
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x, step = int64_t{gridDim.x} * kThreads;
  const int64_t packs = n / N;
  for (int64_t i = first; i < packs; i += step) update.template at<N>(i * N, shared);
  if constexpr (N > 1) {
    if (first < n % N) update.template at<1>(packs * N + first, shared);
  }
}

// The sum over a block, in its first thread; every thread must be there.
__device__ double block_sum(double sum) {
  __shared__ double warps[kThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(~0u, sum, offset);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x < 32) {
    sum = threadIdx.x < kThreads / 32 ? warps[threadIdx.x] : 0;
    for (int offset = kThreads / 64; offset > 0; offset /= 2) sum += __shfl_down_sync(~0u, sum, offset);
  }
  return sum;
}

// Σ x² of what each block reads: the same elements, in the same order, on every GPU.
template <typename T, int N>
__global__ __launch_bounds__(kThreads) void squares_kernel(const T* x, const int64_t n, double* partial) {
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x, step = int64_t{gridDim.x} * kThreads;
  const int64_t packs = n / N;
  double sum = 0;
  for (int64_t i = first; i < packs; i += step) {
    const Pack<T, N> pack = load<N>(x + i * N);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const double value = widen(pack.element[k]);
      sum = fma(value, value, sum);
    }
  }
  if (N > 1 && first < n % N) {
    const double value = widen(x[packs * N + first]);
    sum = fma(value, value, sum);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <typename Real>
__global__ __launch_bounds__(kThreads) void root_kernel(const double* partial, const int blocks, Real* out) {
  double sum = 0;
  for (int i = threadIdx.x; i < blocks; i += kThreads) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = static_cast<Real>(sqrt(sum));
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(int64_t blocks, cudaStream_t stream, void (*kernel)(Parameters...), Arguments... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

constexpr int64_t quotient(int64_t n, int64_t divisor) { return (n + divisor - 1) / divisor; }

// Whether 16 bytes can be moved at once; null is no array.
bool aligned(std::initializer_list<const void*> arrays) {
  return std::all_of(arrays.begin(), arrays.end(),
                     [](const void* array) { return reinterpret_cast<uintptr_t>(array) % 16 == 0; });
}

template <typename Update>
cudaError_t run(const Update& update, std::initializer_list<const void*> arrays, int64_t n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  int device = 0, multiprocessors = 0;
  if (const cudaError_t error = cudaGetDevice(&device)) return error;
  if (const auto error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device)) return error;
  constexpr int kPack = 16 / sizeof(typename Update::Type);
  const bool packed = aligned(arrays);
  const int64_t needed = quotient(n, packed ? kThreads * kPack : kThreads);
  return launch(std::min<int64_t>(needed, kBlocksPerSm * multiprocessors), stream,
                packed ? update_kernel<Update, kPack> : update_kernel<Update, 1>, update, n);
}

// body.operator()<T>() with the type that `type` names.
template <typename Body>
cudaError_t with_type(int type, const Body& body) {
  switch (type) {
    case kFloat32:
      return body.template operator()<float>();
    case kFloat64:
      return body.template operator()<double>();
    case kFloat16:
      return body.template operator()<__half>();
    case kBFloat16:
      return body.template operator()<__nv_bfloat16>();
  }
  return cudaErrorInvalidValue;
}

}  // namespace

extern "C" {

int fastdarts_flat_norm_blocks(int64_t n) {
  return static_cast<int>(std::clamp<int64_t>(quotient(n, kSumElements), 1, kSumBlocks));
}

cudaError_t fastdarts_flat_norm(int type, const void* x, int64_t n, double* partial, void* out, cudaStream_t stream) {
  const int blocks = fastdarts_flat_norm_blocks(n);
  return with_type(type, [&]<typename T>() {
    using Real = typename Wide<T>::Type;
    const auto squares = aligned({x}) ? squares_kernel<T, 16 / sizeof(T)> : squares_kernel<T, 1>;
    if (const auto error = launch(blocks, stream, squares, static_cast<const T*>(x), n, partial)) return error;
    return launch(1, stream, root_kernel<Real>, partial, blocks, static_cast<Real*>(out));
  });
}

cudaError_t fastdarts_flat_unroll(int type, void* out, const void* w, const void* grad, const void* momentum, int64_t n,
                                  const double* rates, cudaStream_t stream) {
  return with_type(type, [&]<typename T>() {
    const Unroll<T> update{static_cast<T*>(out), static_cast<const T*>(w), static_cast<const T*>(grad),
                           static_cast<const T*>(momentum), rates};
    return run(update, {out, w, grad, momentum}, n, stream);
  });
}

cudaError_t fastdarts_flat_perturb(int type, void* out, const void* w, const void* v, const void* norm, int64_t n,
                                   double radius, cudaStream_t stream) {
  return with_type(type, [&]<typename T>() {
    using Real = typename Wide<T>::Type;
    const Perturb<T> update{static_cast<T*>(out), static_cast<const T*>(w), static_cast<const T*>(v),
                            static_cast<const Real*>(norm), static_cast<Real>(radius)};
    return run(update, {out, w, v}, n, stream);
  });
}

cudaError_t fastdarts_flat_hypergradient(int type, void* out, const void* direct, const void* above, const void* below,
                                         const void* norm, int64_t n, double radius, const double* lr,
                                         cudaStream_t stream) {
  return with_type(type, [&]<typename T>() {
    using Real = typename Wide<T>::Type;
    const Hypergradient<T> update{static_cast<T*>(out),
                                  static_cast<const T*>(direct),
                                  static_cast<const T*>(above),
                                  static_cast<const T*>(below),
                                  static_cast<const Real*>(norm),
                                  static_cast<Real>(radius),
                                  lr};
    return run(update, {out, direct, above, below}, n, stream);
  });
}

cudaError_t fastdarts_flat_sgd(int type, void* w, void* momentum, const void* grad, const void* norm, int64_t n,
                               double max_norm, const double* rates, bool only_finite, cudaStream_t stream) {
  return with_type(type, [&]<typename T>() {
    using Real = typename Wide<T>::Type;
    const Sgd<T> update{static_cast<T*>(w),
                        static_cast<T*>(momentum),
                        static_cast<const T*>(grad),
                        static_cast<const Real*>(norm),
                        static_cast<Real>(max_norm),
                        rates,
                        only_finite};
    return run(update, {w, momentum, grad}, n, stream);
  });
}

}  // extern "C"

}  // namespace fastdarts::cuda
