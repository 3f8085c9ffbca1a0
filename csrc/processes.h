// Several processes that share a batch: Python connects them (kernels/processes.py), kernels ask here.
#pragma once

#include <vector>

namespace fastdarts {

// The values of every process, one after another in the order of their ranks: the same on all of them. All call it.
std::vector<double> gather(std::vector<double> own);

}  // namespace fastdarts
