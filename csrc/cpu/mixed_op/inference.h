// The forward pass of mixed_op by running statistics that keeps nothing for a backward pass.
#pragma once

#include "cpu/mixed_op/program.h"
//
#include <vector>

namespace fastdarts {

template <typename T>
struct InferenceOperands {
  std::vector<const T*> base;
  std::vector<T*> out;
  const Tables& tables;  // with mean and rstd
};

template <typename T>
void infer(const Program& program, const T* x, const std::vector<const T*>& weights, const InferenceOperands<T>& to);

}  // namespace fastdarts
