// The process group: several processes, each with a part of one batch. The group itself is torch.distributed's, in
// kernels/process_group.py; kernels reach it through this function.
#pragma once

#include <vector>

namespace fastdarts {

// An all-gather: the values of every process, in the order of their ranks. The result is the same on all processes,
// and all of them must call it.
std::vector<double> gather(std::vector<double> own);

}  // namespace fastdarts
