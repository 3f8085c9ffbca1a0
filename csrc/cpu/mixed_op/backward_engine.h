// What the backward of mixed_op does with stages: weight gradients, and the gradient of what they read.
#pragma once

#include "cpu/mixed_op/engine.h"
#include "cpu/mixed_op/stage_backward_kernels.h"

namespace fastdarts {

template <typename M>
struct BackwardOperands {
  const M* x;
  std::vector<const M*> grad, raw;
  const Tables& tables;
  bool training;
  std::vector<M*> middle;  // of a raw output's size, one per second stage: scratch
  M* dx;                   // null where not wanted, as are weights
  std::vector<Wide<M>*> weights;
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
  using typename Base::E;
  using Memory = Arena<Scratch::kCall>;
  using Own = Arena<Scratch::kWorker>;

  // What reaches the pixels that a strided convolution treats alike, and its weights, [block][elements][B].
  struct Classes {
    std::vector<Tap> taps[2][2];
    const E* weights;
    int64_t elements;
  };

  struct Packed {
    const Stage& stage;
    typename Base::Middle middle;
    const T *scale, *shift, *slope, *mean;  // of the gradient of its raw output
    const E *depthwise, *turned, *pointwise;
    Classes classes;
    int64_t depthwise_size, size, sums;  // of its weight gradients, in blocks; where they lie among all stages'
  };

  template <typename M>
  std::vector<Packed> pack(const BackwardOperands<M>& to, Memory& memory, const std::vector<Stage>& stages,
                           const std::vector<RawCoefficients>& rows, int64_t& size) const {
    std::vector<Packed> result;
    size = 0;
    for (const Stage& s : stages) {
      const auto table = [&](const std::vector<double>& values) {
        return blocked(memory, 0, [&](int64_t c) { return values[c]; });
      };
      const RawCoefficients& k = rows[s.row];
      const E* packed = pack_depthwise(memory, s, false);
      const int64_t depthwise = s.groups ? 0 : in_blocks * s.taps() * B,
                    pointwise = stage_blocks(s) * B * out_blocks * B;
      result.push_back({s, s.source < 0 ? typename Base::Middle{} : middle(memory, to.tables, s.source), table(k.scale),
                        table(k.shift), table(k.slope),
                        blocked(
                            memory, s.row, [&](int64_t i) { return to.tables.mean[i]; }),
                        packed, pack_depthwise(memory, s, true), pack_pointwise(memory, s, true),
                        classes(memory, s, packed), depthwise, depthwise + pointwise, size});
      if (!to.weights.empty()) size += result.back().size;
    }
    return result;
  }

  // `depthwise`: its packed weights, which are those of the classes too where an element is one weight.
  Classes classes(Memory& memory, const Stage& s, const E* depthwise) const {
    Classes result{{}, depthwise, s.taps()};
    if (s.stride == 1 || s.groups) return result;
    std::vector<std::vector<int64_t>> pairs;  // the taps of each
    for (int64_t cy = 0; cy < 2; ++cy) {
      for (int64_t cx = 0; cx < 2; ++cx) {
        result.taps[cy][cx] = transposed_taps(s, cy, cx);
        if constexpr (kPairs<E>) result.taps[cy][cx] = paired(result.taps[cy][cx], pairs);
      }
    }
    if constexpr (kPairs<E>) {
      result.elements = static_cast<int64_t>(pairs.size());
      E* packed = memory.zeros<E>(in_blocks * result.elements * B);
      for (int64_t c = 0; c < program.inputs; ++c) {
        const T* w = this->weights[s.weight] + c * s.taps();
        E* to = packed + c / B * result.elements * B + c % B;
        for (size_t i = 0; i < pairs.size(); ++i) {
          for (size_t half = 0; half < pairs[i].size(); ++half) Base::set(to[i * B], half, w[pairs[i][half]]);
        }
      }
      result.weights = packed;
    }
    return result;
  }

  // Kernel elements that read neighbouring pixels, two at a time; `pairs` gets them.
  static std::vector<Tap> paired(std::vector<Tap> taps, std::vector<std::vector<int64_t>>& pairs) {
    std::sort(taps.begin(), taps.end(), [](const Tap& a, const Tap& b) { return a.source < b.source; });
    std::vector<Tap> result;
    for (size_t i = 0; i < taps.size(); ++i) {
      const bool two = i + 1 < taps.size() && taps[i + 1].source == taps[i].source + B;
      result.push_back({taps[i].source, static_cast<int64_t>(pairs.size()) * B});
      pairs.push_back({taps[i].weight / B});
      if (two) pairs.back().push_back(taps[++i].weight / B);
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
    Canvas<E> dt;               // gradient of the depthwise output
    Entry<E>*strip, *dz;        // the depthwise output, the gradient of the raw output
    E *strip_pairs, *dz_pairs;  // the same as pairs of pixels, if E are pairs
    T* sums;                    // weight gradients of all stages, in T
    int64_t* summed;            // how many pixels each stage has in them
    double* partial;            // [chunks, size]
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

  Buffers buffers(Own& own, int64_t stages, bool far, double* partial, int64_t size, const int64_t* where) const {
    const int64_t blocks = in_blocks * program.groups();
    return {this->out_canvas(own, std::max(blocks, out_blocks), far),
            own.zeros<Entry<E>>(blocks * strip_plane),
            own.zeros<Entry<E>>(out_blocks * strip_plane),
            kPairs<E> ? own.zeros<E>(blocks * strip_plane) : nullptr,
            kPairs<E> ? own.zeros<E>(out_blocks * strip_plane) : nullptr,
            own.zeros<T>(size),
            own.zeros<int64_t>(stages),
            partial,
            size,
            where};
  }

  // Weight gradients of a stage for one sample, and the gradient of its depthwise output if that is wanted. The rest is
  // what to prefetch: the next map to load, the first strips that the next stage or sample will read.
  template <typename M>
  void run_stage(const BackwardOperands<M>& to, const Packed& p, const Buffers& b, const Canvas<E>& canvas,
                 const M* grad, const M* z, bool data, const M* ahead, const M* next_grad, const M* next_z) const {
    const Stage& s = p.stage;
    const bool weights = !to.weights.empty();
    if (!to.training) z = grad;  // its slope is zero, but zero times an infinite z would not be
    strips([&](int64_t y, int64_t x, int64_t rows, int64_t columns) {
      const int64_t first = y * out_columns + x, pixels = rows * columns, at = first * program.outputs;
      const bool end = first + pixels == program.pixels();
      Isa::call(RawGradient<M, B, E>{grad + at, z + at, pixels, program.outputs, p.scale, p.shift, p.slope, p.mean,
                                     b.dz, strip_plane});
      if (weights) {
        fill(s, canvas, p.depthwise, y, x, rows, columns, b.strip, Base::lines(ahead ? ahead + at : nullptr));
        T* sums = b.sums + p.sums + p.depthwise_size;
        if constexpr (kPairs<E>) {
          Isa::call(PairPixels<B>{b.strip, strip_plane, stage_blocks(s), pixels, b.strip_pairs});
          Isa::call(PairPixels<B>{b.dz, strip_plane, out_blocks, pixels, b.dz_pairs});
          Isa::call(PointwiseWeights<Isa, E, B>{b.dz_pairs, b.strip_pairs, strip_plane, pixels, out_blocks * B,
                                                stage_blocks(s), sums});
        } else {
          Isa::call(
              PointwiseWeights<Isa, E, B>{b.dz, b.strip, strip_plane, pixels, out_blocks * B, stage_blocks(s), sums});
        }
      }
      if (data || (weights && !s.groups)) {
        Isa::call(Pointwise<Isa, E, B, ToBuffer<E, B>, M>{b.dz,
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
      Isa::call(Scatter<E, B>{first_pixel(b.dt) + group * in_blocks * out_plane, out_pitch, out_plane, in_blocks,
                              out_rows, out_columns, dx.data + group * (dx.pitch + B), dx.pitch, dx.plane, s.stride});
    }
    if (s.groups) return;
    if constexpr (kPairs<E>) {
      if (s.stride == 1 && s.dilation == 2) {
        Isa::call(FarPairs<B>{first_pixel(b.dt), out_pitch, out_plane, in_blocks, out_rows, out_columns, program.border,
                              this->first_far(b.dt)});
      }
    }
    spread(s, b.dt, p.turned, p.classes, dx);
  }

  // Adds what lies behind `sums`, of every other chunk as many, to that of the first.
  void join(double* sums, int64_t size) const {
    for (int64_t chunk = 1; chunk < program.chunks(); ++chunk) {
      Isa::call(AddTo<double>{sums + chunk * size, sums, size, false});
    }
  }

  // Adds the chunks of the weight gradients into the first and unpacks it.
  template <typename M>
  void reduce(const BackwardOperands<M>& to, const std::vector<Packed>& stages, double* partial, int64_t size) const {
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
        for (int64_t c = 0; c < program.inputs && !s.groups; ++c) {
          const double* from = sums + c / B * taps * B + c % B;
          T* w = to.weights[s.weight] + c * taps;
          for (int64_t tap = 0; tap < taps; ++tap) w[tap] = static_cast<T>(from[tap * B]);
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
  void weigh(const Stage& s, const Canvas<E>& dt, const Canvas<E>& canvas, T* sums) const;
  // Adds the gradient of what it reads, the state, to `dx`.
  void spread(const Stage& s, const Canvas<E>& dt, const E* turned, const Classes& classes, const Canvas<T>& dx) const;
  // The gradient of what a second stage reads, through its ReLU, to `out`, with its sums; `canvas` holds that.
  template <typename M>
  void through(const Stage& s, const Canvas<E>& dt, const E* turned, const Canvas<E>& canvas, M* out, T* sums) const;
};

#define FASTDARTS_BACKWARD_WINDOWS(prefix, Isa, T, B)                                                       \
  prefix void BackwardEngine<Isa, T, B>::weigh(const Stage&, const Canvas<E>&, const Canvas<E>&, T*) const; \
  prefix void BackwardEngine<Isa, T, B>::spread(const Stage&, const Canvas<E>&, const E*, const Classes&,   \
                                                const Canvas<T>&) const;                                    \
  FASTDARTS_THROUGH(prefix, Isa, T, B, Entry<E>)
#define FASTDARTS_THROUGH(prefix, Isa, T, B, M)                                                                      \
  prefix void BackwardEngine<Isa, T, B>::through(const Stage&, const Canvas<E>&, const E*, const Canvas<E>&, M*, T*) \
      const;
FASTDARTS_BFLOAT16_ENGINES(FASTDARTS_BACKWARD_WINDOWS, extern template)
FASTDARTS_AVX512_ENGINES(FASTDARTS_BACKWARD_WINDOWS, extern template)
FASTDARTS_OTHER_ENGINES(FASTDARTS_BACKWARD_WINDOWS, extern template)

// The widths at which `specialised` runs maps of bfloat16 without units for them.
#if defined(__x86_64__) && defined(__linux__)
#define FASTDARTS_AVX512_HALF(prefix) FASTDARTS_THROUGH(prefix, Avx512, float, 16, BFloat16<false>)
#define FASTDARTS_OTHER_HALF(prefix)                         \
  FASTDARTS_THROUGH(prefix, Avx2, float, 8, BFloat16<false>) \
  FASTDARTS_THROUGH(prefix, Baseline, float, 4, BFloat16<false>)
#else
#define FASTDARTS_AVX512_HALF(prefix)
#define FASTDARTS_OTHER_HALF(prefix) FASTDARTS_THROUGH(prefix, Baseline, float, 4, BFloat16<false>)
#endif
FASTDARTS_AVX512_HALF(extern template)
FASTDARTS_OTHER_HALF(extern template)

}  // namespace fastdarts
