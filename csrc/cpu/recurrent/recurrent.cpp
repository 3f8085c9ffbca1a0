// The recurrent cell on the CPU: the maths stands in kernels/recurrent/contract.py. The products are the library's, one
// for all gates of a node; a node's gates are in cache when its pass reads them. Gradients of gates live for one node
// only.
#include "torch_stable.h"
//
#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/recurrent/gemm.h"
#include "cpu/recurrent/recurrent.h"
#include "cpu/result_memory.h"
#include "cpu/scratch.h"

namespace fastdarts {

namespace {

// What both ops are given.
struct Arguments {
  Tensor inputs, hidden, mixing;
  std::vector<Tensor> weights;
  std::optional<Tensor> mask;

  Shape shape() const { return {hidden.size(0), hidden.size(1), static_cast<int64_t>(weights.size()) - 1}; }
  int64_t steps() const { return inputs.size(0); }

  void check() const {
    STD_TORCH_CHECK(inputs.dim() == 3 && hidden.dim() == 2 && weights.size() > 1 && mixing.dim() == 2,
                    "expected inputs [T, B, 2 H], hidden [B, H], two weights or more and mixing [E, 4]");
    const Shape s = shape();
    STD_TORCH_CHECK(s.batch > 1, "batch statistics of one stream");
    expect(inputs, {steps(), s.batch, 2 * s.width});
    expect(hidden, {s.batch, s.width});
    expect(mixing, {s.edges(), 4});
    for (const Tensor& w : weights) expect(w, {s.width, 2 * s.width});
    if (mask) expect(*mask, {s.batch, s.width});
  }

  void expect(const Tensor& t, const std::vector<int64_t>& size) const {
    STD_TORCH_CHECK(t.scalar_type() == hidden.scalar_type() && t.is_contiguous(),
                    "expected contiguous tensors of one dtype");
    CHECK_SIZE("number of dimensions", t.dim(), static_cast<int64_t>(size.size()));
    for (size_t d = 0; d < size.size(); ++d) CHECK_SIZE("a size", t.size(d), size[d]);
  }

  // tanh, relu, sigmoid, identity and their sum, for every edge.
  template <typename T>
  std::vector<T> edge_weights() const {
    std::vector<T> result;
    for (const T* p = mixing.const_data_ptr<T>(); p < mixing.const_data_ptr<T>() + mixing.numel(); p += 4) {
      result.insert(result.end(), {p[0], p[1], p[2], p[3], p[0] + p[1] + p[2] + p[3]});
    }
    return result;
  }
};

// Some chunks of a pass, as one kernel.
template <typename Pass>
struct Chunks {
  Pass pass;
  int64_t begin, end;

  FASTDARTS_INLINE void operator()() const {
    for (int64_t chunk = begin; chunk < end; ++chunk) pass(chunk);
  }
};

// All chunks of the pass that `make` makes of its columns; it is as much work as for `work` states.
template <template <typename, int> class Pass, typename T, typename Make>
void run(const Shape& shape, int64_t work, const Make& make) {
  with_isa([&](auto isa) {
    constexpr int B = isa.kBytes / sizeof(T);
    const Pass<T, B> pass = make(Columns<T, B>{shape});
    const int64_t chunks = pass.chunks();
    const int64_t grain = std::max<int64_t>(1, 8192 * chunks / std::max<int64_t>(1, work * shape.state()));
    torch::stable::parallel_for(0, chunks, grain,
                                [&](int64_t begin, int64_t end) { isa.call(Chunks<Pass<T, B>>{pass, begin, end}); });
  });
}

template <typename T>
int64_t chunks(const Shape& shape) {
  int64_t result = 0;
  with_isa([&](auto isa) { result = Columns<T, isa.kBytes / sizeof(T)>{shape}.chunks(); });
  return result;
}

// Uninitialised, contiguous, of the type of `like`.
Tensor contiguous_result(const Tensor& like, const std::vector<int64_t>& size) {
  int64_t bytes = static_cast<int64_t>(like.element_size());
  std::vector<int64_t> strides(size.size(), 1);
  for (size_t d = size.size(); d-- > 1;) strides[d - 1] = strides[d] * size[d];
  for (const int64_t side : size) bytes *= side;
  return bytes < kLargeResult ? torch::stable::new_empty(like, size)
                              : cached_result(bytes, size, strides, like.scalar_type());
}

template <typename T>
Matrix<T> matrix(T* data, int64_t rows, int64_t columns) {
  return {data, rows, columns, columns};
}

template <typename T>
struct Forward {
  const Arguments& a;
  double eps;
  T *out, *mean, *var, *states, *gates;
  int64_t stored;  // 1 if the states and gates of every time step are stored, 0 if the next takes their place

  void operator()() const {
    const Shape s = a.shape();
    const std::vector<T> edge_weights = a.edge_weights<T>();
    const T* mask = a.mask ? a.mask->template const_data_ptr<T>() : nullptr;
    T* dropped = mask ? Arena<Scratch::kCall>::fresh().take<T>(s.nodes * s.state()) : nullptr;
    const T* last = a.hidden.const_data_ptr<T>();
    for (int64_t t = 0; t < a.steps(); ++t) {
      T *of_step = states + stored * t * (s.nodes + 1) * s.state(),
        *g = gates + stored * t * (s.edges() + 1) * s.gates();
      const T* start = a.inputs.const_data_ptr<T>() + t * s.gates();
      const auto state = [&](int64_t i) {
        return State<T>{of_step + i * s.state(), i < s.nodes && mask ? dropped + i * s.state() : nullptr,
                        mean + (t * (s.nodes + 1) + i) * s.width, var + (t * (s.nodes + 1) + i) * s.width};
      };
      if (mask) run<Drop, T>(s, 1, [&](auto own) { return Drop<T, own.kLanes>{own, last, mask, dropped, 1}; });
      multiply_onto<T>(matrix(start, s.batch, 2 * s.width), matrix(g, s.batch, 2 * s.width),
                       matrix(mask ? dropped : last, s.batch, s.width), weight(0));
      run<FirstState, T>(s, 1,
                         [&](auto own) { return FirstState<T, own.kLanes>{{own, state(0), mask, eps}, g, last}; });
      for (int64_t i = 1; i <= s.nodes; ++i) {
        T* own_gates = g + (1 + Shape::first(i)) * s.gates();
        multiply<T>(matrix(own_gates, i * s.batch, 2 * s.width),
                    matrix<const T>(mask ? dropped : of_step, i * s.batch, s.width), weight(i));
        run<Node, T>(s, i, [&](auto own) {
          return Node<T, own.kLanes>{{own, state(i), i < s.nodes ? mask : nullptr, eps},
                                     own_gates,
                                     of_step,
                                     edge_weights.data() + Shape::first(i) * kEdgeWeights,
                                     i};
        });
      }
      T* output = out + t * s.state();
      run<Output, T>(s, 1, [&](auto own) { return Output<T, own.kLanes>{own, of_step, output}; });
      last = output;
    }
  }

  Matrix<const T> weight(int64_t i) const {
    return matrix(a.weights[i].const_data_ptr<T>(), a.hidden.size(1), 2 * a.hidden.size(1));
  }
};

template <typename T>
struct Backward {
  const Arguments& a;
  double eps;
  const T *grad, *out, *states, *gates, *var;
  T* dinputs;  // null if not wanted, as all below
  T* dhidden;
  std::vector<T*> dweights;  // empty
  T* dmixing;

  void operator()() const {
    const Shape s = a.shape();
    const int64_t columns = 2 * s.width, steps = a.steps(), parts = chunks<T>(s);
    const std::vector<T> edge_weights = a.edge_weights<T>();
    const T* mask = a.mask ? a.mask->template const_data_ptr<T>() : nullptr;
    auto& arena = Arena<Scratch::kCall>::fresh();
    T *own = arena.take<T>((s.nodes + 1) * s.state()), *products = arena.take<T>(s.nodes * s.state());
    T *common = arena.take<T>(s.state()), *direct = arena.take<T>(s.state()), *product = arena.take<T>(s.state());
    T *dgates = arena.take<T>(s.nodes * s.gates()), *first_gates = dinputs ? nullptr : arena.take<T>(s.gates());
    T* dropped = mask && !dweights.empty() ? arena.take<T>(s.nodes * s.state()) : nullptr;
    double* sums = dmixing ? arena.take<double>(parts * s.nodes * 4) : nullptr;
    std::vector<double> totals(dmixing ? s.edges() * 4 : 0);
    for (int64_t t = steps - 1; t >= 0; --t) {
      const T *of_step = states + t * (s.nodes + 1) * s.state(), *g = gates + t * (s.edges() + 1) * s.gates();
      const T *last = t ? out + (t - 1) * s.state() : a.hidden.const_data_ptr<T>(), *operand = of_step;
      const T* variances = var + t * (s.nodes + 1) * s.width;
      const bool end = t == steps - 1;
      run<OutputGradient, T>(s, 1, [&](auto c) {
        return OutputGradient<T, c.kLanes>{
            c, grad + t * s.state(), end ? nullptr : direct, product, mask, T(1) / static_cast<T>(s.nodes), common};
      });
      if (dropped) {
        run<Drop, T>(s, s.nodes, [&](auto c) { return Drop<T, c.kLanes>{c, of_step, mask, dropped, s.nodes}; });
        operand = dropped;
      }
      for (int64_t i = s.nodes; i >= 1; --i) {
        const int64_t first = Shape::first(i);
        const bool fresh = i == s.nodes;
        run<NodeBackward, T>(s, 2 * i, [&](auto c) {
          return NodeBackward<T, c.kLanes>{
              {c, of_step + i * s.state(), variances + i * s.width, mask, common,
               fresh ? nullptr : products + i * s.state(), own + i * s.state(), fresh, eps},
              g + (1 + first) * s.gates(),
              of_step,
              edge_weights.data() + first * kEdgeWeights,
              dgates,
              own,
              i,
              fresh,
              sums};
        });
        if (dmixing) {
          for (int64_t k = 0; k < parts * i * 4; ++k) totals[first * 4 + k % (i * 4)] += sums[k];
        }
        const Matrix<const T> d = matrix<const T>(dgates, i * s.batch, columns);
        onto(matrix(products, i * s.batch, s.width), d, weight(i).transposed(), !fresh);
        if (!dweights.empty()) {
          onto(matrix(dweights[i], s.width, columns), matrix(operand, i * s.batch, s.width).transposed(), d, !end);
        }
      }
      T* d = dinputs ? dinputs + t * s.gates() : first_gates;
      run<FirstStateBackward, T>(s, 2, [&](auto c) {
        return FirstStateBackward<T, c.kLanes>{
            {c, of_step, variances, mask, nullptr, products, own, false, eps}, g, last, d, direct};
      });
      const Matrix<const T> of_first = matrix<const T>(d, s.batch, columns);
      onto(matrix(product, s.batch, s.width), of_first, weight(0).transposed(), false);
      if (!dweights.empty()) {
        if (mask) run<Drop, T>(s, 1, [&](auto c) { return Drop<T, c.kLanes>{c, last, mask, dropped, 1}; });
        onto(matrix(dweights[0], s.width, columns), matrix(mask ? dropped : last, s.batch, s.width).transposed(),
             of_first, !end);
      }
    }
    if (dhidden) {
      run<OutputGradient, T>(
          s, 1, [&](auto c) { return OutputGradient<T, c.kLanes>{c, nullptr, direct, product, mask, T(1), dhidden}; });
    }
    if (dmixing) std::copy(totals.begin(), totals.end(), dmixing);
  }

  Matrix<const T> weight(int64_t i) const {
    return matrix(a.weights[i].const_data_ptr<T>(), a.hidden.size(1), 2 * a.hidden.size(1));
  }

  static void onto(const Matrix<T>& to, const Matrix<const T>& left, const Matrix<const T>& right, bool add) {
    const Matrix<const T> start{to.data, to.rows, to.columns, to.stride};
    add ? multiply_onto<T>(start, to, left, right) : multiply<T>(to, left, right);
  }
};

// body.operator()<T>() in the type of `t`.
template <typename Body>
void with_type(const Tensor& t, const Body& body) {
  t.scalar_type() == ScalarType::Double ? body.template operator()<double>() : body.template operator()<float>();
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> recurrent(Tensor inputs, Tensor hidden, std::vector<Tensor> weights,
                                                             std::optional<Tensor> mask, Tensor mixing, double eps,
                                                             bool store) {
  const Arguments a{inputs, hidden, mixing, weights, mask};
  a.check();
  const Shape s = a.shape();
  const int64_t steps = a.steps(), held = store ? steps : 1;
  Tensor out = contiguous_result(hidden, {steps, s.batch, s.width});
  Tensor mean = torch::stable::new_empty(mixing, {steps, s.nodes + 1, s.width}), var = torch::stable::empty_like(mean);
  Tensor states = contiguous_result(hidden, {held, s.nodes + 1, s.batch, s.width});
  Tensor gates = contiguous_result(hidden, {held, s.edges() + 1, s.batch, 2 * s.width});
  with_type(hidden, [&]<typename T>() {
    Forward<T>{a,
               eps,
               out.mutable_data_ptr<T>(),
               mean.mutable_data_ptr<T>(),
               var.mutable_data_ptr<T>(),
               states.mutable_data_ptr<T>(),
               gates.mutable_data_ptr<T>(),
               store}();
  });
  if (!store) states = torch::stable::new_empty(hidden, {0}), gates = torch::stable::new_empty(hidden, {0});
  return {out, mean, var, states, gates};
}

std::tuple<Tensor, Tensor, std::vector<Tensor>, Tensor> recurrent_backward(
    Tensor grad, Tensor inputs, Tensor hidden, std::vector<Tensor> weights, std::optional<Tensor> mask, Tensor mixing,
    double eps, Tensor out, Tensor var, Tensor states, Tensor gates, bool need_inputs, bool need_hidden,
    bool need_weights, bool need_mixing) {
  const Arguments a{inputs, hidden, mixing, weights, mask};
  a.check();
  const Shape s = a.shape();
  const int64_t steps = a.steps();
  a.expect(grad, {steps, s.batch, s.width});
  a.expect(out, {steps, s.batch, s.width});
  a.expect(var, {steps, s.nodes + 1, s.width});
  a.expect(states, {steps, s.nodes + 1, s.batch, s.width});
  a.expect(gates, {steps, s.edges() + 1, s.batch, 2 * s.width});
  const auto nothing = [](const Tensor& t) { return torch::stable::new_empty(t, {0}); };
  Tensor dinputs = need_inputs ? contiguous_result(inputs, {steps, s.batch, 2 * s.width}) : nothing(inputs);
  Tensor dhidden = need_hidden ? torch::stable::empty_like(hidden) : nothing(hidden);
  Tensor dmixing = need_mixing ? torch::stable::empty_like(mixing) : nothing(mixing);
  std::vector<Tensor> dweights;
  for (size_t i = 0; i < weights.size() && need_weights; ++i) dweights.push_back(result_like(weights[i]));
  with_type(hidden, [&]<typename T>() {
    Backward<T> pass{a,
                     eps,
                     grad.const_data_ptr<T>(),
                     out.const_data_ptr<T>(),
                     states.const_data_ptr<T>(),
                     gates.const_data_ptr<T>(),
                     var.const_data_ptr<T>(),
                     nullptr,
                     nullptr,
                     {},
                     nullptr};
    if (need_inputs) pass.dinputs = dinputs.mutable_data_ptr<T>();
    if (need_hidden) pass.dhidden = dhidden.mutable_data_ptr<T>();
    if (need_mixing) pass.dmixing = dmixing.mutable_data_ptr<T>();
    for (Tensor& d : dweights) pass.dweights.push_back(d.mutable_data_ptr<T>());
    pass();
  });
  return {dinputs, dhidden, dweights, dmixing};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastdarts, CPU, m) {
  m.impl("recurrent", TORCH_BOX(&recurrent));
  m.impl("recurrent_backward", TORCH_BOX(&recurrent_backward));
}

}  // namespace fastdarts
