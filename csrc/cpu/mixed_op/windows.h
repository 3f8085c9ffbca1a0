// The windows of all passes: the depthwise convolution of a strip, by kernel size, stride and dilation.
#pragma once

#include "cpu/mixed_op/engine.h"

namespace fastdarts {

template <typename Isa, typename T, int B>
void Engine<Isa, T, B>::fill(const Stage& s, const Canvas<E>& canvas, const E* depthwise, int64_t y, int64_t x,
                             int64_t rows, int64_t columns, Entry<E>* strip, const Entry<E>* ahead) const {
  const E* from = window(s, canvas, s.dilation) + s.stride * (y * canvas.pitch + x * B);
  for (int64_t group = 0; group < s.groups; ++group) {
    Isa::call(Gather<E, B>{from + group * (canvas.pitch + B), canvas.pitch, canvas.plane, in_blocks, s.stride, rows,
                           columns, strip + group * in_blocks * strip_plane, strip_plane});
  }
  if (s.groups) return;
  Engine::with_tile([&]<int R, int Q>() {
    with_kernel(s, [&]<int K, int D>() {
      const auto run = [&]<int S>() {
        Isa::call(Depthwise<E, B, R, Q, K, S, D>{from, canvas.pitch, canvas.plane, in_blocks, depthwise, rows, columns,
                                                 strip, strip_plane, ahead});
      };
      s.stride == 1 ? run.template operator()<1>() : run.template operator()<2>();
    });
  });
}

}  // namespace fastdarts
