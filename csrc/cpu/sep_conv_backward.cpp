// Backward of sep_conv on the CPU: the maths stands in kernels/sep_conv.py. The depthwise output is recomputed strip by
// strip; the gradient of the depthwise output of one sample goes to a private buffer, where the depthwise weight
// gradient and dx are taken from.
//
// Numerics: a float32 chain is at most 1024 pixels long (weight gradients start from zero every strip or 1024 pixels),
// then it is added up in float64. Samples are cut into chunks that depend on the shape alone and summed in a fixed
// order: results are the same for every number of threads.
#include "cpu/sep_conv.h"
//
#include <tuple>

#include "cpu/sep_conv_backward_kernels.h"

namespace fastdarts {

// What backward wants; null where it is not wanted.
template <typename T>
struct Gradients {
  T *x, *depthwise, *pointwise;
};

template <typename Isa, typename T, int B, int R, int Q>
struct Backward : SepConv<Isa, T, B, R, Q> {
  using Base = SepConv<Isa, T, B, R, Q>;
  using Base::depthwise, Base::load, Base::pack_depthwise, Base::plan, Base::pointwise, Base::strip, Base::taps,
      Base::x;

  void run(const T* grad, const Gradients<T>& want) const {
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
        int64_t summed = 0;
        bool first_time = true;
        const auto flush = [&] {
          Isa::call(AddTo<T>{sums, total, sums_size, first_time});
          std::memset(sums, 0, sizeof(T) * sums_size);
          summed = 0, first_time = false;
        };
        for (int64_t n = plan.chunk(chunk); n < plan.chunk(chunk + 1); ++n) {
          load(x + n * plan.height * plan.width * plan.inputs, relu);
          const T* gradient = grad + n * plan.pixels() * plan.outputs;
          plan.strips([&](int64_t y, int64_t x, int64_t rows, int64_t columns) {
            const int64_t first = y * plan.columns() + x, pixels = rows * columns;
            const T* from = gradient + first * plan.outputs;
            if (plan.outputs != B || pixels % 16 || reinterpret_cast<uintptr_t>(from) % 64) {
              Isa::call(Load<T, B, false>{from, 1, pixels, plan.outputs, g, 0, plan.strip_plane});
              from = g;
            }  // else the rows of the tensor are a strip already
            if (want.pointwise) {
              strip(relu, window, dw, y, x, rows, columns, t);
              Isa::call(PointwiseWeights<Isa, T, B>{from, t, plan.strip_plane, plan.strip_plane, pixels, outputs,
                                                    plan.in_blocks, sums_pw});
            }
            if (through) {
              Isa::call(Pointwise<Isa, T, B, ToBuffer<T, B>>{from,
                                                             plan.strip_plane,
                                                             plan.outputs,
                                                             pw,
                                                             plan.in_blocks,
                                                             pixels,
                                                             {dt, plan.grad_plane, where + first}});
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
  void data_class(const T* dt, const T* relu, const T* dw, const std::vector<Tap>& taps, int64_t cy, int64_t cx,
                  T* dx) const {
    const int64_t rows = (plan.height - cy + S - 1) / S, columns = (plan.width - cx + S - 1) / S;
    T* to = dx + (cy * plan.width + cx) * plan.inputs;
    const T* mask = relu + (plan.border() + cy) * plan.pitch + (plan.border() + cx) * B;
    Isa::call(DepthwiseData<T, B, R, Q, S>{dt, plan.grad_pitch, plan.grad_plane, plan.in_blocks, taps.data(),
                                           static_cast<int64_t>(taps.size()), dw, plan.taps() * B, mask, plan.pitch,
                                           plan.plane, to, rows, columns, plan.width, plan.inputs});
  }

  void data(const T* dt, const T* relu, const T* dw, const std::vector<Tap> (&classes)[2][2], T* dx) const {
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

  void reduce(double* partial, int64_t size, const Gradients<T>& want) const {  // into its first chunk
    constexpr int64_t kPiece = 1024;
    torch::stable::parallel_for(0, up(size, kPiece) / kPiece, 4, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kPiece, count = std::min(end * kPiece, size) - first;
      for (int64_t chunk = 1; chunk < plan.chunks(); ++chunk) {
        Isa::call(AddTo<double>{partial + chunk * size + first, partial + first, count, false});
      }
    });
    const int64_t inputs = plan.in_blocks * B, taps = plan.taps();
    if (want.depthwise) {
      for (int64_t i = 0; i < plan.inputs * taps; ++i) {
        const int64_t c = i / taps;
        want.depthwise[i] = partial[(c / B * taps + i % taps) * B + c % B];
      }
      partial += taps * inputs;
    }
    if (want.pointwise) {
      for (int64_t o = 0; o < plan.outputs; ++o) {
        for (int64_t i = 0; i < plan.inputs; ++i) want.pointwise[o * plan.inputs + i] = partial[o * inputs + i];
      }
    }
  }
};

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
    specialised<Backward, T>(shape, x, depthwise, pointwise, grad.const_data_ptr<T>(), Gradients<T>{a, b, c});
  };
  x.scalar_type() == ScalarType::Double ? run.template operator()<double>() : run.template operator()<float>();
  return {dx, ddw, dpw};
}

STABLE_TORCH_LIBRARY_IMPL(fastdarts, CPU, m) { m.impl("sep_conv_backward", TORCH_BOX(&sep_conv_backward)); }

}  // namespace fastdarts
