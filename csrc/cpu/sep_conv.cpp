// sep_conv on the CPU: the maths stands in kernels/sep_conv.py. Per sample, ReLU(x) goes to a bordered private buffer;
// per strip of up to 64 pixels the depthwise output is computed into L1 and consumed there by the pointwise product.
// Samples are independent: results are the same for every number of threads.
#include "cpu/sep_conv.h"

namespace fastdarts {

template <typename Isa, typename T, int B, int R, int Q>
struct Forward : SepConv<Isa, T, B, R, Q> {
  using Base = SepConv<Isa, T, B, R, Q>;
  using Base::depthwise, Base::load, Base::pack_depthwise, Base::plan, Base::pointwise, Base::strip, Base::taps,
      Base::x;

  void run(T* out) const {
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
          T* to = z + (y * plan.columns() + x) * plan.outputs;
          strip(relu, window, dw, y, x, rows, columns, t);
          Isa::call(Pointwise<Isa, T, B, ToTensor<T, B>>{
              t, plan.strip_plane, plan.inputs, pw, plan.out_blocks, rows * columns, {to, plan.outputs}});
        });
      }
    });
  }
};

Tensor sep_conv(Tensor x, Tensor depthwise, Tensor pointwise, int64_t stride, int64_t dilation) {
  const Shape shape = check(x, depthwise, pointwise, stride, dilation);
  Tensor out = like(x, {shape.samples, shape.outputs, shape.rows(), shape.columns()});
  const auto run = [&]<typename T>() {
    specialised<Forward, T>(shape, x, depthwise, pointwise, out.mutable_data_ptr<T>());
  };
  x.scalar_type() == ScalarType::Double ? run.template operator()<double>() : run.template operator()<float>();
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(fastdarts, CPU, m) { m.impl("sep_conv", TORCH_BOX(&sep_conv)); }

}  // namespace fastdarts
