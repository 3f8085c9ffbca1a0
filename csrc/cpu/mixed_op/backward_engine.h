// What the backward of mixed_op does with stages: weight gradients, and the gradient of what they read.
#pragma once

#include "cpu/mixed_op/engine.h"
#include "cpu/mixed_op/stage_backward_kernels.h"

namespace fastdarts {

template <typename T>
struct BackwardOperands {
  std::vector<const T*> grad, raw;
  const Tables& tables;
  bool training;
  std::vector<T*> middle;  // of a raw output's size, one per second stage: scratch
  T* dx;                   // null where not wanted, as are weights
  std::vector<T*> weights;
  double *gain, *offset;  // [rows, channels], zero
};

// dL/dz = scale (g − shift) + slope (z − mean) of one row, per channel.
struct RawCoefficients {
  std::vector<double> scale, shift, slope;
};

template <typename Isa, typename T, int B>
struct BackwardEngine : Engine<Isa, T, B> {
  using Base = Engine<Isa, T, B>;
  using Base::Base;
  using Base::blocked, Base::entry, Base::fill, Base::first_pixel, Base::in_blocks, Base::middle, Base::out_blocks,
      Base::out_columns, Base::out_pitch, Base::out_plane, Base::out_rows, Base::pack_depthwise, Base::pack_pointwise,
      Base::program, Base::stage_blocks, Base::strip_plane, Base::strips;
  using Memory = Arena<Scratch::kCall>;
  using Own = Arena<Scratch::kWorker>;

  struct Packed {
    const Stage& stage;
    typename Base::Middle middle;
    const T *scale, *shift, *slope, *mean;  // of the gradient of its raw output
    const T *depthwise, *turned, *pointwise;
    std::vector<Tap> classes[2][2];
    int64_t depthwise_size, size, sums;  // of its weight gradients, in blocks; where they lie among all stages'
  };

  std::vector<Packed> pack(const BackwardOperands<T>& to, Memory& memory, const std::vector<Stage>& stages,
                           const std::vector<RawCoefficients>& rows, int64_t& size) const {
    std::vector<Packed> result;
    size = 0;
    for (const Stage& s : stages) {
      const auto table = [&](const std::vector<double>& values) {
        return blocked(memory, 0, [&](int64_t c) { return values[c]; });
      };
      const RawCoefficients& k = rows[s.row];
      const int64_t depthwise = s.groups ? 0 : in_blocks * s.taps() * B,
                    pointwise = stage_blocks(s) * B * out_blocks * B;
      result.push_back({s,
                        s.source < 0 ? typename Base::Middle{} : middle(memory, to.tables, s.source),
                        table(k.scale),
                        table(k.shift),
                        table(k.slope),
                        blocked(
                            memory, s.row, [&](int64_t i) { return to.tables.mean[i]; }),
                        pack_depthwise(memory, s, false),
                        pack_depthwise(memory, s, true),
                        pack_pointwise(memory, s, true),
                        {},
                        depthwise,
                        depthwise + pointwise,
                        size});
      if (!to.weights.empty()) size += result.back().size;
      for (int64_t cy = 0; cy < s.stride; ++cy) {
        for (int64_t cx = 0; cx < s.stride; ++cx) result.back().classes[cy][cx] = transposed_taps(s, cy, cx);
      }
    }
    return result;
  }

  // Kernel elements through which the gradient reaches the pixels (cy + S·j, cx + S·i).
  std::vector<Tap> transposed_taps(const Stage& s, int64_t cy, int64_t cx) const {
    std::vector<Tap> result;
    for (int64_t k = 0; k < s.taps(); ++k) {
      const int64_t y = cy + s.border() - k / s.kernel * s.dilation;
      const int64_t x = cx + s.border() - k % s.kernel * s.dilation;
      if (y % s.stride || x % s.stride) continue;
      result.push_back({(y / s.stride + program.border) * out_pitch + (x / s.stride + program.border) * B, k * B});
    }
    return result;
  }

  // What a thread needs for stages.
  struct Buffers {
    Canvas<T> dt;     // gradient of the depthwise output
    T *strip, *dz;    // the depthwise output, the gradient of the raw output
    T* sums;          // weight gradients of all stages, in T
    int64_t* summed;  // how many pixels each stage has in them
    double* partial;  // [chunks, size]
    int64_t size;
    const int64_t* where;

    void begin(int64_t chunk) const { std::memset(partial + chunk * size, 0, sizeof(double) * size); }
    void done(const Packed& p, int64_t stage, int64_t chunk, int64_t pixels, bool last) const {
      summed[stage] += pixels;
      if (!size || (summed[stage] < kFlush && !last)) return;
      Isa::call(AddTo<T>{sums + p.sums, partial + chunk * size + p.sums, p.size, false});
      std::memset(sums + p.sums, 0, sizeof(T) * p.size);
      summed[stage] = 0;
    }
  };

  Buffers buffers(Own& own, int64_t stages, double* partial, int64_t size, const int64_t* where) const {
    const int64_t blocks = in_blocks * program.groups();
    return {this->out_canvas(own, std::max(blocks, out_blocks)),
            own.zeros<T>(blocks * strip_plane),
            own.zeros<T>(out_blocks * strip_plane),
            own.zeros<T>(size),
            own.zeros<int64_t>(stages),
            partial,
            size,
            where};
  }

  // Weight gradients of a stage for one sample, and the gradient of its depthwise output if that is wanted. The rest is
  // what to prefetch: the next map to load, the first strips that the next stage or sample will read.
  void run_stage(const BackwardOperands<T>& to, const Packed& p, const Buffers& b, const Canvas<T>& canvas,
                 const T* grad, const T* z, bool data, const T* ahead, const T* next_grad, const T* next_z) const {
    const Stage& s = p.stage;
    const bool weights = !to.weights.empty();
    if (!to.training) z = grad;  // its slope is zero, but zero times an infinite z would not be
    strips([&](int64_t y, int64_t x, int64_t rows, int64_t columns) {
      const int64_t first = y * out_columns + x, pixels = rows * columns, at = first * program.outputs;
      const bool end = first + pixels == program.pixels();
      Isa::call(RawGradient<T, B>{grad + at, z + at, pixels, program.outputs, p.scale, p.shift, p.slope, p.mean, b.dz,
                                  strip_plane});
      if (weights) {
        fill(s, canvas, p.depthwise, y, x, rows, columns, b.strip, ahead ? ahead + at : nullptr);
        Isa::call(PointwiseWeights<Isa, T, B>{b.dz, b.strip, strip_plane, pixels, out_blocks * B, stage_blocks(s),
                                              b.sums + p.sums + p.depthwise_size});
      }
      if (data || (weights && !s.groups)) {
        Isa::call(Pointwise<Isa, T, B, ToBuffer<T, B>>{b.dz,
                                                       strip_plane,
                                                       program.outputs,
                                                       p.pointwise,
                                                       stage_blocks(s),
                                                       pixels,
                                                       {b.dt.data, out_plane, b.where + first},
                                                       {nullptr, nullptr, nullptr},
                                                       {end ? next_grad : grad + at + pixels * program.outputs,
                                                        end ? next_z : z + at + pixels * program.outputs}});
      }
    });
    if (!weights || s.groups) return;
    weigh(s, b.dt, canvas, b.sums + p.sums);
  }

  // Adds what a stage of the first pass sends back to the state, before the ReLU.
  void add_data(const Packed& p, const Buffers& b, const Canvas<T>& dx) const {
    const Stage& s = p.stage;
    for (int64_t group = 0; group < s.groups; ++group) {
      Isa::call(Scatter<T, B>{first_pixel(b.dt) + group * in_blocks * out_plane, out_pitch, out_plane, in_blocks,
                              out_rows, out_columns, dx.data + group * (dx.pitch + B), dx.pitch, dx.plane, s.stride});
    }
    if (!s.groups) spread(s, b.dt, p.turned, p.depthwise, p.classes, dx);
  }

  // Adds the chunks of the weight gradients into the first and unpacks it.
  void reduce(const BackwardOperands<T>& to, const std::vector<Packed>& stages, double* partial, int64_t size) const {
    if (to.weights.empty()) return;
    torch::stable::parallel_for(0, stages.size(), 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Packed& p = stages[i];
        double* sums = partial + p.sums;
        for (int64_t chunk = 1; chunk < program.chunks(); ++chunk) {
          Isa::call(AddTo<double>{sums + chunk * size, sums, p.size, false});
        }
        const Stage& s = p.stage;
        const int64_t taps = s.taps(), padded = stage_blocks(s) * B;
        for (int64_t j = 0; j < program.inputs * taps && !s.groups; ++j) {
          const int64_t c = j / taps;
          to.weights[s.weight][j] = static_cast<T>(sums[(c / B * taps + j % taps) * B + c % B]);
        }
        sums += p.depthwise_size;
        for (int64_t o = 0; o < program.outputs; ++o) {
          for (int64_t c = 0; c < this->stage_inputs(s); ++c) {
            if (T* w = entry(to.weights, s, o, c)) *w = static_cast<T>(sums[o * padded + c]);
          }
        }
      }
    });
  }

  // What goes through windows backwards; windows_backward.h defines it. From the gradient of a stage's depthwise
  // output: adds the gradient of its depthwise weight to `sums`.
  void weigh(const Stage& s, const Canvas<T>& dt, const Canvas<T>& canvas, T* sums) const;
  // Adds the gradient of what it reads, the state, to `dx`.
  void spread(const Stage& s, const Canvas<T>& dt, const T* turned, const T* depthwise,
              const std::vector<Tap> (&classes)[2][2], const Canvas<T>& dx) const;
  // The gradient of what a second stage reads, through its ReLU, to `out`, with its sums; `canvas` holds that.
  void through(const Stage& s, const Canvas<T>& dt, const T* turned, const Canvas<T>& canvas, T* out, T* sums) const;
};

#define FASTDARTS_BACKWARD_WINDOWS(prefix, Isa, T, B)                                                                \
  prefix void BackwardEngine<Isa, T, B>::weigh(const Stage&, const Canvas<T>&, const Canvas<T>&, T*) const;          \
  prefix void BackwardEngine<Isa, T, B>::spread(const Stage&, const Canvas<T>&, const T*, const T*,                  \
                                                const std::vector<Tap>(&)[2][2], const Canvas<T>&) const;            \
  prefix void BackwardEngine<Isa, T, B>::through(const Stage&, const Canvas<T>&, const T*, const Canvas<T>&, T*, T*) \
      const;
FASTDARTS_AVX512_ENGINES(FASTDARTS_BACKWARD_WINDOWS, extern template)
FASTDARTS_OTHER_ENGINES(FASTDARTS_BACKWARD_WINDOWS, extern template)

}  // namespace fastdarts
