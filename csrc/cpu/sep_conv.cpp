// sep_conv on the CPU: the maths stands in kernels/sep_conv.py. Per sample, ReLU(x) goes to a bordered private buffer;
// per strip of up to 64 pixels the depthwise output is computed into L1 and consumed there by the pointwise product.
// Backward recomputes it, writes the gradient of the depthwise output of one sample to a second private buffer, and
// takes the depthwise weight gradient and dx from there.
//
// Numerics: a float32 chain is at most 1024 pixels long (weight gradients start from zero every strip or 1024 pixels),
// then it is added up in float64. Samples are cut into chunks that depend on the shape alone and summed in a fixed
// order: results are the same for every number of threads.
#include "check.h"
//
#include <algorithm>
#include <cstring>
#include <tuple>
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
  int64_t chunks() const { return std::min(samples, kChunks); }
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
  using Packed = const T*;
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

  void strip(const T* relu, const std::vector<Tap>& taps, Packed weight, int64_t y, int64_t x, int64_t rows,
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

  void forward(T* out) const {
    Cutter<T> cut{nullptr};
    T *dw = nullptr, *pw = nullptr;
    for (int round = 0; round < 2; ++round) {
      dw = cut(plan.in_blocks * plan.taps() * B);
      pw = cut(plan.out_blocks * plan.inputs * B);
      if (!round) cut = {scratch<Scratch::kCall, T>(cut.used)};
    }
    pack_depthwise(dw);
    std::memset(pw, 0, sizeof(T) * plan.out_blocks * plan.inputs * B);
    for (int64_t o = 0; o < plan.outputs; ++o) {
      for (int64_t i = 0; i < plan.inputs; ++i)
        pw[(o / B * plan.inputs + i) * B + o % B] = pointwise[o * plan.inputs + i];
    }
    const std::vector<Tap> window = taps();
    torch::stable::parallel_for(0, plan.samples, plan.grain(plan.samples), [&](int64_t begin, int64_t end) {
      const int64_t size = plan.in_blocks * plan.plane;
      T* relu = scratch<Scratch::kWorker, T>(size + plan.in_blocks * plan.strip_plane);
      T* t = relu + size;
      std::memset(relu, 0, sizeof(T) * size);
      for (int64_t n = begin; n < end; ++n) {
        load(x + n * plan.height * plan.width * plan.inputs, relu);
        T* z = out + n * plan.pixels() * plan.outputs;
        plan.strips([&](int64_t y, int64_t x, int64_t rows, int64_t columns) {
          strip(relu, window, dw, y, x, rows, columns, t);
          T* to = z + (y * plan.columns() + x) * plan.outputs;
          Isa::call(Pointwise<Isa, T, B, ToTensor<T, B>>{
              t, plan.strip_plane, plan.inputs, pw, plan.out_blocks, rows * columns, {to, plan.outputs}});
        });
      }
    });
  }

  // What backward wants; null where it is not wanted.
  struct Gradients {
    T *x, *depthwise, *pointwise;
  };

  void backward(const T* grad, const Gradients& want) const {
    const bool through = want.x || want.depthwise;
    const int64_t inputs = plan.in_blocks * B, outputs = plan.out_blocks * B;
    const int64_t dw_size = want.depthwise ? plan.taps() * inputs : 0, pw_size = want.pointwise ? inputs * outputs : 0;
    const int64_t sums_size = up(dw_size + pw_size, 16);
    Cutter<double> cut{nullptr};
    T *dw = nullptr, *pw = nullptr;
    double* partial = nullptr;
    int64_t* where = nullptr;
    for (int round = 0; round < 2; ++round) {
      partial = cut(plan.chunks() * sums_size);
      where = reinterpret_cast<int64_t*>(cut(plan.pixels()));
      dw = reinterpret_cast<T*>(cut(plan.taps() * inputs));
      pw = reinterpret_cast<T*>(cut(plan.outputs * inputs));
      if (!round) cut = {scratch<Scratch::kCall, double>(cut.used)};
    }
    pack_depthwise(dw);
    std::memset(pw, 0, sizeof(T) * plan.outputs * inputs);  // [input block][output][B]
    for (int64_t o = 0; o < plan.outputs; ++o) {
      for (int64_t i = 0; i < plan.inputs; ++i)
        pw[(i / B * plan.outputs + o) * B + i % B] = pointwise[o * plan.inputs + i];
    }
    for (int64_t i = 0; i < plan.pixels(); ++i) {
      where[i] = (i / plan.columns() + plan.border()) * plan.grad_pitch + (i % plan.columns() + plan.border()) * B;
    }
    const std::vector<Tap> window = taps();
    std::vector<Tap> classes[2][2];
    for (int64_t cy = 0; cy < plan.stride; ++cy) {
      for (int64_t cx = 0; cx < plan.stride; ++cx) classes[cy][cx] = transposed_taps(cy, cx);
    }

    torch::stable::parallel_for(0, plan.chunks(), plan.grain(plan.chunks()), [&](int64_t begin, int64_t end) {
      const int64_t relu_size = plan.in_blocks * plan.plane, dt_size = plan.in_blocks * plan.grad_plane;
      const int64_t t_size = plan.in_blocks * plan.strip_plane, g_size = plan.out_blocks * plan.strip_plane;
      T* relu = scratch<Scratch::kWorker, T>(relu_size + dt_size + t_size + g_size + sums_size);
      T *dt = relu + relu_size, *t = dt + dt_size, *g = t + t_size, *sums = g + g_size, *sums_pw = sums + dw_size;
      std::memset(relu, 0, sizeof(T) * (relu_size + dt_size));
      std::memset(sums, 0, sizeof(T) * sums_size);
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        double* total = partial + chunk * sums_size;
        std::memset(total, 0, sizeof(double) * sums_size);
        int64_t summed = 0;
        const auto flush = [&] {
          for (int64_t i = 0; i < sums_size; ++i) total[i] += sums[i];
          std::memset(sums, 0, sizeof(T) * sums_size);
          summed = 0;
        };
        for (int64_t n = plan.chunk(chunk); n < plan.chunk(chunk + 1); ++n) {
          load(x + n * plan.height * plan.width * plan.inputs, relu);
          const T* gradient = grad + n * plan.pixels() * plan.outputs;
          plan.strips([&](int64_t y, int64_t x, int64_t rows, int64_t columns) {
            const int64_t first = y * plan.columns() + x, pixels = rows * columns;
            Isa::call(
                Load<T, B, false>{gradient + first * plan.outputs, 1, pixels, plan.outputs, g, 0, plan.strip_plane});
            if (want.pointwise) {
              strip(relu, window, dw, y, x, rows, columns, t);
              Isa::call(PointwiseWeights<Isa, T, B>{g, t, plan.strip_plane, plan.strip_plane, pixels, outputs,
                                                    plan.in_blocks, sums_pw});
            }
            if (through) {
              Isa::call(Pointwise<Isa, T, B, ToBuffer<T, B>>{
                  g, plan.strip_plane, plan.outputs, pw, plan.in_blocks, pixels, {dt, plan.grad_plane, where + first}});
            }
            if ((summed += pixels) >= kFlush) flush();
          });
          if (want.depthwise) depthwise_weights(dt, relu, sums);
          if (want.x) data(dt, relu, dw, classes, want.x + n * plan.height * plan.width * plan.inputs);
        }
        flush();
      }
    });
    reduce(partial, sums_size, want);
  }

  // Kernel elements through which the gradient reaches the pixels (cy + S·j, cx + S·i).
  std::vector<Tap> transposed_taps(int64_t cy, int64_t cx) const {
    std::vector<Tap> result;
    for (int64_t k = 0; k < plan.taps(); ++k) {
      const int64_t y = cy + plan.border() - k / plan.kernel * plan.dilation;
      const int64_t x = cx + plan.border() - k % plan.kernel * plan.dilation;
      if (y % plan.stride || x % plan.stride) continue;
      result.push_back(
          {(y / plan.stride + plan.border()) * plan.grad_pitch + (x / plan.stride + plan.border()) * B, k * B});
    }
    return result;
  }

  template <int S>
  void data_class(const T* dt, const T* relu, Packed dw, const std::vector<Tap>& taps, int64_t cy, int64_t cx,
                  T* dx) const {
    const int64_t rows = (plan.height - cy + S - 1) / S, columns = (plan.width - cx + S - 1) / S;
    const T* mask = relu + (plan.border() + cy) * plan.pitch + (plan.border() + cx) * B;
    Isa::call(DepthwiseData<T, B, R, Q, S>{dt, plan.grad_pitch, plan.grad_plane, plan.in_blocks, taps.data(),
                                           static_cast<int64_t>(taps.size()), dw, plan.taps() * B, mask, plan.pitch,
                                           plan.plane, dx + (cy * plan.width + cx) * plan.inputs, rows, columns,
                                           plan.width, plan.inputs});
  }

  void data(const T* dt, const T* relu, Packed dw, const std::vector<Tap> (&classes)[2][2], T* dx) const {
    if (plan.stride == 1) return data_class<1>(dt, relu, dw, classes[0][0], 0, 0, dx);
    for (int64_t cy = 0; cy < 2; ++cy) {
      for (int64_t cx = 0; cx < 2; ++cx) data_class<2>(dt, relu, dw, classes[cy][cx], cy, cx, dx);
    }
  }

  template <int K, int S, int D>
  void depthwise_weights_of(const T* dt, const T* relu, T* sums) const {
    Isa::call(DepthwiseWeights<Isa, T, B, K, S, D>{dt + plan.border() * (plan.grad_pitch + B), plan.grad_pitch,
                                                   plan.grad_plane, relu, plan.pitch, plan.plane, plan.in_blocks,
                                                   plan.rows(), plan.columns(), sums});
  }

  template <int K>
  void depthwise_weights_of(const T* dt, const T* relu, T* sums) const {
    if (plan.stride == 1) {
      plan.dilation == 1 ? depthwise_weights_of<K, 1, 1>(dt, relu, sums)
                         : depthwise_weights_of<K, 1, 2>(dt, relu, sums);
    } else {
      plan.dilation == 1 ? depthwise_weights_of<K, 2, 1>(dt, relu, sums)
                         : depthwise_weights_of<K, 2, 2>(dt, relu, sums);
    }
  }

  void depthwise_weights(const T* dt, const T* relu, T* sums) const {
    if (plan.kernel == 3) return depthwise_weights_of<3>(dt, relu, sums);
    if (plan.kernel == 5) return depthwise_weights_of<5>(dt, relu, sums);
    depthwise_weights_of<7>(dt, relu, sums);
  }

  void reduce(const double* partial, int64_t size, const Gradients& want) const {
    const int64_t inputs = plan.in_blocks * B, taps = plan.taps();
    const auto sum = [&](int64_t i) {
      double total = 0;
      for (int64_t chunk = 0; chunk < plan.chunks(); ++chunk) total += partial[chunk * size + i];
      return static_cast<T>(total);
    };
    if (want.depthwise) {
      for (int64_t i = 0; i < plan.inputs * taps; ++i) {
        const int64_t c = i / taps;
        want.depthwise[i] = sum((c / B * taps + i % taps) * B + c % B);
      }
    }
    if (want.pointwise) {
      const int64_t offset = want.depthwise ? taps * inputs : 0;
      torch::stable::parallel_for(0, plan.outputs, std::max<int64_t>(1, 16384 / (plan.inputs * plan.chunks())),
                                  [&](int64_t begin, int64_t end) {
                                    for (int64_t o = begin; o < end; ++o) {
                                      for (int64_t i = 0; i < plan.inputs; ++i)
                                        want.pointwise[o * plan.inputs + i] = sum(offset + o * inputs + i);
                                    }
                                  });
    }
  }
};

// body(SepConv) with the tile that suits the width of the map and the channels.
template <typename T, typename Body>
void specialised(const Shape& shape, const Tensor& x, const Tensor& depthwise, const Tensor& pointwise,
                 const Body& body) {
  with_best_isa([&](auto isa) {
    using Isa = decltype(isa);
    constexpr int B = Isa::kBytes / sizeof(T), A = Isa::kTile;
    const auto run = [&]<int Width, int R, int Q>() {
      body(SepConv<Isa, T, Width, R, Q>{Plan<T, Width, R, Q>(shape), x.const_data_ptr<T>(),
                                        depthwise.const_data_ptr<T>(), pointwise.const_data_ptr<T>()});
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

bool channels_last(const Tensor& t) {
  const int64_t strides[4] = {t.size(1) * t.size(2) * t.size(3), 1, t.size(3) * t.size(1), t.size(1)};
  for (int64_t d = 0; d < 4; ++d) {
    if (t.size(d) != 1 && t.stride(d) != strides[d]) return false;
  }
  return true;
}

Shape check(const Tensor& x, const Tensor& depthwise, const Tensor& pointwise, int64_t stride, int64_t dilation) {
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

Tensor like(const Tensor& x, const std::vector<int64_t>& size) {
  return torch::stable::empty(size, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                              torch::headeronly::MemoryFormat::ChannelsLast);
}

Tensor sep_conv(Tensor x, Tensor depthwise, Tensor pointwise, int64_t stride, int64_t dilation) {
  const Shape shape = check(x, depthwise, pointwise, stride, dilation);
  Tensor out = like(x, {shape.samples, shape.outputs, shape.rows(), shape.columns()});
  const auto run = [&]<typename T>() {
    specialised<T>(shape, x, depthwise, pointwise, [&](const auto& op) { op.forward(out.mutable_data_ptr<T>()); });
  };
  x.scalar_type() == ScalarType::Double ? run.template operator()<double>() : run.template operator()<float>();
  return out;
}

std::tuple<Tensor, Tensor, Tensor> sep_conv_backward(Tensor grad, Tensor x, Tensor depthwise, Tensor pointwise,
                                                     int64_t stride, int64_t dilation, bool need_x, bool need_depthwise,
                                                     bool need_pointwise) {
  const Shape shape = check(x, depthwise, pointwise, stride, dilation);
  STD_TORCH_CHECK(channels_last(grad), "expected a channels-last gradient");
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type(), "gradient and input differ in dtype");
  CHECK_SIZE("number of elements of the gradient", grad.numel(), shape.samples * shape.outputs * shape.pixels());
  const auto wanted = [&](bool need, const Tensor& of) {
    return need ? torch::stable::empty_like(of) : torch::stable::new_empty(of, {0});
  };
  Tensor dx =
      need_x ? like(x, {shape.samples, shape.inputs, shape.height, shape.width}) : torch::stable::new_empty(x, {0});
  Tensor ddw = wanted(need_depthwise, depthwise), dpw = wanted(need_pointwise, pointwise);
  const auto run = [&]<typename T>() {
    const auto data = [](bool need, Tensor& t) { return need ? t.mutable_data_ptr<T>() : nullptr; };
    T *a = data(need_x, dx), *b = data(need_depthwise, ddw), *c = data(need_pointwise, dpw);
    specialised<T>(shape, x, depthwise, pointwise,
                   [&](const auto& op) { op.backward(grad.const_data_ptr<T>(), {a, b, c}); });
  };
  x.scalar_type() == ScalarType::Double ? run.template operator()<double>() : run.template operator()<float>();
  return {dx, ddw, dpw};
}

STABLE_TORCH_LIBRARY_IMPL(fastdarts, CPU, m) {
  m.impl("sep_conv", TORCH_BOX(&sep_conv));
  m.impl("sep_conv_backward", TORCH_BOX(&sep_conv_backward));
}

}  // namespace fastdarts
