// Products of matrices by the library that torch itself uses, into memory of ours.
#pragma once

#include "torch_stable.h"
//
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <type_traits>

namespace fastdarts {

// Rows of `stride` elements; `turned` is the transpose of what lies there.
template <typename T>
struct Matrix {
  T* data;
  int64_t rows, columns, stride;
  bool turned = false;

  Matrix transposed() const { return {data, columns, rows, stride, !turned}; }

  torch::stable::Tensor tensor() const {
    const auto type = sizeof(T) == 8 ? torch::headeronly::ScalarType::Double : torch::headeronly::ScalarType::Float;
    const int64_t sizes[2] = {rows, columns}, strides[2] = {turned ? 1 : stride, turned ? stride : 1};
    return torch::stable::from_blob(const_cast<std::remove_const_t<T>*>(data), sizes, strides,
                                    torch::headeronly::DeviceType::CPU, type);
  }
};

// out = a b, or that and what `start` holds, which may be `out`.
template <typename T>
void multiply(const Matrix<T>& out, const Matrix<const T>& a, const Matrix<const T>& b) {
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.tensor().get(), a.tensor().get(), b.tensor().get()));
}

template <typename T>
void multiply_onto(const Matrix<const T>& start, const Matrix<T>& out, const Matrix<const T>& a,
                   const Matrix<const T>& b) {
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_cpu_addmm_out(out.tensor().get(), start.tensor().get(), a.tensor().get(), b.tensor().get(), 1.0, 1.0));
}

}  // namespace fastdarts
