// Tensors for kernels to return. The memory of large ones comes from the block cache (block_cache.h) and goes back to
// it with the tensor. Their storage cannot grow: resize_() beyond it raises. Otherwise they are ordinary tensors.
#pragma once

#include "torch_stable.h"
//
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <vector>

#include "cpu/block_cache.h"

namespace fastdarts {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kLargeResult = 256 * 1024;  // bytes; malloc itself keeps what is smaller

// Uninitialised, in memory of torch's allocator. Straight from there: torch::stable::empty() looks up the operation by
// its name, and a step of the search network makes 800 small tensors.
inline Tensor small_result(torch::headeronly::IntHeaderOnlyArrayRef size,
                           torch::headeronly::IntHeaderOnlyArrayRef strides, ScalarType type) {
  AtenTensorHandle result;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(size.size()), size.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)), aoti_torch_device_type_cpu(), 0, &result));
  return Tensor(result);
}

// The same, contiguous.
inline Tensor contiguous_result(const std::vector<int64_t>& size, ScalarType type) {
  std::vector<int64_t> strides(size.size(), 1);
  for (size_t i = size.size(); i-- > 1;) strides[i - 1] = strides[i] * std::max<int64_t>(1, size[i]);
  return small_result(size, strides, type);
}

// Uninitialised, in a block of the cache.
inline Tensor cached_result(int64_t bytes, torch::headeronly::IntHeaderOnlyArrayRef size,
                            torch::headeronly::IntHeaderOnlyArrayRef strides, ScalarType type) {
  return torch::stable::from_blob(block_cache::take(bytes), size, strides, torch::headeronly::DeviceType::CPU, type,
                                  [bytes](void* data) { block_cache::give_back(data, bytes); });
}

// Uninitialised, with the sizes, strides and type of `t`, which is a CPU tensor without gaps.
inline Tensor result_like(const Tensor& t) {
  const int64_t bytes = t.numel() * static_cast<int64_t>(t.element_size());
  return bytes < kLargeResult ? small_result(t.sizes(), t.strides(), t.scalar_type())
                              : cached_result(bytes, t.sizes(), t.strides(), t.scalar_type());
}

// Uninitialised, [N, C, H, W] in channels-last order, float32, float64 or bfloat16.
inline Tensor channels_last_result(const std::vector<int64_t>& size, ScalarType type) {
  const int64_t width = size[3] * size[1], plane = size[2] * width;
  const int64_t bytes = size[0] * plane * (type == ScalarType::Double ? 8 : type == ScalarType::BFloat16 ? 2 : 4);
  const std::vector<int64_t> strides{plane, 1, width, size[1]};
  return bytes < kLargeResult ? small_result(size, strides, type) : cached_result(bytes, size, strides, type);
}

}  // namespace fastdarts
