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

template <typename E>
struct Canvas {  // a bordered private buffer
  E* data;
  int64_t pitch, plane;
  E* far = nullptr;  // another one, of far pairs
};

// Feature maps in blocks of B channels. What a kernel needs of the type of a map, M, it takes from its arguments.
template <typename Isa, typename T, int B>
struct Engine {
  using E = std::conditional_t<Isa::kDots, Pair, T>;
  const Program& program;
  const std::vector<const T*>& weights;
  int64_t in_blocks, out_blocks, out_rows, out_columns, width;  // width: of the flat tables
  int64_t tile_rows = 1, tile_columns = Isa::kTile;             // of windows: the best for the width of the map
  int64_t strip_rows, strip_columns, strip_plane;
  bool nontemporal;                            // whether maps are written by non-temporal stores
  int64_t pitch, plane, out_pitch, out_plane;  // of ReLU(state), of maps of the output's size

  Engine(const Program& p, const std::vector<const T*>& weights, size_t value)  // value: bytes of one of a map
      : program(p), weights(weights) {
    in_blocks = round_up(p.inputs, B) / B, out_blocks = round_up(p.outputs, B) / B;
    out_rows = p.out_rows(), out_columns = p.out_columns();
    width = p.outputs * std::max<int64_t>(1, kWidth / p.outputs);
    for (; kTiles && tile_columns > 4 && out_columns <= tile_columns / 2; tile_columns /= 2) tile_rows *= 2;
    strip_columns = std::min(out_columns, kStrip);
    strip_rows = round_up(std::max<int64_t>(1, kStrip / strip_columns), tile_rows);
    strip_rows = strip_columns < out_columns ? 1 : std::min(strip_rows, round_up(out_rows, tile_rows));
    strip_plane = (strip_rows * strip_columns + tile_columns + 16) * B;
    nontemporal = p.outputs % B == 0 && p.samples * p.out_size() * p.raw * value >= kNonTemporal;
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

  // Of ReLU(state); `far` if kernels will ask for far pairs.
  Canvas<E> state_canvas(Arena<Scratch::kWorker>& arena, bool far) const {
    return canvas(arena, in_blocks, pitch, plane, far);
  }
  Canvas<E> out_canvas(Arena<Scratch::kWorker>& arena, int64_t blocks, bool far = false) const {
    return canvas(arena, blocks, out_pitch, out_plane, far);
  }
  Canvas<E> canvas(Arena<Scratch::kWorker>& arena, int64_t blocks, int64_t pitch, int64_t plane, bool far) const {
    E* near = arena.zeros<E>(blocks * plane);
    return {near, pitch, plane, far && kPairs<E> ? arena.zeros<E>(blocks * plane) : nullptr};
  }
  static bool dilated(const std::vector<Stage>& stages) {
    return std::any_of(stages.begin(), stages.end(), [](const Stage& s) { return s.dilation == 2; });
  }
  template <typename P>
  P* first_pixel(const Canvas<P>& canvas) const {
    return canvas.data + program.border * (canvas.pitch + B);
  }
  E* first_far(const Canvas<E>& canvas) const {
    return canvas.far ? canvas.far + program.border * (canvas.pitch + B) : nullptr;
  }

  PoolShape pool_shape() const {
    return {program.height, program.width, program.inputs, program.stride, out_rows, out_columns};
  }
  template <typename M>
  void pools(const M* x, int64_t n, M* max, M* avg, T* scratch) const {
    const M* sample = x + n * program.in_size();
    uint8_t* places = max ? this->places(n) : nullptr;
    const bool kept = places && program.kinks.keep;
    if (!kept || avg) {
      Isa::call(Pooling<M, Isa::kBytes / sizeof(T)>{pool_shape(), sample, kept ? nullptr : max, avg, scratch,
                                                    scratch + program.width * program.inputs});
    }
    if (kept) {
      Isa::call(MaxPlaces<M, true>{pool_shape(), sample, max, places});
    } else if (places) {
      Isa::call(MaxPlaces<M, false>{pool_shape(), sample, max, places});
    }
  }
  uint8_t* places(int64_t n) const {
    return program.kinks.places ? program.kinks.places + n * program.out_size() : nullptr;
  }

  // What a final row adds up for sample n: given its raw output there, pools of the state, room for all draws.
  template <typename M>
  const M* term(const M* x, const Final& f, int64_t n, const M* raw, const M* max, const M* avg, M* drawn) const {
    if (f.kind == kSkip) return x + n * program.in_size();
    if (f.kind == kMaxPool) return max;
    if (f.kind == kAvgPool) return avg;
    if (f.kind == kDroppedSkip) return dropped(f.z, n, x + n * program.in_size(), drawn);
    if (f.kind != kNoise) return raw;
    M* noise = drawn + f.z * program.out_size();
    Isa::call(
        StandardNormal<M, Isa::kBytes>{program.draws[f.z].seed, n * program.out_size(), program.out_size(), noise});
    return noise;
  }
  // What is left of a map of sample n by draw i; a gradient goes the way of the state.
  template <typename M>
  const M* dropped(int64_t i, int64_t n, const M* map, M* drawn) const {
    const Draw& draw = program.draws[i];
    M* left = drawn + i * program.out_size();
    Isa::call(Dropped<M, Isa::kBytes>{draw.seed, draw.limit, n * program.out_size(), program.out_size(), map, left});
    return left;
  }

  // ReLU of a map, or of one normalised, to the canvas.
  template <bool affine, typename M>
  void load(const M* from, int64_t rows, int64_t columns, int64_t channels, const T* scale, const T* mean,
            const T* offset, const Canvas<E>& canvas, uint8_t* bits) const {
    program.kinks.with(bits, [&]<Decide decide>() {
      if constexpr (kPairs<E>) {
        Isa::call(LoadPairs<M, B, affine, decide>{from, rows, columns, channels, scale, mean, offset,
                                                  first_pixel(canvas), first_far(canvas), canvas.pitch, canvas.plane,
                                                  program.border, bits});
      } else {
        Isa::call(Load<M, B, affine, decide>{from, rows, columns, channels, scale, mean, offset, first_pixel(canvas),
                                             canvas.pitch, canvas.plane, bits});
      }
    });
  }
  template <typename M>
  void load(const M* x, int64_t n, const Canvas<E>& canvas) const {
    uint8_t* bits = program.kinks.state;
    if (bits) bits += n * program.height * program.width * kink_bytes(program.inputs);
    load<false>(x + n * program.in_size(), program.height, program.width, program.inputs, nullptr, nullptr, nullptr,
                canvas, bits);
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
  template <typename M>
  void load(int64_t n, const Stage& s, const M* z, const Middle& m, const Canvas<E>& canvas) const {
    uint8_t* bits = nullptr;
    if (!program.kinks.middle.empty()) {
      bits = program.kinks.middle[&s - program.second.data()] + n * program.pixels() * kink_bytes(program.outputs);
    }
    load<true>(z, out_rows, out_columns, program.outputs, m.scale, m.mean, m.offset, canvas, bits);
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

  // Half `i` of a pair, in bfloat16: weights are such numbers where maps are.
  static void set(Pair& pair, int64_t i, T w) { pair.bits |= uint32_t{stored<BFloat16<true>>(w).bits} << 16 * i; }

  // Element (ky, kx) of a depthwise kernel to its place in [kernel row][pair][B].
  static void set_tap(Pair* packed, const Stage& s, int64_t ky, int64_t kx, T w) {
    const int64_t pairs = (s.kernel + 1) / 2;
    const bool last = kx == s.kernel - 1;  // goes with a zero before it: Window in stage_kernels.h
    set(packed[(ky * pairs + kx / 2) * B], last ? 1 : kx % 2, w);
  }

  E* pack_depthwise(Arena<Scratch::kCall>& arena, const Stage& s, bool turned) const {  // [block][tap][B]
    const int64_t taps = s.taps(), elements = kPairs<E> ? s.kernel * ((s.kernel + 1) / 2) : taps;
    E* packed = arena.zeros<E>(in_blocks * elements * B);
    if (s.groups) return packed;
    for (int64_t c = 0; c < program.inputs; ++c) {
      E* to = packed + c / B * elements * B + c % B;
      for (int64_t k = 0; k < taps; ++k) {
        const int64_t tap = turned ? taps - 1 - k : k;
        const T w = weights[s.weight][c * taps + k];
        if constexpr (kPairs<E>) {
          set_tap(to, s, tap / s.kernel, tap % s.kernel, w);
        } else {
          to[tap * B] = w;
        }
      }
    }
    return packed;
  }
  // [output block][input][B], or turned [input block][output][B]; of pairs half as many inputs, or outputs. All weights
  // of an output times its scale, if there are scales.
  E* pack_pointwise(Arena<Scratch::kCall>& arena, const Stage& s, bool turned,
                    const std::vector<double>& scales = {}) const {
    constexpr int64_t kEach = kPairs<E> ? 2 : 1;
    const int64_t outputs = program.outputs, inputs = stage_inputs(s);
    const int64_t steps = ((turned ? outputs : inputs) + kEach - 1) / kEach;
    E* packed = arena.zeros<E>((turned ? stage_blocks(s) : out_blocks) * steps * B);
    for (int64_t o = 0; o < outputs; ++o) {
      for (int64_t block = 0; block < stage_blocks(s); ++block) {
        const int64_t count = std::min<int64_t>(B, inputs - block * B);
        const T* w = entry(weights, s, o, block * B);  // of one group, hence in a row
        if (!w || count < 1) continue;
        const int64_t valid = std::min<int64_t>(count, program.inputs - block % in_blocks * B);
        for (int64_t i = 0; i < valid; ++i) {
          const int64_t in = block * B + i;
          E& to =
              turned ? packed[(block * steps + o / kEach) * B + i] : packed[(o / B * steps + in / kEach) * B + o % B];
          const T scaled = scales.empty() ? w[i] : static_cast<T>(w[i] * scales[o]);
          if constexpr (kPairs<E>) {
            set(to, turned ? o % 2 : in % 2, scaled);
          } else {
            to = scaled;
          }
        }
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

  // Of the first pixel. `step`: how far apart the pixels are that go together, of pairs.
  const E* window(const Stage& s, const Canvas<E>& canvas, int64_t step) const {
    const E* data = kPairs<E> && step == 2 ? canvas.far : canvas.data;
    return data + (program.border - s.border()) * (canvas.pitch + B);
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
  template <typename M>
  void load_strip(const M* x, int64_t n, int64_t y, int64_t x0, int64_t rows, int64_t columns, Entry<E>* strip) const {
    const int64_t first = (n * program.height + y) * program.width + x0;
    uint8_t* bits = program.kinks.state;
    if (bits) bits += first * kink_bytes(program.inputs);
    program.kinks.with(bits, [&]<Decide decide>() {
      Isa::call(Load<M, B, false, decide, Entry<E>>{x + first * program.inputs, rows, columns, program.inputs, nullptr,
                                                    nullptr, nullptr, strip, columns * B, strip_plane, bits});
    });
  }

  // The input of the 1×1 convolution for a strip of pixels; windows.h defines it.
  void fill(const Stage& s, const Canvas<E>& canvas, const E* depthwise, int64_t y, int64_t x, int64_t rows,
            int64_t columns, Entry<E>* strip, const Entry<E>* ahead) const;
  // What it prefetches of a map, if the map has elements like a strip.
  template <typename M>
  static const Entry<E>* lines(const M* map) {
    return sizeof(M) == sizeof(Entry<E>) ? reinterpret_cast<const Entry<E>*>(map) : nullptr;
  }
};

// X(prefix, engine) for all engines that `specialised` runs. Windows take a third of the time to compile, and all
// passes have the same ones: they are compiled once, in units of their own, beside those of the passes.
#if defined(__x86_64__) && defined(__linux__)
#define FASTDARTS_BFLOAT16_ENGINES(X, prefix) X(prefix, Avx512Bf16, float, 16)
#define FASTDARTS_AVX512_ENGINES(X, prefix) \
  X(prefix, Avx512, float, 4) X(prefix, Avx512, float, 8) X(prefix, Avx512, float, 16)
#define FASTDARTS_OTHER_ENGINES(X, prefix) \
  X(prefix, Avx2, float, 4)                \
  X(prefix, Avx2, float, 8) X(prefix, Avx2, double, 4) X(prefix, Baseline, float, 4) X(prefix, Baseline, double, 2)
#else
#define FASTDARTS_BFLOAT16_ENGINES(X, prefix)
#define FASTDARTS_AVX512_ENGINES(X, prefix)
#define FASTDARTS_OTHER_ENGINES(X, prefix) X(prefix, Baseline, float, 4) X(prefix, Baseline, double, 2)
#endif

#define FASTDARTS_WINDOWS(prefix, Isa, T, B)                                                                        \
  prefix void Engine<Isa, T, B>::fill(const Stage&, const Canvas<E>&, const E*, int64_t, int64_t, int64_t, int64_t, \
                                      Entry<E>*, const Entry<E>*) const;
FASTDARTS_BFLOAT16_ENGINES(FASTDARTS_WINDOWS, extern template)
FASTDARTS_AVX512_ENGINES(FASTDARTS_WINDOWS, extern template)
FASTDARTS_OTHER_ENGINES(FASTDARTS_WINDOWS, extern template)

// Runs Pass<Isa, T, B, M>, an Engine, with blocks that suit the channels.
template <template <typename, typename, int, typename> typename Pass, typename M, typename... Arguments>
void specialised(const Program& program, const std::vector<const Wide<M>*>& weights, const Arguments&... arguments) {
  using T = Wide<M>;
  const auto run = [&]<typename Isa, int Width>() {
    Pass<Isa, T, Width, M>{{program, weights, sizeof(M)}}.run(arguments...);
  };
  if constexpr (kUnits<M>) {
#if defined(__x86_64__) && defined(__linux__)
    run.template operator()<Avx512Bf16, 16>();
#endif
  } else {
    with_isa([&](auto isa) {
      using Isa = std::conditional_t<sizeof(T) == 8, typename decltype(isa)::Double, decltype(isa)>;
      constexpr int B = Isa::kBytes / sizeof(T);
      const int64_t channels = std::max(program.inputs, program.outputs);
      if constexpr (sizeof(M) == 4) {  // one width will do for doubles, which are for gradient checks, and for bfloat16
        if constexpr (B > 4) {
          if (channels <= 4) return run.template operator()<Isa, 4>();
        }
        if constexpr (B > 8) {
          if (channels <= 8) return run.template operator()<Isa, 8>();
        }
      }
      run.template operator()<Isa, B>();
    });
  }
}

}  // namespace fastdarts
