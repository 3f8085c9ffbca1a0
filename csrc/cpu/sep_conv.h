// What both directions of sep_conv share: the geometry of the private buffers, the strips, the choice of tiles.
#pragma once

#include "check.h"
//
#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/scratch.h"
#include "cpu/sep_conv_kernels.h"

namespace fastdarts {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kChunks = 32;  // pieces the weight gradients are cut into
constexpr int64_t kStrip = 64;   // pixels of a strip
constexpr int64_t kFlush = 1024;

constexpr int64_t up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

struct Shape {
  int64_t samples, inputs, outputs, height, width, kernel, stride, dilation;

  int64_t border() const { return dilation * (kernel - 1) / 2; }
  int64_t rows() const { return (height - 1) / stride + 1; }  // of the output
  int64_t columns() const { return (width - 1) / stride + 1; }
  int64_t pixels() const { return rows() * columns(); }
  int64_t taps() const { return kernel * kernel; }
  int64_t chunks() const { return std::max<int64_t>(1, std::min({samples, kChunks, samples * pixels() / 256})); }
  int64_t chunk(int64_t i) const { return samples * i / chunks(); }  // its first sample
  int64_t grain(int64_t items) const {  // a thread gets at least this many: small work stays where it is
    const int64_t work = samples * pixels() * inputs * (taps() + outputs) / items;
    return std::max<int64_t>(1, 500000 / std::max<int64_t>(1, work));
  }
};

// Buffers of one sample for tiles of R rows × Q columns of blocks of B channels.
template <typename T, int B, int R, int Q>
struct Plan : Shape {
  int64_t in_blocks, out_blocks, strip_rows, strip_columns, strip_plane;
  int64_t pitch, plane, grad_pitch, grad_plane;  // of ReLU(x), of the gradient of the depthwise output

  explicit Plan(const Shape& shape) : Shape(shape) {
    in_blocks = up(inputs, B) / B, out_blocks = up(outputs, B) / B;
    strip_columns = std::min(columns(), kStrip);
    strip_rows = up(std::max<int64_t>(1, kStrip / strip_columns), R);
    strip_rows = strip_columns < columns() ? 1 : std::min(strip_rows, up(rows(), R));
    strip_plane = (strip_rows * strip_columns + Q + 16) * B;
    const int64_t r = up(rows(), R), q = up(columns(), Q), edge = 2 * border();
    pitch = std::max(width + edge, (q - 1) * stride + edge + 1) * B;
    plane = std::max(height + edge, (r - 1) * stride + edge + 1) * pitch;
    grad_pitch = (q + edge) * B;
    grad_plane = (r + edge) * grad_pitch;
  }

  // body(first row, first column, rows, columns) for every strip.
  template <typename Body>
  void strips(const Body& body) const {
    for (int64_t y = 0; y < rows(); y += strip_rows) {
      for (int64_t x = 0; x < columns(); x += strip_columns) {
        body(y, x, std::min(strip_rows, rows() - y), std::min(strip_columns, columns() - x));
      }
    }
  }
};

template <typename Isa, typename T, int B, int R, int Q>
struct SepConv {
  Plan<T, B, R, Q> plan;
  const T *x, *depthwise, *pointwise;

  std::vector<Tap> taps() const {
    std::vector<Tap> result;
    for (int64_t k = 0; k < plan.taps(); ++k) {
      const int64_t ky = k / plan.kernel * plan.dilation, kx = k % plan.kernel * plan.dilation;
      result.push_back({ky * plan.pitch + kx * B, k * B});
    }
    return result;
  }

  void pack_depthwise(T* packed) const {  // [block][tap][B]
    std::memset(packed, 0, sizeof(T) * plan.in_blocks * plan.taps() * B);
    for (int64_t c = 0; c < plan.inputs; ++c) {
      for (int64_t k = 0; k < plan.taps(); ++k) {
        packed[(c / B * plan.taps() + k) * B + c % B] = depthwise[c * plan.taps() + k];
      }
    }
  }

  void load(const T* sample, T* relu) const {
    Isa::call(Load<T, B, true>{sample, plan.height, plan.width, plan.inputs, relu + plan.border() * (plan.pitch + B),
                               plan.pitch, plan.plane});
  }

  void strip(const T* relu, const std::vector<Tap>& taps, const T* weight, int64_t y, int64_t x, int64_t rows,
             int64_t columns, T* out) const {
    const int64_t count = plan.taps();
    if (plan.stride == 1) {
      Isa::call(Depthwise<T, B, R, Q, 1>{relu + y * plan.pitch + x * B, plan.pitch, plan.plane, plan.in_blocks,
                                         taps.data(), count, weight, rows, columns, out, plan.strip_plane});
    } else {
      Isa::call(Depthwise<T, B, R, Q, 2>{relu + 2 * (y * plan.pitch + x * B), plan.pitch, plan.plane, plan.in_blocks,
                                         taps.data(), count, weight, rows, columns, out, plan.strip_plane});
    }
  }
};

// Runs Pass<Isa, T, B, R, Q>, a SepConv, with the tile that suits the width of the map and the channels.
template <template <typename, typename, int, int, int> typename Pass, typename T, typename... Arguments>
void specialised(const Shape& shape, const Tensor& x, const Tensor& depthwise, const Tensor& pointwise,
                 const Arguments&... arguments) {
  with_best_isa([&](auto isa) {
    using Isa = decltype(isa);
    constexpr int B = Isa::kBytes / sizeof(T), A = Isa::kTile;
    const auto run = [&]<int Width, int R, int Q>() {
      const SepConv<Isa, T, Width, R, Q> shared{Plan<T, Width, R, Q>(shape), x.const_data_ptr<T>(),
                                                depthwise.const_data_ptr<T>(), pointwise.const_data_ptr<T>()};
      Pass<Isa, T, Width, R, Q>{shared}.run(arguments...);
    };
    if constexpr (sizeof(T) == 8) {  // for gradient checks: one tile will do
      run.template operator()<B, 1, A>();
    } else {
      const auto of_width = [&]<int Width>() {
        if (shape.columns() > A / 2) {
          run.template operator()<Width, 1, A>();
        } else if (shape.columns() > A / 4) {
          run.template operator()<Width, 2, A / 2>();
        } else {
          run.template operator()<Width, 4, A / 4>();
        }
      };
      const int64_t channels = std::max(shape.inputs, shape.outputs);
      if (B > 4 && channels <= 4) {
        of_width.template operator()<4>();
      } else if (B > 8 && channels <= 8) {
        of_width.template operator() < B<8 ? B : 8>();
      } else {
        of_width.template operator()<B>();
      }
    }
  });
}

inline bool channels_last(const Tensor& t) {
  const int64_t strides[4] = {t.size(1) * t.size(2) * t.size(3), 1, t.size(3) * t.size(1), t.size(1)};
  for (int64_t d = 0; d < 4; ++d) {
    if (t.size(d) != 1 && t.stride(d) != strides[d]) return false;
  }
  return true;
}

inline Shape check(const Tensor& x, const Tensor& depthwise, const Tensor& pointwise, int64_t stride,
                   int64_t dilation) {
  STD_TORCH_CHECK(x.dim() == 4 && depthwise.dim() == 4 && pointwise.dim() == 4, "expected tensors of 4 dimensions");
  STD_TORCH_CHECK(channels_last(x), "expected a channels-last input");
  STD_TORCH_CHECK(depthwise.is_contiguous() && pointwise.is_contiguous(), "expected contiguous weights");
  for (const Tensor& weight : {depthwise, pointwise}) {
    STD_TORCH_CHECK(weight.scalar_type() == x.scalar_type(), "input and weights differ in dtype");
  }
  CHECK_SIZE("number of depthwise filters", depthwise.size(0), x.size(1));
  CHECK_SIZE("number of pointwise inputs", pointwise.size(1), x.size(1));
  CHECK_SIZE("size of the pointwise weight", pointwise.numel(), pointwise.size(0) * pointwise.size(1));
  const int64_t kernel = depthwise.size(2);
  STD_TORCH_CHECK(kernel == 3 || kernel == 5 || kernel == 7, "kernel is ", kernel, ", expected 3, 5 or 7");
  CHECK_SIZE("size of the depthwise weight", depthwise.numel(), x.size(1) * kernel * kernel);
  STD_TORCH_CHECK((stride == 1 || stride == 2) && (dilation == 1 || dilation == 2),
                  "expected a stride and a dilation of 1 or 2, got ", stride, " and ", dilation);
  return {x.size(0), x.size(1), pointwise.size(0), x.size(2), x.size(3), kernel, stride, dilation};
}

inline Tensor like(const Tensor& x, const std::vector<int64_t>& size) {
  return torch::stable::empty(size, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                              torch::headeronly::MemoryFormat::ChannelsLast);
}

}  // namespace fastdarts
