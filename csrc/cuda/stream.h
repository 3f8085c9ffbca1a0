// Where a kernel is to run: the device of a tensor, and the stream that torch uses there. The stable ABI tells the
// stream from torch 2.13 on; the older C function, which libtorch_cuda exports in all releases since, is looked up by
// name. The extension is not linked with libtorch_cuda, so that it loads with a torch for CPUs too.
#pragma once

#include "torch_stable.h"
//
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

namespace fastdarts::cuda {

inline cudaStream_t current_stream(int32_t device) {
  using Function = int32_t(int32_t device, void** stream);  // 0 for success
  static Function* const get = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<Function*>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  STD_TORCH_CHECK(get, "this torch does not tell CUDA streams: install torch 2.11 or newer, built for CUDA");
  void* stream = nullptr;
  STD_TORCH_CHECK(get(device, &stream) == 0, "torch does not tell its current stream on CUDA device ", device);
  return static_cast<cudaStream_t>(stream);
}

// Makes the device of a tensor the current one for as long as it lives, and knows the stream.
struct Place {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;

  explicit Place(const torch::stable::Tensor& t) : guard(t.get_device()), stream(current_stream(t.get_device())) {}
};

}  // namespace fastdarts::cuda
