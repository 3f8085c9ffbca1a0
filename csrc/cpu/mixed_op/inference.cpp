// mixed_op where nothing waits for the whole batch: running statistics, and nothing to keep for a backward pass.
//
// Every normalisation is folded into the 1×1 convolution before it. So a sample goes through all stages at once, and
// its middle maps stay in a private buffer. Nothing but the outputs is written to memory.
#include "cpu/mixed_op/inference.h"
//
#include "cpu/mixed_op/engine.h"

namespace fastdarts {

// A pointwise product goes, with an offset for each channel, to NHWC rows of a tensor: as it is, or added to the same
// rows of another tensor, which may be this one.
template <typename M, int B, bool adds>
struct AddToTensor {
  using T = Wide<M>;
  FASTDARTS_VECTORS
  static constexpr bool kWrites = true;
  M* data;
  const M* before;  // null if it does not add
  int64_t channels;
  const T* offset;  // [blocks, B]

  FASTDARTS_INLINE bool whole(int64_t blocks) const { return blocks * B <= channels; }
  FASTDARTS_INLINE void operator()(int64_t pixel, int64_t block, const V& v) const {
    const int64_t place = pixel * channels + block * B;
    const V sum = v + at(offset + block * B);
    if constexpr (adds) {
      Map<M, B>::write(data + place, Map<M, B>::read(before + place) + sum);
    } else {
      Map<M, B>::write(data + place, sum);
    }
  }
  FASTDARTS_INLINE void part(int64_t pixel, int64_t block, const T* v) const {
    const int64_t place = pixel * channels + block * B;
    const int64_t count = channels - block * B < B ? channels - block * B : B;
    const V sum = at(v) + at(offset + block * B);
    if constexpr (adds) {
      Map<M, B>::write_first(data + place, Map<M, B>::read_first(before + place, count) + sum, count);
    } else {
      Map<M, B>::write_first(data + place, sum, count);
    }
  }
};

// ... or, through a ReLU, to the bordered buffer that a second stage reads.
template <typename E, int B>
struct RectifiedToBuffer {
  using T = Wide<E>;
  FASTDARTS_VECTORS
  static constexpr bool kWrites = false;
  ToBuffer<E, B> buffer;
  const T* offset;  // [blocks, B], zero in the padding

  FASTDARTS_INLINE V rectified(int64_t block, const V& v) const {
    const V sum = v + at(offset + block * B);
    return sum < T(0) ? V{} : sum;  // NaN passes, as in PyTorch
  }
  FASTDARTS_INLINE bool whole(int64_t) const { return true; }
  FASTDARTS_INLINE void operator()(int64_t pixel, int64_t block, const V& v) const {
    buffer(pixel, block, rectified(block, v));
  }
  FASTDARTS_INLINE void part(int64_t pixel, int64_t block, const T* v) const { (*this)(pixel, block, at(v)); }
  template <int J>
  FASTDARTS_INLINE void tile(int64_t pixel, int64_t block, const V (&v)[J]) const {
    V all[J];
    unroll<J>(EACH(j) { all[j] = rectified(block, v[j]); });
    buffer.template tile<J>(pixel, block, all);
  }
};

template <typename Isa, typename T, int B, typename M>
struct Inference : Engine<Isa, T, B> {
  using Base = Engine<Isa, T, B>;
  using Base::fill, Base::flat, Base::in_blocks, Base::load, Base::out_blocks, Base::out_columns, Base::out_pitch,
      Base::out_plane, Base::pools, Base::program, Base::stage_blocks, Base::stage_inputs, Base::strip_plane,
      Base::strips, Base::width;
  using typename Base::E;
  using Memory = Arena<Scratch::kCall>;
  using Own = Arena<Scratch::kWorker>;

  struct Packed {
    const Stage& stage;
    const E *depthwise, *pointwise;
    const T* offset;
    const Stage* then;  // the second stage that reads it, or null
    int64_t place;      // of that one among the second stages
    bool begins;        // whether it is the first term of its edge, but for the base
  };
  struct Term {  // of an edge, not by a stage
    const Final& final;
    const T *scale, *mean;
  };
  struct Plan {
    std::vector<Packed> first, second;
    std::vector<Term> terms;
    std::vector<const T*> start;  // per edge, a flat table: of edges that begin with what neither base nor stage gives
    const T *one, *zero;
    const int64_t* where;
  };

  void run(const InferenceOperands<M>& to) const {
    const Plan plan = this->plan(to, Memory::fresh());
    this->samples([&](Own& own) {
      const Canvas<E> canvas = this->state_canvas(own, this->dilated(program.first));
      const Canvas<E> middle = this->out_canvas(own, program.second.empty() ? 0 : out_blocks);
      Entry<E>* strip = own.zeros<Entry<E>>(std::max(in_blocks * program.groups(), out_blocks) * strip_plane);
      M* max = program.max_pool ? own.take<M>(program.out_size()) : nullptr;
      M* avg = program.avg_pool ? own.take<M>(program.out_size()) : nullptr;
      T* scratch = own.take<T>(2 * program.width * program.inputs);
      M* drawn = own.take<M>(program.draws.size() * program.out_size());
      return [=, this, &to, &plan](int64_t, int64_t n) {
        const int64_t at = n * program.out_size();
        if (max || avg) pools(to.x, n, max, avg, scratch);
        for (int64_t e = 0; e < program.edges; ++e) start(to, plan, e, n, max, avg, drawn);
        if (!this->direct(program.first)) load(to.x, n, canvas);
        for (const Packed& p : plan.first) {
          M* out = to.out[p.stage.edge] + at;
          if (!p.then) {
            finish(to, p, n, canvas, strip, out);
            continue;
          }
          stage(to.x, p, n, canvas, strip, [&](int64_t first) {
            return RectifiedToBuffer<E, B>{{middle.data, out_plane, plan.where + first}, p.offset};
          });
          finish(to, plan.second[p.place], n, middle, strip, out);
        }
      };
    });
  }

  Plan plan(const InferenceOperands<M>& to, Memory& memory) const {
    const Tables& t = to.tables;
    const int64_t C = program.outputs;
    Plan plan;
    plan.one = flat(memory, 0, [](int64_t) { return 1; });
    plan.zero = flat(memory, 0, [](int64_t) { return 0; });
    std::vector<bool> begun(program.edges);
    for (const Final& f : program.finals) {
      if (f.staged()) continue;
      begun[f.edge] = true;
      plan.terms.push_back({f, flat(memory, f.row, [&](int64_t i) { return t.scale(i); }),
                            flat(memory, f.row, [&](int64_t i) { return t.mean[i]; })});
    }
    for (int64_t e = 0; e < program.edges; ++e) {
      plan.start.push_back(!begun[e] ? nullptr : flat(memory, 0, [&](int64_t c) {
        double sum = 0;
        for (const Term& term : plan.terms) sum += term.final.edge == e ? t.offset[term.final.row * C + c] : 0;
        return sum;
      }));
    }
    const auto packed = [&](const Stage& s, const Stage* then, int64_t place) {
      const bool begins = !then && !begun[s.edge];
      if (!then) begun[s.edge] = true;
      return Packed{
          s,     this->pack_depthwise(memory, s, false), folded(memory, t, s), offset(memory, t, s.row), then, place,
          begins};
    };
    plan.second.reserve(program.second.size());
    for (const Stage& s : program.first) {
      const auto reads = [&](const Stage& other) { return other.source == s.row; };
      const auto then = std::find_if(program.second.begin(), program.second.end(), reads);
      const Stage* second = then == program.second.end() ? nullptr : &*then;
      plan.first.push_back(packed(s, second, static_cast<int64_t>(plan.second.size())));
      if (second) plan.second.push_back(packed(*second, nullptr, 0));
    }
    int64_t* where = memory.take<int64_t>(program.pixels());
    for (int64_t i = 0; i < program.pixels(); ++i) {
      where[i] = (i / out_columns + program.border) * out_pitch + (i % out_columns + program.border) * B;
    }
    plan.where = where;
    return plan;
  }

  // The 1×1 weight times the scale of each output.
  const E* folded(Memory& memory, const Tables& t, const Stage& s) const {
    std::vector<double> scales;
    for (int64_t o = 0; o < program.outputs; ++o) scales.push_back(t.scale(s.row * program.outputs + o));
    return this->pack_pointwise(memory, s, false, scales);
  }
  // What is left of the normalisation, offset − scale · mean.
  const T* offset(Memory& memory, const Tables& t, int64_t row) const {
    return this->blocked(memory, row, [&](int64_t i) { return t.offset[i] - t.scale(i) * t.mean[i]; });
  }

  // What no stage gives: edge e of sample n, where it begins with that.
  void start(const InferenceOperands<M>& to, const Plan& plan, int64_t e, int64_t n, const M* max, const M* avg,
             M* drawn) const {
    if (!plan.start[e]) return;
    const int64_t at = n * program.out_size();
    std::vector<Stream<M>> streams;
    if (const M* base = this->base(to, e)) streams.push_back({base + at, plan.one, plan.zero});
    for (const Term& term : plan.terms) {
      if (term.final.edge != e) continue;
      streams.push_back({this->template term<M>(to.x, term.final, n, nullptr, max, avg, drawn), term.scale, term.mean});
    }
    Isa::call(WeightedSum<M, Isa::kBytes / sizeof(T)>{streams.data(), static_cast<int64_t>(streams.size()),
                                                      plan.start[e], width, program.out_size(), to.out[e] + at});
  }

  // A stage of sample n; store(first pixel) takes what it gives.
  template <typename Make>
  void stage(const M* x, const Packed& p, int64_t n, const Canvas<E>& canvas, Entry<E>* strip,
             const Make& store) const {
    strips([&](int64_t y, int64_t x0, int64_t rows, int64_t columns) {
      if (this->direct(p.stage)) {
        this->load_strip(x, n, y, x0, rows, columns, strip);
      } else {
        fill(p.stage, canvas, p.depthwise, y, x0, rows, columns, strip, nullptr);
      }
      const auto to = store(y * out_columns + x0);
      Isa::call(Pointwise<Isa, E, B, std::remove_const_t<decltype(to)>, M>{strip,
                                                                           strip_plane,
                                                                           stage_inputs(p.stage),
                                                                           p.pointwise,
                                                                           out_blocks,
                                                                           rows * columns,
                                                                           to,
                                                                           {nullptr, nullptr, nullptr},
                                                                           {nullptr, nullptr}});
    });
  }
  // One whose output is a term of its edge.
  void finish(const InferenceOperands<M>& to, const Packed& p, int64_t n, const Canvas<E>& canvas, Entry<E>* strip,
              M* out) const {
    const int64_t C = program.outputs;
    const M* base = p.begins ? this->base(to, p.stage.edge) : nullptr;
    const M* before = !p.begins ? out : base ? base + n * program.out_size() : nullptr;
    if (before) {
      stage(to.x, p, n, canvas, strip,
            [&](int64_t first) { return AddToTensor<M, B, true>{out + first * C, before + first * C, C, p.offset}; });
    } else {
      stage(to.x, p, n, canvas, strip,
            [&](int64_t first) { return AddToTensor<M, B, false>{out + first * C, nullptr, C, p.offset}; });
    }
  }
  static const M* base(const InferenceOperands<M>& to, int64_t edge) {
    return edge < std::ssize(to.base) ? to.base[edge] : nullptr;
  }
};

template <typename M>
void infer(const Program& program, const std::vector<const Wide<M>*>& weights, const InferenceOperands<M>& to) {
  specialised<Inference, M>(program, weights, to);
}
#define FASTDARTS_INFER(M) \
  template void infer(const Program&, const std::vector<const Wide<M>*>&, const InferenceOperands<M>&);
FASTDARTS_MAPS(FASTDARTS_INFER)

}  // namespace fastdarts
