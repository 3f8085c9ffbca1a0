// Windows backwards: the gradients of depthwise convolutions, by kernel size, stride and dilation.
#pragma once

#include "cpu/mixed_op/backward_engine.h"

namespace fastdarts {

template <typename Isa, typename T, int B>
void BackwardEngine<Isa, T, B>::weigh(const Stage& s, const Canvas<E>& dt, const Canvas<E>& canvas, T* sums) const {
  Base::with_kernel(s, [&]<int K, int D>() {
    const auto run = [&]<int S>() {
      Isa::call(DepthwiseWeights<Isa, E, B, K, S, D>{first_pixel(dt), out_pitch, out_plane,
                                                     this->window(s, canvas, s.stride), canvas.pitch, canvas.plane,
                                                     in_blocks, out_rows, out_columns, sums});
    };
    s.stride == 1 ? run.template operator()<1>() : run.template operator()<2>();
  });
}

template <typename Isa, typename T, int B>
void BackwardEngine<Isa, T, B>::spread(const Stage& s, const Canvas<E>& dt, const E* turned, const Classes& classes,
                                       const Canvas<T>& dx) const {
  this->with_tile([&]<int R, int Q>() {
    if (s.stride == 1) {
      Base::with_kernel(s, [&]<int K, int D>() {
        Isa::call(DepthwiseData<E, B, R, Q, K, D, AddToBuffer<T, B, R, Q, 1>>{this->window(s, dt, s.dilation),
                                                                              out_pitch,
                                                                              out_plane,
                                                                              in_blocks,
                                                                              turned,
                                                                              out_rows,
                                                                              out_columns,
                                                                              {dx.data, dx.pitch, dx.plane}});
      });
      return;
    }
    for (int64_t cy = 0; cy < 2; ++cy) {
      for (int64_t cx = 0; cx < 2; ++cx) {
        const std::vector<Tap>& taps = classes.taps[cy][cx];
        Isa::call(StridedData<E, B, R, Q, AddToBuffer<T, B, R, Q, 2>>{
            dt.data,
            out_pitch,
            out_plane,
            in_blocks,
            taps.data(),
            static_cast<int64_t>(taps.size()),
            classes.weights,
            classes.elements * B,
            (program.height - cy + 1) / 2,
            (program.width - cx + 1) / 2,
            {dx.data + cy * dx.pitch + cx * B, dx.pitch, dx.plane}});
      }
    }
  });
}

template <typename Isa, typename T, int B>
template <typename M>
void BackwardEngine<Isa, T, B>::through(const Stage& s, const Canvas<E>& dt, const E* turned, const Canvas<E>& canvas,
                                        M* out, T* sums) const {
  this->with_tile([&]<int R, int Q>() {
    const ThroughReLU<M, E, B, R, Q> sink{
        first_pixel(canvas), canvas.pitch, canvas.plane,         out, out_rows, out_columns,
        program.outputs,     sums,         sums + out_blocks * B};
    const auto data = [&]<int K>() {
      Isa::call(DepthwiseData<E, B, R, Q, K, 1, ThroughReLU<M, E, B, R, Q>>{
          this->window(s, dt, 1), out_pitch, out_plane, in_blocks, turned, out_rows, out_columns, sink});
    };
    s.kernel == 3   ? data.template operator()<3>()
    : s.kernel == 5 ? data.template operator()<5>()
                    : data.template operator()<7>();
  });
}

}  // namespace fastdarts
