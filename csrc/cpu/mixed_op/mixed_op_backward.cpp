// Backward of mixed_op on the CPU; the maths stands in kernels/mixed_op/contract.py.
//
// One pass over the outputs' gradients and the raw outputs gives every sum that the mixing weights and the BatchNorms
// want. Two passes of stages follow, the second halves of the separable convolutions first. The gradient of a raw
// output exists as a strip of up to 64 pixels in L1. The gradient of a depthwise output exists as one sample in a
// private buffer; the depthwise output itself is computed anew. All stages add up the gradient of the state in one
// private buffer per sample.
//
// Numerics: a weight gradient is summed in float32 over at most about 1024 pixels, and then in float64. Chunks of
// samples are added in a fixed order.
#include <tuple>

#include "cpu/mixed_op/backward_engine.h"

namespace fastdarts {

template <typename M>
void recompute(const Program& program, const M* x, const std::vector<const Wide<M>*>& weights, Tables& tables,
               const std::vector<M*>& raw);

template <typename Isa, typename T, int B, typename M>
struct Backward : BackwardEngine<Isa, T, B> {
  using Base = BackwardEngine<Isa, T, B>;
  using Base::add_data, Base::buffers, Base::first_pixel, Base::flat, Base::in_blocks, Base::load, Base::out_blocks,
      Base::out_columns, Base::out_pitch, Base::out_plane, Base::out_rows, Base::pack, Base::pool_shape, Base::pools,
      Base::program, Base::reduce, Base::run_stage, Base::width;
  using typename Base::Buffers, typename Base::E, typename Base::Packed;
  using Memory = Arena<Scratch::kCall>;
  using Own = Arena<Scratch::kWorker>;

  void run(const BackwardOperands<M>& to) const {
    Memory& memory = Memory::fresh();
    std::vector<RawCoefficients> rows(program.rows);
    sums(to, memory, rows);
    if (!to.dx && to.weights.empty() && program.second.empty()) return;
    int64_t* where = memory.take<int64_t>(program.pixels());
    for (int64_t i = 0; i < program.pixels(); ++i) {
      where[i] = (i / out_columns + program.border) * out_pitch + (i % out_columns + program.border) * B;
    }
    second_pass(to, memory, where, rows);  // its middle BatchNorms have gains too
    if (to.dx || !to.weights.empty()) first_pass(to, memory, where, rows);
  }

  // From Σ g and Σ g (z − mean) of a row: the gradients of its gain and offset, the coefficients of dL/dz. These want
  // the sums over all processes, which lie `others` behind those of this one.
  RawCoefficients coefficients(const BackwardOperands<M>& to, int64_t row, const double* first, const double* second,
                               int64_t others) const {
    RawCoefficients result;
    const Tables& t = to.tables;
    const double count = program.count();
    for (int64_t c = 0; c < program.outputs; ++c) {
      const int64_t i = row * program.outputs + c;
      to.gain[i] = second[c] * t.rstd[i];
      to.offset[i] = first[c];
      const double all[2] = {first[c + others], second[c + others]};
      result.scale.push_back(t.scale(i));
      result.shift.push_back(to.training ? all[0] / count : 0);
      result.slope.push_back(to.training ? -t.scale(i) * t.rstd[i] * t.rstd[i] * all[1] / count : 0);
    }
    return result;
  }

  // `own` and, behind them, their sums over all processes.
  std::vector<double> with_all(const double* own, int64_t size) const {
    std::vector<double> result(own, own + size);
    if (!program.images) return result;
    const std::vector<double> all = gather(result);
    result.resize(2 * size);
    for (size_t i = 0; i < all.size(); ++i) result[size + i % size] += all[i];
    return result;
  }

  // One pass over everything that the edges add up.
  void sums(const BackwardOperands<M>& to, Memory& memory, std::vector<RawCoefficients>& rows) const {
    const int64_t C = program.outputs, finals = program.finals.size(), size = (program.edges + finals) * C;
    double* partial = memory.zeros<double>(program.chunks() * size);
    std::vector<const T*> means;
    for (const Final& f : program.finals) {
      means.push_back(flat(memory, f.row, [&](int64_t i) { return to.tables.mean[i]; }));
    }
    this->samples([&](Own& own) {
      M* max = program.max_pool ? own.take<M>(program.out_size()) : nullptr;
      M* avg = program.avg_pool ? own.take<M>(program.out_size()) : nullptr;
      T* scratch = own.take<T>(2 * program.width * program.inputs);
      T* table = own.take<T>(2 * width);
      M* drawn = own.take<M>(program.draws.size() * program.out_size());
      return [=, this, &to, &means](int64_t chunk, int64_t n) {
        if (max || avg) pools(to.x, n, max, avg, scratch);
        const int64_t at = n * program.out_size();
        std::vector<Stream<M>> streams;
        double* result = partial + chunk * size;
        for (int64_t e = 0, i = 0; e < program.edges; ++e) {
          streams.clear();
          for (; i < finals && program.finals[i].edge == e; ++i) {
            const Final& f = program.finals[i];
            const M* raw = f.staged() ? to.raw[f.z] + at : nullptr;
            streams.push_back({this->term(to.x, f, n, raw, max, avg, drawn), nullptr, means[i]});
          }
          const int64_t count = streams.size();
          Isa::call(GradientSums<M, Isa::kBytes / sizeof(T)>{to.grad[e] + at, streams.data(), count, C, width,
                                                             program.out_size(), table, result});
          result += (1 + count) * C;
        }
      };
    });
    this->join(partial, size);
    const std::vector<double> totals = with_all(partial, size);
    const double* second = totals.data();
    for (int64_t e = 0, i = 0; e < program.edges; ++e) {
      const double* first = second;
      second += C;
      for (; i < finals && program.finals[i].edge == e; ++i, second += C) {
        const int64_t row = program.finals[i].row;
        rows[row] = coefficients(to, row, first, second, totals.size() - size);
      }
    }
  }

  void second_pass(const BackwardOperands<M>& to, Memory& memory, const int64_t* where,
                   std::vector<RawCoefficients>& rows) const {
    const int64_t C = program.outputs, count = program.second.size();
    if (!count) return;
    int64_t size;
    const std::vector<Packed> stages = pack(to, memory, program.second, rows, size);
    double* weights = memory.take<double>(program.chunks() * size);
    double* partial = memory.zeros<double>(program.chunks() * count * 2 * C);
    // Where max(0, y) with y = scale (z − mean) is at hand, Σ d (z − mean) is Σ d y / scale; else it takes a pass.
    std::vector<const T*> means(count, nullptr);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = program.second[i].source;
      bool direct = true;
      for (int64_t c = row * C; c < (row + 1) * C; ++c) direct &= to.tables.offset[c] == 0 && to.tables.scale(c) != 0;
      if (!direct) means[i] = flat(memory, row, [&](int64_t j) { return to.tables.mean[j]; });
    }
    this->samples([&](Own& own) {
      const Canvas<E> canvas = this->out_canvas(own, out_blocks);
      const Buffers b = buffers(own, count, false, weights, size, where);
      T* sums = own.take<T>(2 * out_blocks * B);
      T* table = own.take<T>(2 * width);
      return [=, this, &to, &stages, &means](int64_t chunk, int64_t n) {
        const int64_t at = n * program.out_size(), last = program.chunk(chunk + 1) - 1;
        if (n == program.chunk(chunk)) b.begin(chunk);
        for (int64_t i = 0; i < count; ++i) {
          const Packed& p = stages[i];
          const Stage& s = p.stage;
          const M* z = to.raw[s.z - 1] + at;
          M* out = to.middle[i] + at;
          load(n, s, z, p.middle, canvas);
          const Stage& next = stages[(i + 1) % count].stage;
          const int64_t then = at + (i + 1 < count ? 0 : program.out_size());
          run_stage(to, p, b, canvas, to.grad[s.edge] + at, to.raw[s.z] + at, true, to.raw[next.z - 1] + then,
                    to.grad[next.edge] + then, to.raw[next.z] + then);
          std::fill(sums, sums + 2 * out_blocks * B, T(0));
          this->through(s, b.dt, p.turned, canvas, out, sums);
          double* total = partial + (chunk * count + i) * 2 * C;
          if (means[i]) {
            const Stream<M> stream{z, nullptr, means[i]};
            Isa::call(
                GradientSums<M, Isa::kBytes / sizeof(T)>{out, &stream, 1, C, width, program.out_size(), table, total});
          } else {
            for (int64_t k = 0; k < 2; ++k) Isa::call(AddTo<T>{sums + k * out_blocks * B, total + k * C, C, false});
          }
          b.done(p, i, chunk, program.pixels(), n == last);
        }
      };
    });
    this->join(partial, count * 2 * C);
    for (int64_t i = 0; i < count; ++i) {
      double* total = partial + i * 2 * C;
      for (int64_t c = 0; c < C && !means[i]; ++c) total[C + c] /= to.tables.scale(program.second[i].source * C + c);
    }
    const std::vector<double> totals = with_all(partial, count * 2 * C);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = program.second[i].source;
      const double* total = totals.data() + i * 2 * C;
      rows[row] = coefficients(to, row, total, total + C, totals.size() - count * 2 * C);
    }
    reduce(to, stages, weights, size);
  }

  void first_pass(const BackwardOperands<M>& to, Memory& memory, const int64_t* where,
                  const std::vector<RawCoefficients>& rows) const {
    int64_t size;
    const std::vector<Packed> stages = pack(to, memory, program.first, rows, size);
    const int64_t count = stages.size(), S = program.stride;
    double* weights = memory.take<double>(program.chunks() * size);
    const Rest rest = pack_rest(to, memory, rows);
    this->samples([&](Own& own) {
      const bool far = this->dilated(program.first);
      const Canvas<E> canvas = this->state_canvas(own, far || S == 2);
      const int64_t pitch = S * round_up(out_columns, this->tile_columns) * B;
      const int64_t plane = S * round_up(out_rows, this->tile_rows) * pitch;
      const Canvas<T> dx{own.take<T>(to.dx ? in_blocks * plane : 0), pitch, plane};
      const Buffers b = buffers(own, count, far && S == 1, weights, size, where);
      const bool other = to.dx && (program.skip || program.max_pool || program.avg_pool);
      T* sum = other ? own.take<T>(program.in_size()) : nullptr;
      M* pool[2];
      T* of_pool[2];
      for (M*& p : pool) p = own.take<M>(other ? program.out_size() : 0);
      for (T*& p : of_pool) p = own.take<T>(other ? program.out_size() : 0);
      T* scratch = own.take<T>(2 * program.width * program.inputs);
      M* drawn = own.take<M>(other ? program.draws.size() * program.out_size() : 0);
      return [=, this, &to, &stages, &rest](int64_t chunk, int64_t n) {
        const int64_t at = n * program.out_size(), last = program.chunk(chunk + 1) - 1;
        if (n == program.chunk(chunk)) b.begin(chunk);
        if (count) load(to.x, n, canvas);
        if (to.dx) std::memset(dx.data, 0, sizeof(T) * in_blocks * plane);
        for (int64_t i = 0; i < count; ++i) {
          const Packed& p = stages[i];
          const Stage& next = stages[(i + 1) % count].stage;
          const int64_t then = at + (i + 1 < count ? 0 : program.out_size());
          run_stage(to, p, b, canvas, gradient(to, p.stage) + at, to.raw[p.stage.z] + at, to.dx,
                    i ? nullptr : to.x + (n + 1) * program.in_size(), gradient(to, next) + then, to.raw[next.z] + then);
          b.done(p, i, chunk, program.pixels(), n == last);
          if (to.dx) add_data(p, b, dx);
        }
        if (!to.dx) return;
        if (other) add_rest(to, rest, n, sum, pool, of_pool, scratch, drawn);
        Isa::call(Finish<M, E, B>{first_pixel(canvas), canvas.pitch, canvas.plane, dx.data, pitch, plane, sum,
                                  program.height, program.width, program.inputs, to.dx + n * program.in_size()});
      };
    });
    reduce(to, stages, weights, size);
  }

  // Of a stage's output normalised, or of that of the second stage which reads it.
  const M* gradient(const BackwardOperands<M>& to, const Stage& s) const {
    for (size_t i = 0; i < program.second.size(); ++i) {
      if (program.second[i].source == s.row) return to.middle[i];
    }
    return to.grad[s.edge];
  }

  // What does not pass the ReLU: terms of the gradients of the state (skip) and of both pools' outputs.
  struct Rest {
    struct Term {
      int64_t edge;  // -1: the pool's own output
      int64_t draw;  // that drops elements; -1: none
      const T *scale, *mean;
    };
    std::vector<Term> terms[3];  // by kind: skip, max, avg
    const T* zero;
  };

  Rest pack_rest(const BackwardOperands<M>& to, Memory& memory, const std::vector<RawCoefficients>& rows) const {
    Rest result;
    result.zero = flat(memory, 0, [](int64_t) { return 0; });
    for (int64_t kind : {kSkip, kMaxPool, kAvgPool}) {
      std::vector<double> slope(program.outputs);
      const T* mean = nullptr;
      for (const Final& f : program.finals) {
        const bool drops = f.kind == kDroppedSkip;
        if ((drops ? kSkip : f.kind) != kind) continue;
        const RawCoefficients& k = rows[f.row];
        result.terms[kind].push_back(
            {f.edge, drops ? f.z : -1, flat(memory, 0, [&](int64_t c) { return k.scale[c]; }),
             kind == kSkip ? result.zero : flat(memory, 0, [&](int64_t c) { return k.shift[c]; })});
        mean = flat(memory, f.row, [&](int64_t i) { return to.tables.mean[i]; });
        for (int64_t c = 0; c < program.outputs; ++c) slope[c] += k.slope[c];
      }
      if (mean && kind != kSkip && to.training) {
        result.terms[kind].push_back({-1, -1, flat(memory, 0, [&](int64_t c) { return slope[c]; }), mean});
      }
    }
    return result;
  }

  void add_rest(const BackwardOperands<M>& to, const Rest& rest, int64_t n, T* sum, M* const (&pool)[2],
                T* const (&of_pool)[2], T* scratch, M* drawn) const {
    M* max = program.max_pool ? pool[0] : nullptr;
    M* avg = program.avg_pool ? pool[1] : nullptr;
    if (max || avg) pools(to.x, n, max, avg, scratch);
    const auto add_up = [&](Kind kind, const M* own, T* out) {
      std::vector<Stream<M>> streams;
      for (const auto& term : rest.terms[kind]) {
        const M* data = term.edge < 0 ? own : to.grad[term.edge] + n * program.out_size();
        if (term.draw >= 0) data = this->dropped(term.draw, n, data, drawn);
        streams.push_back({data, term.scale, term.mean});
      }
      Isa::call(WeightedSum<M, Isa::kBytes / sizeof(T), T>{streams.data(), static_cast<int64_t>(streams.size()),
                                                           rest.zero, width, program.out_size(), out});
    };
    if (program.skip) {
      add_up(kSkip, nullptr, sum);
    } else {
      std::memset(sum, 0, sizeof(T) * program.in_size());
    }
    if (!max && !avg) return;
    if (max) add_up(kMaxPool, max, of_pool[0]);
    if (avg) add_up(kAvgPool, avg, of_pool[1]);
    Isa::call(PoolingBackward<M, Isa::kBytes / sizeof(T)>{pool_shape(), to.x + n * program.in_size(), max,
                                                          max ? of_pool[0] : nullptr, avg ? of_pool[1] : nullptr, sum,
                                                          this->places(n)});
  }
};

// Where gradients of weights go: to the tensors, or to arrays that are rounded to them at the end.
template <typename M>
struct WeightGradients {
  std::vector<Tensor>& tensors;
  std::vector<std::vector<Wide<M>>> wide;
  std::vector<Wide<M>*> data;

  explicit WeightGradients(std::vector<Tensor>& tensors) : tensors(tensors) {
    for (Tensor& t : tensors) {
      if constexpr (kHalf<M>) {
        data.push_back(wide.emplace_back(t.numel()).data());
      } else {
        data.push_back(address<M>(t));
      }
    }
  }
  void round() const {
    for (size_t i = 0; i < wide.size(); ++i) {
      std::transform(wide[i].begin(), wide[i].end(), address<M>(tensors[i]), stored<M>);
    }
  }
};

std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> mixed_op_backward(
    std::vector<Tensor> grad, Tensor x, Tensor gain, std::optional<Tensor> offset, std::vector<Tensor> weights,
    std::optional<Tensor> seeds, std::vector<int64_t> candidates, int64_t stride, std::vector<Tensor> z, Tensor mean,
    Tensor var, bool training, double eps, int64_t images, bool need_x, bool need_weights, std::vector<Tensor> kinks,
    bool /*exact: always*/) {
  Program program(x, weights, seeds, candidates, gain.size(1), grad.size(), stride);
  program.images = images;
  program.set_kinks(kinks, true);
  std::vector<Tensor> tables_given{gain, mean, var}, outputs = grad;
  if (offset) tables_given.push_back(*offset);
  outputs.insert(outputs.end(), z.begin(), z.end());
  check(program, x, outputs, weights, tables_given);
  const bool again = z.empty();
  const auto map = [&] { return new_map(x, program.outputs, program.out_rows(), program.out_columns()); };
  for (int64_t i = 0; i < program.raw && again; ++i) z.push_back(map());
  CHECK_SIZE("number of raw outputs", static_cast<int64_t>(z.size()), program.raw);
  std::vector<Tensor> middle, dweights;
  for (size_t i = 0; i < program.second.size(); ++i) middle.push_back(map());
  for (size_t i = 0; i < weights.size() && need_weights; ++i) {
    dweights.push_back(small_result(weights[i].sizes(), weights[i].strides(), weights[i].scalar_type()));
  }
  Tensor dx =
      need_x ? new_map(x, program.inputs, program.height, program.width) : contiguous_result({0}, x.scalar_type());
  const std::vector<int64_t> shape{program.rows, program.outputs};
  Tensor dgain = contiguous_result(shape, gain.scalar_type());
  Tensor doffset = contiguous_result(offset ? shape : std::vector<int64_t>{0}, gain.scalar_type());
  const auto run = [&]<typename M>() {
    using T = Wide<M>;
    Tables t = tables<T>(program, gain, offset);
    const double count = program.count();
    take_statistics<T>(program, mean, var, training ? (count - 1) / count : 1.0, eps, t);
    const Weights<M> w(weights);
    if (again) recompute<M>(program, address<M>(x), w.data, t, addresses<M>(z));
    std::vector<double> g(t.gain.size()), o(t.gain.size());
    WeightGradients<M> of_weights(dweights);
    const BackwardOperands<M> operands{address<M>(x),
                                       addresses<M>(std::as_const(grad)),
                                       addresses<M>(std::as_const(z)),
                                       t,
                                       training,
                                       addresses<M>(middle),
                                       need_x ? address<M>(dx) : nullptr,
                                       of_weights.data,
                                       g.data(),
                                       o.data()};
    specialised<Backward, M>(program, w.data, operands);
    of_weights.round();
    std::copy(g.begin(), g.end(), dgain.mutable_data_ptr<T>());
    if (offset) std::copy(o.begin(), o.end(), doffset.mutable_data_ptr<T>());
  };
  with_map_type(x, run);
  return {dx, dgain, doffset, dweights};
}

STABLE_TORCH_LIBRARY_IMPL(fastdarts, CPU, m) { m.impl("mixed_op_backward", TORCH_BOX(&mixed_op_backward)); }

}  // namespace fastdarts
