// The forward pass of mixed_op by running statistics that keeps nothing for a backward pass.
#pragma once

#include "cpu/mixed_op/program.h"
//
#include <vector>

namespace fastdarts {

template <typename M>
struct InferenceOperands {
  const M* x;
  std::vector<const M*> base;
  std::vector<M*> out;
  const Tables& tables;  // with mean and rstd
};

template <typename M>
void infer(const Program& program, const std::vector<const Wide<M>*>& weights, const InferenceOperands<M>& to);

}  // namespace fastdarts
