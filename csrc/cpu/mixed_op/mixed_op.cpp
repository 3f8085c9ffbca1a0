// mixed_op on the CPU: all edges that leave one state; the maths stands in kernels/mixed_op/contract.py.
//
// There are three passes over the samples, because statistics of the whole batch stand between them:
// 1. the stages that read the state, and the statistics of pooling;
// 2. the second halves of the separable convolutions;
// 3. the weighted sums.
// For each sample, ReLU(x) goes to a bordered private buffer once for all stages. For each strip of up to 64 pixels,
// the depthwise output is computed into L1, where the 1×1 product reads it. The moments are taken from the registers
// of that product. Pooled maps live in a private buffer of one sample and are computed anew where they are needed.
//
// With running statistics and nothing to keep, nothing waits for the batch: inference.h.
//
// Numerics: moments are taken about a value of the channel, in float32 over a strip, then in float64. Chunks of samples
// are merged in a fixed order.
#include <tuple>

#include "cpu/mixed_op/engine.h"
#include "cpu/mixed_op/inference.h"

namespace fastdarts {

template <typename M>
struct ForwardOperands {
  const M* x;
  std::vector<const M*> base;
  std::vector<M*> raw, out;  // no out: only raw is wanted
  bool training;
  double eps;
  Tables& tables;  // mean and rstd are filled in if training, as is
  Wide<M>* var;    // [rows, channels], unbiased; filled in if training
};

template <typename Isa, typename T, int B, typename M>
struct Forward : Engine<Isa, T, B> {
  using Base = Engine<Isa, T, B>;
  using Base::blocked, Base::fill, Base::flat, Base::in_blocks, Base::load, Base::middle, Base::out_blocks,
      Base::out_columns, Base::pack_depthwise, Base::pack_pointwise, Base::nontemporal, Base::pools, Base::program,
      Base::stage_blocks, Base::stage_inputs, Base::strip_plane, Base::strips, Base::width;
  using typename Base::E;
  using Memory = Arena<Scratch::kCall>;
  using Own = Arena<Scratch::kWorker>;

  struct Packed {
    const Stage& stage;
    const E *depthwise, *pointwise;
    typename Base::Middle middle;
  };

  std::vector<Packed> pack(Memory& memory, const std::vector<Stage>& stages, const Tables& t) const {
    std::vector<Packed> result;
    for (const Stage& s : stages) {
      result.push_back({s, pack_depthwise(memory, s, false), pack_pointwise(memory, s, false),
                        s.source < 0 ? typename Base::Middle{} : middle(memory, t, s.source)});
    }
    return result;
  }

  void run(const ForwardOperands<M>& to) const {
    Memory& memory = Memory::fresh();
    double* partial =
        to.training ? memory.zeros<double>(program.chunks() * program.rows * 3 * program.outputs) : nullptr;
    first_pass(to, pack(memory, program.first, to.tables), partial);
    if (to.training) merge(to, partial, false);
    if (!program.second.empty()) {
      second_pass(to, pack(memory, program.second, to.tables), partial);
      if (to.training) merge(to, partial, true);
    }
    if (!to.out.empty()) sums(to, memory);
  }

  // Moments of one row over one chunk: shift, Σ d, Σ d² with d = z − shift, [3, channels].
  double* moments(double* partial, int64_t chunk, int64_t row) const {
    return partial ? partial + (chunk * program.rows + row) * 3 * program.outputs : nullptr;
  }

  // One sample of one stage. `total` null: no moments; `shifted`: whether its shift is known already; `ahead`: what the
  // next one will read, if nobody else fetches it.
  void run_stage(const M* x, const Packed& p, int64_t n, const Canvas<E>& canvas, M* z, Entry<E>* strip, T* sums,
                 double* total, bool shifted, const M* ahead) const {
    const Stage& s = p.stage;
    const int64_t size = out_blocks * B;
    T* shift = sums + 2 * size;
    if (total && shifted) std::copy(total, total + program.outputs, shift);
    strips([&](int64_t y, int64_t x0, int64_t rows, int64_t columns) {
      const int64_t at = (y * out_columns + x0) * program.outputs;
      M* to = z + at;
      if (this->direct(s)) {
        this->load_strip(x, n, y, x0, rows, columns, strip);
      } else {
        fill(s, canvas, p.depthwise, y, x0, rows, columns, strip, this->lines(ahead ? ahead + at : nullptr));
      }
      const auto product = [&](int64_t pixels, const Moments<T>& moments) {
        Isa::call(Pointwise<Isa, E, B, ToTensor<M, B>, M>{
            strip,
            strip_plane,
            stage_inputs(s),
            p.pointwise,
            out_blocks,
            pixels,
            {to, program.outputs, nontemporal},
            moments,
            {nontemporal ? nullptr : to + rows * columns * program.outputs, nullptr}});
      };
      if (!total) return product(rows * columns, {nullptr, nullptr, nullptr});
      if (!shifted) {  // about the mean of the first pixels, which have to be computed first
        const int64_t few = std::min<int64_t>(16, rows * columns);
        product(few, {nullptr, nullptr, nullptr});
        for (int64_t c = 0; c < program.outputs; ++c) {
          for (int64_t i = 0; i < few; ++i) total[c] += value(to[i * program.outputs + c]);
          shift[c] = static_cast<T>(total[c] / static_cast<double>(few));
          total[c] = shift[c];
        }
        shifted = true;
      }
      std::fill(sums, sums + 2 * size, T(0));
      product(rows * columns, {shift, sums, sums + size});
      for (int64_t i = 0; i < 2; ++i) {
        Isa::call(AddTo<T>{sums + i * size, total + (1 + i) * program.outputs, program.outputs, false});
      }
    });
  }

  void first_pass(const ForwardOperands<M>& to, const std::vector<Packed>& stages, double* partial) const {
    const bool pooled = partial && (program.max_pool || program.avg_pool);
    if (stages.empty() && !pooled) return;
    this->samples([&](Own& own) {
      const Canvas<E> canvas = this->state_canvas(own, this->dilated(program.first));
      Entry<E>* strip = own.zeros<Entry<E>>(in_blocks * program.groups() * strip_plane);
      T* sums = own.zeros<T>(3 * out_blocks * B);
      M* pool[2] = {program.max_pool && pooled ? own.take<M>(program.out_size()) : nullptr,
                    program.avg_pool && pooled ? own.take<M>(program.out_size()) : nullptr};
      T* scratch = own.take<T>(2 * program.width * program.inputs);
      T* shift = own.take<T>(2 * width);
      double* flat_sums = own.take<double>(4 * width);
      return [=, this, &to, &stages](int64_t chunk, int64_t n) {
        const bool first = n == program.chunk(chunk);
        if (!this->direct(program.first)) load(to.x, n, canvas);
        for (const Packed& p : stages) {
          run_stage(to.x, p, n, canvas, to.raw[p.stage.z] + n * program.out_size(), strip, sums,
                    moments(partial, chunk, p.stage.row), !first,
                    &p == &stages[0] ? to.x + (n + 1) * program.in_size() : nullptr);
        }
        if (!pooled) return;
        pools(to.x, n, pool[0], pool[1], scratch);
        for (int64_t i = 0; i < 2; ++i) {
          if (!pool[i]) continue;
          const Kind kind = i ? kAvgPool : kMaxPool;
          const int64_t row = std::find_if(program.finals.begin(), program.finals.end(), [&](const Final& f) {
                                return f.kind == kind;
                              })->row;
          pool_moments(pool[i], moments(partial, chunk, row), shift + i * width, flat_sums + i * 2 * width, first,
                       n + 1 == program.chunk(chunk + 1));
        }
      };
    });
  }

  // `sums`: two tables, folded into `total` after the chunk's last sample.
  void pool_moments(const M* data, double* total, T* shift, double* sums, bool first, bool last) const {
    const int64_t C = program.outputs;
    if (first) {
      for (int64_t c = 0; c < C; ++c) total[c] = value(data[c]);
      for (int64_t j = 0; j < width; ++j) shift[j] = value(data[j % C]);
      std::fill(sums, sums + 2 * width, 0.0);
    }
    Isa::call(FlatMoments<M>{data, shift, width, program.out_size(), sums, sums + width});
    for (int64_t j = 0; j < 2 * width && last; j += C) {
      for (int64_t c = 0; c < C; ++c) total[(1 + j / width) * C + c] += sums[j + c];
    }
  }

  void second_pass(const ForwardOperands<M>& to, const std::vector<Packed>& stages, double* partial) const {
    this->samples([&](Own& own) {
      const Canvas<E> canvas = this->out_canvas(own, out_blocks);
      Entry<E>* strip = own.zeros<Entry<E>>(in_blocks * strip_plane);
      T* sums = own.zeros<T>(3 * out_blocks * B);
      return [=, this, &to, &stages](int64_t chunk, int64_t n) {
        const bool first = n == program.chunk(chunk);
        for (const Packed& p : stages) {
          const int64_t at = n * program.out_size();
          const bool last = &p == &stages.back();
          load(n, p.stage, to.raw[p.stage.z - 1] + at, p.middle, canvas);
          run_stage(to.x, p, n, canvas, to.raw[p.stage.z] + at, strip, sums, moments(partial, chunk, p.stage.row),
                    !first,
                    to.raw[(last ? stages.front() : *(&p + 1)).stage.z - 1] + at + (last ? program.out_size() : 0));
        }
      };
    });
  }

  // Fills the tables' mean and the squares from the chunks: of the second halves, or of all other rows.
  void merge(const ForwardOperands<M>& to, double* partial, bool second) const {
    std::vector<int64_t> from(program.rows, -1);  // the row that has the moments
    for (const Stage& s : second ? program.second : program.first) from[s.row] = s.row;
    int64_t pool[3] = {-1, -1, -1};
    for (const Final& f : program.finals) {
      if (second || (f.kind != kMaxPool && f.kind != kAvgPool)) continue;
      if (pool[f.kind] < 0) pool[f.kind] = f.row;
      from[f.row] = pool[f.kind];  // the same for all edges
    }
    const int64_t C = program.outputs;
    // Mean and Σ (z − mean)² of sets that `each` goes through, with the size of each.
    const auto joined = [](double count, const auto& each) {
      double mean = 0, squares = 0;
      each([&](double n, double m, double) { mean += m * (n / count); });
      each([&](double n, double m, double s) { squares += s + n * (m - mean) * (m - mean); });
      return std::pair(mean, squares);
    };
    std::vector<double> own{static_cast<double>(program.samples * program.pixels())}, values(program.chunks());
    for (int64_t chunk = 0; chunk < program.chunks(); ++chunk) {
      values[chunk] = static_cast<double>((program.chunk(chunk + 1) - program.chunk(chunk)) * program.pixels());
    }
    own.reserve(1 + 2 * program.rows * C);
    for (int64_t row = 0; row < program.rows; ++row) {
      for (int64_t c = 0; c < C && from[row] >= 0; ++c) {
        const auto [mean, squares] = joined(own[0], [&](const auto& body) {
          for (int64_t chunk = 0; chunk < program.chunks(); ++chunk) {
            const double* p = moments(partial, chunk, from[row]) + c;
            const double n = values[chunk];
            body(n, p[0] + p[C] / n, p[2 * C] - p[C] * p[C] / n);
          }
        });
        own.push_back(mean), own.push_back(squares);
      }
    }
    const std::vector<double> all = program.images ? gather(own) : own;
    const double count = program.count();
    for (size_t row = 0, at = 1; at < own.size(); ++row) {
      for (int64_t c = 0; c < C && from[row] >= 0; ++c, at += 2) {
        const auto [mean, squares] = joined(count, [&](const auto& body) {
          for (size_t p = 0; p < all.size(); p += own.size()) body(all[p], all[p + at], all[p + at + 1]);
        });
        const int64_t i = row * C + c;
        to.var[i] = static_cast<T>((squares < 0 ? 0 : squares) / (count - 1));  // a comparison that lets NaN through
        to.tables.mean[i] = static_cast<T>(mean);  // as rounded as the backward will see them
        to.tables.rstd[i] = 1 / std::sqrt(to.var[i] * ((count - 1) / count) + to.eps);
      }
    }
  }

  void sums(const ForwardOperands<M>& to, Memory& memory) const {
    std::vector<Stream<M>> terms;
    std::vector<T*> start(program.edges);
    const Tables& t = to.tables;
    for (const Final& f : program.finals) {
      terms.push_back({f.staged() ? to.raw[f.z] : nullptr, flat(memory, f.row, [&](int64_t i) { return t.scale(i); }),
                       flat(memory, f.row, [&](int64_t i) { return t.mean[i]; })});
    }
    for (int64_t e = 0; e < program.edges; ++e) {
      start[e] = flat(memory, 0, [&](int64_t c) {
        double sum = 0;
        for (const Final& f : program.finals) sum += f.edge == e ? t.offset[f.row * program.outputs + c] : 0;
        return sum;
      });
    }
    const T* one = flat(memory, 0, [](int64_t) { return 1; });
    const T* zero = flat(memory, 0, [](int64_t) { return 0; });
    this->samples([&](Own& own) {
      M* max = program.max_pool ? own.take<M>(program.out_size()) : nullptr;
      M* avg = program.avg_pool ? own.take<M>(program.out_size()) : nullptr;
      T* scratch = own.take<T>(2 * program.width * program.inputs);
      M* drawn = own.take<M>(program.draws.size() * program.out_size());
      return [=, this, &to, &terms, &start](int64_t, int64_t n) {
        if (max || avg) pools(to.x, n, max, avg, scratch);
        const int64_t at = n * program.out_size();
        std::vector<Stream<M>> streams;
        for (int64_t e = 0; e < program.edges; ++e) {
          streams.clear();
          if (e < std::ssize(to.base)) streams.push_back({to.base[e] + at, one, zero});
          for (size_t i = 0; i < terms.size(); ++i) {
            const Final& f = program.finals[i];
            if (f.edge != e) continue;
            const M* data = this->term(to.x, f, n, terms[i].data ? terms[i].data + at : nullptr, max, avg, drawn);
            streams.push_back({data, terms[i].scale, terms[i].mean});
          }
          Isa::call(WeightedSum<M, Isa::kBytes / sizeof(T)>{streams.data(), static_cast<int64_t>(streams.size()),
                                                            start[e], width, program.out_size(), to.out[e] + at});
        }
      };
    });
  }
};

template <typename M>
void recompute(const Program& program, const M* x, const std::vector<const Wide<M>*>& weights, Tables& tables,
               const std::vector<M*>& raw) {
  specialised<Forward, M>(program, weights, ForwardOperands<M>{x, {}, raw, {}, false, 0.0, tables, nullptr});
}
#define FASTDARTS_RECOMPUTE(M)                                                                   \
  template void recompute(const Program&, const M*, const std::vector<const Wide<M>*>&, Tables&, \
                          const std::vector<M*>&);
FASTDARTS_MAPS(FASTDARTS_RECOMPUTE)

std::tuple<std::vector<Tensor>, std::vector<Tensor>, Tensor, Tensor, std::vector<Tensor>> mixed_op(
    Tensor x, std::vector<Tensor> base, Tensor gain, std::optional<Tensor> offset, std::vector<Tensor> weights,
    std::optional<Tensor> seeds, std::vector<int64_t> candidates, int64_t edges, int64_t stride,
    std::optional<Tensor> running_mean, std::optional<Tensor> running_var, double eps, int64_t images, bool store,
    std::vector<Tensor> kinks, bool note, bool /*exact: always*/) {
  Program program(x, weights, seeds, candidates, gain.size(1), edges, stride);
  program.images = images;
  std::vector<Tensor> tables_given{gain};
  for (const std::optional<Tensor>& t : {offset, running_mean, running_var}) {
    if (!t) continue;
    tables_given.push_back(*t);
    STD_TORCH_CHECK(t->dim() == 2 && t->size(0) == program.rows && t->size(1) == program.outputs,
                    "expected tables of as many rows and channels as gain");
  }
  check(program, x, base, weights, tables_given);
  STD_TORCH_CHECK(running_mean.has_value() == running_var.has_value(), "expected both running statistics or none");
  STD_TORCH_CHECK(std::ssize(base) <= edges, "got ", base.size(), " bases for ", edges, " edges");
  const auto map = [&] { return new_map(x, program.outputs, program.out_rows(), program.out_columns()); };
  std::vector<Tensor> out, z;
  for (int64_t e = 0; e < edges; ++e) out.push_back(map());
  const bool inference = running_mean && !store && kinks.empty() && !note;
  for (int64_t i = 0; i < program.raw && !inference; ++i) z.push_back(map());
  const auto table = [&] { return contiguous_result({program.rows, program.outputs}, gain.scalar_type()); };
  Tensor mean = table(), var = table();
  std::vector<Tensor> noted;
  for (const std::vector<int64_t>& size : note ? program.kink_sizes() : std::vector<std::vector<int64_t>>{}) {
    noted.push_back(contiguous_result(size, ScalarType::Byte));
  }
  STD_TORCH_CHECK(!note || kinks.empty(), "expected kinks to be kept or noted, not both");
  program.set_kinks(note ? noted : kinks, !note);
  const auto run = [&]<typename M>() {
    using T = Wide<M>;
    Tables t = tables<T>(program, gain, offset);
    T* v = var.mutable_data_ptr<T>();
    std::fill(v, v + program.rows * program.outputs, T(1));
    if (running_mean) take_statistics<T>(program, *running_mean, *running_var, 1.0, eps, t, v);
    const Weights<M> w(weights);
    const std::vector<const M*> b = addresses<M>(std::as_const(base));
    if (inference) {
      infer<M>(program, w.data, {address<M>(x), b, addresses<M>(out), t});
    } else {
      const ForwardOperands<M> operands{address<M>(x), b, addresses<M>(z), addresses<M>(out), !running_mean, eps, t, v};
      specialised<Forward, M>(program, w.data, operands);
    }
    std::copy(t.mean.begin(), t.mean.end(), mean.mutable_data_ptr<T>());
  };
  with_map_type(x, run);
  if (!store) z.clear();
  return {out, z, mean, var, noted};
}

STABLE_TORCH_LIBRARY_IMPL(fastdarts, CPU, m) { m.impl("mixed_op", TORCH_BOX(&mixed_op)); }

}  // namespace fastdarts
