// Tensors for kernels to return. The memory of large ones comes from the block cache (block_cache.h) and goes back to
// it with the tensor. Their storage cannot grow: resize_() beyond it raises. Otherwise they are ordinary tensors.
#pragma once

#include "torch_stable.h"
//
#include <vector>

#include "cpu/block_cache.h"

namespace fastdarts {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kLargeResult = 256 * 1024;  // bytes; malloc itself keeps what is smaller

// Uninitialised, in a block of the cache.
inline Tensor cached_result(int64_t bytes, torch::headeronly::IntHeaderOnlyArrayRef size,
                            torch::headeronly::IntHeaderOnlyArrayRef strides, ScalarType type) {
  return torch::stable::from_blob(block_cache::take(bytes), size, strides, torch::headeronly::DeviceType::CPU, type,
                                  [bytes](void* data) { block_cache::give_back(data, bytes); });
}

// Uninitialised, with the sizes, strides and type of `t`, which is a CPU tensor without gaps.
inline Tensor result_like(const Tensor& t) {
  const int64_t bytes = t.numel() * static_cast<int64_t>(t.element_size());
  return bytes < kLargeResult ? torch::stable::empty_like(t)
                              : cached_result(bytes, t.sizes(), t.strides(), t.scalar_type());
}

// Uninitialised, [N, C, H, W] in channels-last order, float32, float64 or bfloat16.
inline Tensor channels_last_result(const std::vector<int64_t>& size, ScalarType type) {
  const int64_t width = size[3] * size[1], plane = size[2] * width;
  const int64_t bytes = size[0] * plane * (type == ScalarType::Double ? 8 : type == ScalarType::BFloat16 ? 2 : 4);
  if (bytes < kLargeResult) {
    return torch::stable::empty(size, type, std::nullopt, torch::headeronly::DeviceType::CPU, std::nullopt,
                                torch::headeronly::MemoryFormat::ChannelsLast);
  }
  return cached_result(bytes, size, std::vector<int64_t>{plane, 1, width, size[1]}, type);
}

}  // namespace fastdarts
