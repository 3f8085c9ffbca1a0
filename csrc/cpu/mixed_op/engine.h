// What both directions of mixed_op share: the geometry of the private buffers, the stages, the choice of tiles.
#pragma once

#include "cpu/mixed_op/program.h"
//
#include <cstring>
#include <vector>

#include "cpu/mixed_op/noise.h"
#include "cpu/mixed_op/stage_kernels.h"
#include "cpu/mixed_op/sums.h"
#include "cpu/pooling.h"
#include "cpu/scratch.h"

namespace fastdarts {

using torch::headeronly::ScalarType;

constexpr int64_t kStrip = 64;    // pixels of a strip
constexpr int64_t kWidth = 256;   // elements that a table aims at
constexpr int64_t kFlush = 1024;  // pixels that a weight gradient adds up in T
#ifdef FASTDARTS_SANITIZE
constexpr int64_t kNonTemporal = 0;  // small maps check what large ones do
#else
constexpr int64_t kNonTemporal = 32 << 20;  // bytes of raw outputs from which on stores are non-temporal
#endif

template <typename T>
struct Canvas {  // a bordered private buffer
  T* data;
  int64_t pitch, plane;
};

// Feature maps in blocks of B channels.
template <typename Isa, typename T, int B>
struct Engine {
  const Program& program;
  const T* x;
  const std::vector<const T*>& weights;
  int64_t in_blocks, out_blocks, out_rows, out_columns, width;  // width: of the flat tables
  int64_t tile_rows = 1, tile_columns = Isa::kTile;             // of windows: the best for the width of the map
  int64_t strip_rows, strip_columns, strip_plane;
  bool nontemporal;                            // whether maps are written by non-temporal stores
  int64_t pitch, plane, out_pitch, out_plane;  // of ReLU(state), of maps of the output's size

  Engine(const Program& p, const T* x, const std::vector<const T*>& weights) : program(p), x(x), weights(weights) {
    in_blocks = round_up(p.inputs, B) / B, out_blocks = round_up(p.outputs, B) / B;
    out_rows = p.out_rows(), out_columns = p.out_columns();
    width = p.outputs * std::max<int64_t>(1, kWidth / p.outputs);
    for (; kTiles && tile_columns > 4 && out_columns <= tile_columns / 2; tile_columns /= 2) tile_rows *= 2;
    strip_columns = std::min(out_columns, kStrip);
    strip_rows = round_up(std::max<int64_t>(1, kStrip / strip_columns), tile_rows);
    strip_rows = strip_columns < out_columns ? 1 : std::min(strip_rows, round_up(out_rows, tile_rows));
    strip_plane = (strip_rows * strip_columns + tile_columns + 16) * B;
    nontemporal = p.outputs % B == 0 && p.samples * p.out_size() * p.raw * sizeof(T) >= kNonTemporal;
    const int64_t r = round_up(out_rows, tile_rows), q = round_up(out_columns, tile_columns), edge = 2 * p.border;
    out_pitch = (q + edge) * B, out_plane = (r + edge) * out_pitch;
    pitch = std::max(p.width + edge, (q - 1) * p.stride + edge + 1) * B;
    plane = std::max(p.height + edge, (r - 1) * p.stride + edge + 1) * pitch;
  }

  // Whether windows have tiles of several rows, for narrow maps. Fewer channels than a register holds have one.
  static constexpr bool kTiles = Isa::kTile == 16 && B * sizeof(T) == Isa::kBytes;
  // f.operator()<rows, columns>() for the tile.
  template <typename F>
  void with_tile(const F& f) const {
    constexpr int A = Isa::kTile;
    if constexpr (kTiles) {
      if (tile_rows == 2) return f.template operator()<2, A / 2>();
      if (tile_rows == 4) return f.template operator()<4, A / 4>();
    }
    f.template operator()<1, A>();
  }

  // body(first row, first column, rows, columns) for every strip of a sample.
  template <typename Body>
  void strips(const Body& body) const {
    for (int64_t y = 0; y < out_rows; y += strip_rows) {
      for (int64_t x = 0; x < out_columns; x += strip_columns) {
        body(y, x, std::min(strip_rows, out_rows - y), std::min(strip_columns, out_columns - x));
      }
    }
  }

  Canvas<T> state_canvas(Arena<Scratch::kWorker>& arena) const {
    return {arena.zeros<T>(in_blocks * plane), pitch, plane};
  }
  Canvas<T> out_canvas(Arena<Scratch::kWorker>& arena, int64_t blocks) const {
    return {arena.zeros<T>(blocks * out_plane), out_pitch, out_plane};
  }
  T* first_pixel(const Canvas<T>& canvas) const { return canvas.data + program.border * (canvas.pitch + B); }

  PoolShape pool_shape() const {
    return {program.height, program.width, program.inputs, program.stride, out_rows, out_columns};
  }
  void pools(int64_t n, T* max, T* avg, T* scratch) const {
    const T* sample = x + n * program.in_size();
    uint8_t* places = max ? this->places(n) : nullptr;
    const bool kept = places && program.kinks.keep;
    if (!kept || avg) {
      Isa::call(Pooling<T, Isa::kBytes / sizeof(T)>{pool_shape(), sample, kept ? nullptr : max, avg, scratch,
                                                    scratch + program.width * program.inputs});
    }
    if (kept) {
      Isa::call(MaxPlaces<T, true>{pool_shape(), sample, max, places});
    } else if (places) {
      Isa::call(MaxPlaces<T, false>{pool_shape(), sample, max, places});
    }
  }
  uint8_t* places(int64_t n) const {
    return program.kinks.places ? program.kinks.places + n * program.out_size() : nullptr;
  }

  // What a final row adds up for sample n: given its raw output there, pools of the state, room for all noises.
  const T* term(const Final& f, int64_t n, const T* raw, const T* max, const T* avg, T* noises) const {
    if (f.kind == kSkip) return x + n * program.in_size();
    if (f.kind == kMaxPool) return max;
    if (f.kind == kAvgPool) return avg;
    if (f.kind != kNoise) return raw;
    T* noise = noises + f.z * program.out_size();
    Isa::call(StandardNormal<T>{program.seeds[f.z], n * program.out_size(), program.out_size(), noise});
    return noise;
  }

  void load(int64_t n, const Canvas<T>& canvas) const {
    uint8_t* bits = program.kinks.state;
    if (bits) bits += n * program.height * program.width * kink_bytes(program.inputs);
    program.kinks.with(bits, [&]<Decide decide>() {
      Isa::call(Load<T, B, false, decide>{x + n * program.in_size(), program.height, program.width, program.inputs,
                                          nullptr, nullptr, nullptr, first_pixel(canvas), pitch, plane, bits});
    });
  }

  // Tables of one row in blocks, zero in the padding: value(index into the tables).
  template <typename Value>
  T* blocked(Arena<Scratch::kCall>& arena, int64_t row, const Value& value) const {
    T* table = arena.zeros<T>(out_blocks * B);
    for (int64_t c = 0; c < program.outputs; ++c) table[c] = static_cast<T>(value(row * program.outputs + c));
    return table;
  }
  // The same, repeated to `width`.
  template <typename Value>
  T* flat(Arena<Scratch::kCall>& arena, int64_t row, const Value& value) const {
    T* table = arena.take<T>(width);
    for (int64_t j = 0; j < width; ++j) {
      table[j] = j < program.outputs ? static_cast<T>(value(row * program.outputs + j)) : table[j - program.outputs];
    }
    return table;
  }

  struct Middle {  // how a second stage reads: max(0, scale (z − mean) + offset)
    const T *scale, *mean, *offset;
  };
  Middle middle(Arena<Scratch::kCall>& arena, const Tables& t, int64_t row) const {
    return {blocked(arena, row, [&](int64_t i) { return t.scale(i); }),
            blocked(arena, row, [&](int64_t i) { return t.mean[i]; }),
            blocked(arena, row, [&](int64_t i) { return t.offset[i]; })};
  }
  // Sample n of what a second stage reads.
  void load(int64_t n, const Stage& s, const T* z, const Middle& m, const Canvas<T>& canvas) const {
    uint8_t* bits = nullptr;
    if (!program.kinks.middle.empty()) {
      bits = program.kinks.middle[&s - program.second.data()] + n * program.pixels() * kink_bytes(program.outputs);
    }
    program.kinks.with(bits, [&]<Decide decide>() {
      Isa::call(Load<T, B, true, decide>{z, out_rows, out_columns, program.outputs, m.scale, m.mean, m.offset,
                                         first_pixel(canvas), canvas.pitch, canvas.plane, bits});
    });
  }

  int64_t stage_blocks(const Stage& s) const { return in_blocks * std::max<int64_t>(1, s.groups); }
  int64_t stage_inputs(const Stage& s) const {  // of the 1×1 convolution, with the padding between groups
    return s.groups == 2 ? in_blocks * B + program.inputs : program.inputs;
  }

  // Entry (o, i) of a stage's 1×1 weight, zero between unlike groups; the address is that of the tensor's entry.
  template <typename P>  // of weights or of their gradients
  P* entry(const std::vector<P*>& of, const Stage& s, int64_t o, int64_t i) const {
    const int64_t C = program.inputs;
    if (s.groups < 2) return of[s.weight + (s.groups ? 0 : 1)] + o * C + i;
    const int64_t half = program.outputs / 2, group = i / (in_blocks * B), c = i % (in_blocks * B);
    return o / half == group && c < C ? of[s.weight + group] + o % half * C + c : nullptr;
  }

  T* pack_depthwise(Arena<Scratch::kCall>& arena, const Stage& s, bool turned) const {  // [block][tap][B]
    const int64_t taps = s.taps();
    T* packed = arena.zeros<T>(in_blocks * taps * B);
    if (s.groups) return packed;
    for (int64_t c = 0; c < program.inputs; ++c) {
      for (int64_t k = 0; k < taps; ++k) {
        packed[(c / B * taps + (turned ? taps - 1 - k : k)) * B + c % B] = weights[s.weight][c * taps + k];
      }
    }
    return packed;
  }
  // [output block][input][B], or turned [input block][output][B].
  T* pack_pointwise(Arena<Scratch::kCall>& arena, const Stage& s, bool turned) const {
    const int64_t inputs = stage_inputs(s), outputs = program.outputs;
    T* packed = arena.zeros<T>(turned ? stage_blocks(s) * outputs * B : out_blocks * inputs * B);
    for (int64_t o = 0; o < outputs; ++o) {
      for (int64_t block = 0; block < stage_blocks(s); ++block) {
        const int64_t count = std::min<int64_t>(B, inputs - block * B);
        const T* w = entry(weights, s, o, block * B);  // of one group, hence in a row
        if (!w || count < 1) continue;
        const int64_t valid = std::min<int64_t>(count, program.inputs - block % in_blocks * B);
        T* to = turned ? packed + (block * outputs + o) * B : packed + (o / B * inputs + block * B) * B + o % B;
        for (int64_t i = 0; i < valid; ++i) to[turned ? i : i * B] = w[i];
      }
    }
    return packed;
  }

  // f.operator()<K, D>() for the depthwise kernel of a stage.
  template <typename F>
  static void with_kernel(const Stage& s, const F& f) {
    const auto of = [&]<int K>() { s.dilation == 1 ? f.template operator()<K, 1>() : f.template operator()<K, 2>(); };
    if (s.kernel == 3) return of.template operator()<3>();
    if (s.kernel == 5) return of.template operator()<5>();
    of.template operator()<7>();
  }

  const T* window(const Stage& s, const Canvas<T>& canvas) const {  // of the first pixel
    return canvas.data + (program.border - s.border()) * (canvas.pitch + B);
  }

  // body(chunk, sample) for every sample, in parallel over chunks; `setup` makes a body for every thread.
  template <typename Setup>
  void samples(const Setup& setup) const {
    const Program& p = program;
    const int64_t work = p.samples * p.pixels() * p.inputs * (1 + p.raw * (25 + p.outputs)) / p.chunks();
    // A thread gets at least this many chunks: small work stays where it is.
    const int64_t grain = std::max<int64_t>(1, 500000 / std::max<int64_t>(1, work));
    torch::stable::parallel_for(0, p.chunks(), grain, [&](int64_t begin, int64_t end) {
      auto body = setup(Arena<Scratch::kWorker>::fresh());
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        for (int64_t n = p.chunk(chunk); n < p.chunk(chunk + 1); ++n) body(chunk, n);
      }
      fence();
    });
  }

  // Stages without windows read the state straight into a strip; `direct` of all: then no buffer is loaded.
  static bool direct(const Stage& s) { return s.groups == 1 && s.source < 0; }
  static bool direct(const std::vector<Stage>& stages) {
    return std::all_of(stages.begin(), stages.end(), [](const Stage& s) { return direct(s); });
  }
  void load_strip(int64_t n, int64_t y, int64_t x0, int64_t rows, int64_t columns, T* strip) const {
    const int64_t first = (n * program.height + y) * program.width + x0;
    uint8_t* bits = program.kinks.state;
    if (bits) bits += first * kink_bytes(program.inputs);
    program.kinks.with(bits, [&]<Decide decide>() {
      Isa::call(Load<T, B, false, decide>{x + first * program.inputs, rows, columns, program.inputs, nullptr, nullptr,
                                          nullptr, strip, columns * B, strip_plane, bits});
    });
  }

  // The input of the 1×1 convolution for a strip of pixels; windows.h defines it.
  void fill(const Stage& s, const Canvas<T>& canvas, const T* depthwise, int64_t y, int64_t x, int64_t rows,
            int64_t columns, T* strip, const T* ahead) const;
};

// X(prefix, engine) for all engines that `specialised` runs. Windows take a third of the time to compile, and all
// passes have the same ones: they are compiled once, in units of their own, beside those of the passes.
#if defined(__x86_64__) && defined(__linux__)
#define FASTDARTS_AVX512_ENGINES(X, prefix) \
  X(prefix, Avx512, float, 4) X(prefix, Avx512, float, 8) X(prefix, Avx512, float, 16)
#define FASTDARTS_OTHER_ENGINES(X, prefix) \
  X(prefix, Avx2, float, 4)                \
  X(prefix, Avx2, float, 8) X(prefix, Avx2, double, 4) X(prefix, Baseline, float, 4) X(prefix, Baseline, double, 2)
#else
#define FASTDARTS_AVX512_ENGINES(X, prefix)
#define FASTDARTS_OTHER_ENGINES(X, prefix) X(prefix, Baseline, float, 4) X(prefix, Baseline, double, 2)
#endif

#define FASTDARTS_WINDOWS(prefix, Isa, T, B)                                                                        \
  prefix void Engine<Isa, T, B>::fill(const Stage&, const Canvas<T>&, const T*, int64_t, int64_t, int64_t, int64_t, \
                                      T*, const T*) const;
FASTDARTS_AVX512_ENGINES(FASTDARTS_WINDOWS, extern template)
FASTDARTS_OTHER_ENGINES(FASTDARTS_WINDOWS, extern template)

// Runs Pass<Isa, T, B>, an Engine, with blocks that suit the channels.
template <template <typename, typename, int> typename Pass, typename T, typename... Arguments>
void specialised(const Program& program, const T* x, const std::vector<const T*>& weights,
                 const Arguments&... arguments) {
  with_isa([&](auto isa) {
    using Isa = std::conditional_t<sizeof(T) == 8, typename decltype(isa)::Double, decltype(isa)>;
    constexpr int B = Isa::kBytes / sizeof(T);
    const auto run = [&]<int Width>() { Pass<Isa, T, Width>{{program, x, weights}}.run(arguments...); };
    const int64_t channels = std::max(program.inputs, program.outputs);
    if constexpr (sizeof(T) == 4) {  // doubles are for gradient checks: one width will do
      if constexpr (B > 4) {
        if (channels <= 4) return run.template operator()<4>();
      }
      if constexpr (B > 8) {
        if (channels <= 8) return run.template operator()<8>();
      }
    }
    run.template operator()<B>();
  });
}

}  // namespace fastdarts
