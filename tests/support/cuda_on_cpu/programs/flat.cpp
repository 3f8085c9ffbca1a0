// flat SIZE ...: calls every flat update in every type, packed and element by element, on arrays with nothing
// around them: a program for the sanitizers, which look at the addresses and the order of accesses. Values are looked
// at by test_cuda.py.
#include "cuda/flat/flat.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

using namespace fastdarts::cuda;

int main(int count, char** sizes) {
  const int bytes[] = {4, 8, 2, 2};  // of an element, by type
  for (int type = kFloat32; type <= kBFloat16; ++type) {
    for (int i = 1; i < count; ++i) {
      const int64_t n = std::atoll(sizes[i]);
      for (const int64_t offset : {0, 1}) {
        std::vector<std::vector<char>> arrays;  // from the heap, which begins them at multiples of 16 bytes
        for (int k = 0; k < 4; ++k) arrays.emplace_back((n + offset) * bytes[type]);
        const auto at = [&](int k) { return arrays[k].data() + offset * bytes[type]; };
        std::vector<double> partial(fastdarts_flat_norm_blocks(n)), norm(1), rates{0.1, 0.9, 0.01};
        const cudaError_t errors[] = {
            fastdarts_flat_norm(type, at(0), n, partial.data(), norm.data(), nullptr),
            fastdarts_flat_unroll(type, at(0), at(1), at(2), at(3), n, rates.data(), nullptr),
            fastdarts_flat_unroll(type, at(0), at(0), at(2), nullptr, n, rates.data(), nullptr),
            fastdarts_flat_perturb(type, at(0), at(1), at(2), norm.data(), n, 0.01, nullptr),
            fastdarts_flat_hypergradient(type, at(0), at(1), at(2), at(3), norm.data(), n, 0.01, rates.data(), nullptr),
            fastdarts_flat_sgd(type, at(0), at(1), at(2), norm.data(), n, 5, rates.data(), true, nullptr),
            fastdarts_flat_sgd(type, at(0), nullptr, at(2), nullptr, n, 5, rates.data(), false, nullptr),
        };
        for (const cudaError_t error : errors) {
          if (error != cudaSuccess) return 1;
        }
      }
    }
  }
  std::puts("all updates ran");
}
