// Tensors for kernels to return: large ones lie in memory that is reused (memory.h). Their storage cannot grow, so
// resize_() beyond it raises; in all else they are tensors like any other.
#pragma once

#include "check.h"
//
#include <vector>

#include "cpu/memory.h"

namespace fastdarts {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kPooled = 256 * 1024;  // bytes; malloc keeps what is smaller

inline Tensor from_block(int64_t bytes, torch::headeronly::IntHeaderOnlyArrayRef size,
                         torch::headeronly::IntHeaderOnlyArrayRef strides, ScalarType type) {
  return torch::stable::from_blob(memory::take(bytes), size, strides, torch::headeronly::DeviceType::CPU, type,
                                  [bytes](void* data) { memory::give(data, bytes); });
}

// Uninitialised, with the sizes, strides and type of `t`, a CPU tensor without gaps.
inline Tensor pooled_like(const Tensor& t) {
  const int64_t bytes = t.numel() * static_cast<int64_t>(t.element_size());
  return bytes < kPooled ? torch::stable::empty_like(t) : from_block(bytes, t.sizes(), t.strides(), t.scalar_type());
}

// Uninitialised, [N, C, H, W] in channels-last order, float32 or float64.
inline Tensor pooled_last(const std::vector<int64_t>& size, ScalarType type) {
  const int64_t width = size[3] * size[1], plane = size[2] * width;
  const int64_t bytes = size[0] * plane * (type == ScalarType::Double ? 8 : 4);
  if (bytes < kPooled) {
    return torch::stable::empty(size, type, std::nullopt, torch::headeronly::DeviceType::CPU, std::nullopt,
                                torch::headeronly::MemoryFormat::ChannelsLast);
  }
  return from_block(bytes, size, std::vector<int64_t>{plane, 1, width, size[1]}, type);
}

}  // namespace fastdarts
