// What the CPU kernels share: how feature maps lie in memory, and passes over them.
#pragma once

#include "torch_stable.h"
//
#include <algorithm>
#include <type_traits>
#include <vector>

#include "isa.h"

namespace fastdarts {

using torch::stable::Tensor;

constexpr int64_t kRow = 256;     // elements a channels-last row aims at: pixels are grouped to make loops long
constexpr int64_t kBlock = 1024;  // elements of a plane per inner loop: the output block stays in L1
constexpr int64_t kChunks = 32;   // pieces a reduction is cut into

// How [N, C, H, W] lies in memory. Coefficients and accumulators are tables of `width` entries. Channels-last data is
// read in rows of several whole pixels, `width` elements long; other data has width C, one entry per plane.
struct Layout {
  int64_t samples, channels, pixels, width;
  bool last;

  int64_t size() const { return channels * pixels; }
  int64_t count() const { return samples * pixels; }
  int64_t chunks() const { return std::min(samples, kChunks); }
  int64_t chunk(int64_t i) const { return samples * i / chunks(); }  // its first sample

  // body(offset, length, first table entry, table step) for every stretch of a sample that shares its coefficients.
  template <typename Body>
  FASTDARTS_INLINE void stretches(int64_t sample, const Body& body) const {
    const int64_t base = sample * size();
    if (last) {
      for (int64_t i = 0; i < size(); i += width) {
        body(base + i, std::min(width, size() - i), int64_t{0}, std::integral_constant<int, 1>{});
      }
    } else {
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t i = 0; i < pixels; i += kBlock) {
          body(base + c * pixels + i, std::min(kBlock, pixels - i), c, std::integral_constant<int, 0>{});
        }
      }
    }
  }

  // Repeats rows of C values to rows of `width`.
  template <typename T>
  std::vector<T> table(const std::vector<double>& values) const {
    std::vector<T> result;
    for (size_t row = 0; row < values.size(); row += channels) {
      for (int64_t i = 0; i < width; ++i) result.push_back(static_cast<T>(values[row + i % channels]));
    }
    return result;
  }

  // Adds a row of `width` accumulators to a row of C.
  void fold(const double* accumulators, double* sums) const {
    for (int64_t i = 0; i < width; ++i) sums[i % channels] += accumulators[i];
  }
};

inline Layout layout_of(const Tensor& t) {
  STD_TORCH_CHECK(t.dim() == 4, "expected [N, C, H, W], got ", t.dim(), " dimensions");
  const int64_t channels = t.size(1), pixels = t.size(2) * t.size(3);
  if (t.is_contiguous()) return {t.size(0), channels, pixels, channels, false};
  const int64_t strides[4] = {channels * pixels, 1, t.size(3) * channels, channels};
  for (int64_t d = 0; d < 4; ++d) {
    STD_TORCH_CHECK(t.size(d) == 1 || t.stride(d) == strides[d], "expected a contiguous or channels-last tensor");
  }
  return {t.size(0), channels, pixels, channels * std::max<int64_t>(1, kRow / channels), true};
}

// Some items of a pass, as one kernel.
template <typename Pass>
struct Items {
  const Pass& pass;
  int64_t begin, end;

  FASTDARTS_INLINE void operator()() const {
    for (int64_t i = begin; i < end; ++i) pass(i);
  }
};

// pass(item) for all items, which touch `elements` in all. Small tensors stay on the calling thread: a thread gets at
// least `kGrain` elements.
template <typename Pass>
void in_parallel(const Pass& pass, int64_t items, int64_t elements) {
  constexpr int64_t kGrain = 32768;
  const int64_t grain = std::max<int64_t>(1, kGrain * items / std::max<int64_t>(1, elements));
  with_isa([&](auto isa) {
    torch::stable::parallel_for(0, items, grain,
                                [&](int64_t begin, int64_t end) { isa.call(Items<Pass>{pass, begin, end}); });
  });
}

template <typename Pass>
void in_parallel(const Pass& pass, int64_t items) {
  in_parallel(pass, items, pass.layout.samples * pass.layout.size() * static_cast<int64_t>(pass.z.size()));
}

template <typename T>
std::vector<double> values(const Tensor& t) {  // of a vector of any stride
  std::vector<double> result;
  for (int64_t i = 0; i < t.size(0); ++i) result.push_back(t.const_data_ptr<T>()[i * t.stride(0)]);
  return result;
}

template <typename T>
std::vector<const T*> pointers(const std::vector<Tensor>& tensors) {
  std::vector<const T*> result;
  for (const Tensor& t : tensors) result.push_back(t.const_data_ptr<T>());
  return result;
}

}  // namespace fastdarts
