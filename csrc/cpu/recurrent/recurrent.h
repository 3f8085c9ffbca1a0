// The passes of the recurrent cell that are not products of matrices: the maths stands in
// kernels/recurrent/contract.py. Batch normalisation is of columns, so a pass works on a chunk of columns, of all
// streams, from beginning to end. No thread waits for another, and all sums have one order for any number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/recurrent/activations.h"

namespace fastdarts {

constexpr int kAcross = 4;       // vectors of a chunk
constexpr int kEdgeWeights = 5;  // of an edge: tanh, relu, sigmoid, identity, and the sum of all
constexpr int kTogether = 16;    // streams summed in T, before their sum goes on in double
constexpr int kAhead = 4;  // streams that gates are fetched ahead: a chunk's rows are too far apart for the hardware

// Of one time step: rows are streams, [batch, width]; those of gates are [carry | new], [batch, 2 width].
struct Shape {
  int64_t batch, width, nodes;

  int64_t state() const { return batch * width; }
  int64_t gates() const { return 2 * batch * width; }
  int64_t edges() const { return nodes * (nodes + 1) / 2; }
  static int64_t first(int64_t node) { return node * (node - 1) / 2; }  // edge that leads to a node, the first being 1
};

template <typename T, int B>
struct Columns {
  FASTDARTS_VECTORS
  using Wide = typename Block<double, B>::Aligned;
  static constexpr int kLanes = B;
  Shape shape;

  int64_t chunks() const { return round_up(shape.width, kAcross * B) / (kAcross * B); }

  // body(column, number of columns) for the vectors of a chunk: the number is B at compile time but at the end.
  template <typename Body>
  FASTDARTS_INLINE void vectors(int64_t chunk, const Body& body) const {
    const int64_t begin = chunk * kAcross * B, end = std::min(shape.width, begin + kAcross * B);
    int64_t column = begin;
    for (; column + B <= end; column += B) body(column, std::integral_constant<int64_t, B>{});
    if (column < end) body(column, end - column);
  }

  // What a later stream wants of an edge: its gates and its state.
  FASTDARTS_INLINE void fetch(const T* gates, const T* state) const {
    prefetch<1>(gates + kAhead * 2 * shape.width);
    prefetch<1>(gates + (kAhead * 2 + 1) * shape.width);
    prefetch<1>(state + kAhead * shape.width);
  }

  // A vector of as many elements as there are, else zero.
  template <typename Count>
  static FASTDARTS_INLINE V read(const T* p, Count count) {
    if constexpr (std::is_same_v<Count, int64_t>) {
      V v = {};
      std::memcpy(&v, p, count * sizeof(T));
      return v;
    } else {
      return loose(p);
    }
  }

  // The same, as a mask lets it pass, if there is one.
  template <typename Count>
  static FASTDARTS_INLINE V passed(const T* p, const T* mask, int64_t at, Count count) {
    const V v = read(p + at, count);
    return mask ? v * read(mask + at, count) : v;
  }

  template <typename Count>
  static FASTDARTS_INLINE void write(T* p, const V& v, Count count) {
    if constexpr (std::is_same_v<Count, int64_t>) {
      std::memcpy(p, &v, count * sizeof(T));
    } else {
      loose(p) = v;
    }
  }

  static FASTDARTS_INLINE Wide widen(const V& v) { return __builtin_convertvector(v, Wide); }
  static FASTDARTS_INLINE V narrow(const Wide& v) { return __builtin_convertvector(v, V); }
};

// Where a state goes: itself, normalised, and dropped as the products want it, and the statistics of its columns.
template <typename T>
struct State {
  T *state, *dropped, *mean, *var;
};

// A state's normalisation, once u is where the state will be.
template <typename T, int B>
struct Normalise : Columns<T, B> {
  using Base = Columns<T, B>;
  using Base::shape, Base::read, Base::write, Base::widen, Base::narrow;
  using typename Base::V, typename Base::Wide;
  State<T> to;
  const T* mask;
  double eps;

  FASTDARTS_INLINE void normalise(int64_t chunk) const {
    const double count = static_cast<double>(shape.batch);
    this->vectors(chunk, [&](int64_t column, auto n) __attribute__((always_inline)) {
      Wide sum = {}, squares = {};
      for (int64_t b = 0; b < shape.batch; ++b) sum += widen(read(to.state + b * shape.width + column, n));
      const Wide mean = sum / count;
      for (int64_t b = 0; b < shape.batch; ++b) {
        const Wide off = widen(read(to.state + b * shape.width + column, n)) - mean;
        squares += off * off;
      }
      Wide inverse;
      for (int i = 0; i < B; ++i) inverse[i] = 1 / std::sqrt(squares[i] / count + eps);
      write(to.mean + column, narrow(mean), n);
      write(to.var + column, narrow(squares / (count - 1)), n);
      const V centre = narrow(mean), rest = narrow(mean - widen(centre)), r = narrow(inverse);
      for (int64_t b = 0; b < shape.batch; ++b) {
        const int64_t at = b * shape.width + column;
        const V s = ((read(to.state + at, n) - centre) - rest) * r;
        write(to.state + at, s, n);
        if (mask) write(to.dropped + at, s * read(mask + at, n), n);
      }
    });
  }
};

// State 0, from gates and the last output.
template <typename T, int B>
struct FirstState : Normalise<T, B> {
  using Base = Normalise<T, B>;
  using Base::shape, Base::read, Base::write, Base::to;
  using typename Base::V;
  const T *gates, *last;

  FASTDARTS_INLINE void operator()(int64_t chunk) const {
    for (int64_t b = 0; b < shape.batch; ++b) {
      this->vectors(chunk, [&](int64_t column, auto n) __attribute__((always_inline)) {
        const T* g = gates + 2 * b * shape.width + column;
        const V h = read(last + b * shape.width + column, n);
        V carry, rest;
        Activations<T, B>::logistic(read(g, n), carry, rest);
        const V u = h + carry * (Activations<T, B>::tanh(read(g + shape.width, n)) - h);
        write(to.state + b * shape.width + column, u, n);
      });
    }
    this->normalise(chunk);
  }
};

// Node i, from its gates with all states before it; `states` lie side by side.
template <typename T, int B>
struct Node : Normalise<T, B> {
  using Base = Normalise<T, B>;
  using Base::shape, Base::read, Base::write, Base::to;
  using typename Base::V;
  const T *gates, *states, *edge_weights;
  int64_t node;

  FASTDARTS_INLINE void operator()(int64_t chunk) const {
    for (int64_t b = 0; b < shape.batch; ++b) {
      this->vectors(chunk, [&](int64_t column, auto n) __attribute__((always_inline)) {
        V u = {};
        for (int64_t j = 0; j < node; ++j) {
          const T *g = gates + j * shape.gates() + 2 * b * shape.width + column, *p = edge_weights + j * kEdgeWeights;
          this->fetch(g, states + j * shape.state() + b * shape.width + column);
          const V x = read(g + shape.width, n);
          V carry, rest, tanh, logistic;
          Activations<T, B>::logistic(read(g, n), carry, rest);
          Activations<T, B>::both(x, tanh, logistic, rest);
          const V stay = p[4] * read(states + j * shape.state() + b * shape.width + column, n);
          const V mixed = p[0] * tanh + p[1] * (x > 0 ? x : V{}) + p[2] * logistic + p[3] * x;
          u += stay + carry * (mixed - stay);
        }
        write(to.state + b * shape.width + column, u, n);
      });
    }
    this->normalise(chunk);
  }
};

// The output of a time step, the mean of all nodes.
template <typename T, int B>
struct Output : Columns<T, B> {
  using Base = Columns<T, B>;
  using Base::shape, Base::read, Base::write;
  using typename Base::V;
  const T* states;
  T* out;

  FASTDARTS_INLINE void operator()(int64_t chunk) const {
    for (int64_t b = 0; b < shape.batch; ++b) {
      this->vectors(chunk, [&](int64_t column, auto n) __attribute__((always_inline)) {
        V sum = {};
        for (int64_t i = 1; i <= shape.nodes; ++i) {
          sum += read(states + i * shape.state() + b * shape.width + column, n);
        }
        write(out + b * shape.width + column, sum / static_cast<T>(shape.nodes), n);
      });
    }
  }
};

// to = a mask, or a itself; of `rows` states side by side.
template <typename T, int B>
struct Drop : Columns<T, B> {
  using Base = Columns<T, B>;
  using Base::shape, Base::read, Base::write;
  const T *from, *mask;
  T* to;
  int64_t states;

  FASTDARTS_INLINE void operator()(int64_t chunk) const {
    for (int64_t j = 0; j < states; ++j) {
      for (int64_t b = 0; b < shape.batch; ++b) {
        this->vectors(chunk, [&](int64_t column, auto n) __attribute__((always_inline)) {
          const int64_t at = b * shape.width + column;
          write(to + j * shape.state() + at, read(from + j * shape.state() + at, n) * read(mask + at, n), n);
        });
      }
    }
  }
};

// The gradient of an output: what comes from outside and what the next time step passes on.
template <typename T, int B>
struct OutputGradient : Columns<T, B> {
  using Base = Columns<T, B>;
  using Base::shape, Base::read, Base::write;
  using typename Base::V;
  const T *outer, *direct, *product, *mask;  // the middle two null at the last time step, the first before the first
  T scale;
  T* to;

  FASTDARTS_INLINE void operator()(int64_t chunk) const {
    for (int64_t b = 0; b < shape.batch; ++b) {
      this->vectors(chunk, [&](int64_t column, auto n) __attribute__((always_inline)) {
        const int64_t at = b * shape.width + column;
        V g = {};
        if (outer) g += read(outer + at, n);
        if (direct) g += read(direct + at, n) + Base::passed(product, mask, at, n);
        write(to + at, scale * g, n);
      });
    }
  }
};

// The gradient of u from that of the state, which is common + own + mask product, each if there is one; to `own`.
template <typename T, int B>
struct NormaliseBackward : Columns<T, B> {
  using Base = Columns<T, B>;
  using Base::shape, Base::read, Base::write, Base::widen, Base::narrow;
  using typename Base::V, typename Base::Wide;
  const T *state, *var, *mask, *common, *product;
  T* own;
  bool fresh;  // nothing is in `own` yet
  double eps;

  FASTDARTS_INLINE void back(int64_t chunk) const {
    const double count = static_cast<double>(shape.batch);
    this->vectors(chunk, [&](int64_t column, auto n) __attribute__((always_inline)) {
      Wide sum = {}, along = {};
      for (int64_t b = 0; b < shape.batch; ++b) {
        const int64_t at = b * shape.width + column;
        V g = {};
        if (common) g += read(common + at, n);
        if (!fresh) g += read(own + at, n);
        if (product) g += Base::passed(product, mask, at, n);
        write(own + at, g, n);
        sum += widen(g);
        along += widen(g) * widen(read(state + at, n));
      }
      const Wide biased = widen(read(var + column, n)) * ((count - 1) / count);
      Wide inverse;
      for (int i = 0; i < B; ++i) inverse[i] = 1 / std::sqrt(biased[i] + eps);
      const V r = narrow(inverse), mean = narrow(sum / count), slope = narrow(along / count);
      for (int64_t b = 0; b < shape.batch; ++b) {
        const int64_t at = b * shape.width + column;
        write(own + at, r * (read(own + at, n) - mean - read(state + at, n) * slope), n);
      }
    });
  }
};

template <typename T, int B>
struct FirstStateBackward : NormaliseBackward<T, B> {
  using Base = NormaliseBackward<T, B>;
  using Base::shape, Base::read, Base::write, Base::own;
  using typename Base::V;
  const T *gates, *last;
  T *dgates, *direct;  // that of the last output, but for what goes through its product

  FASTDARTS_INLINE void operator()(int64_t chunk) const {
    this->back(chunk);
    for (int64_t b = 0; b < shape.batch; ++b) {
      this->vectors(chunk, [&](int64_t column, auto n) __attribute__((always_inline)) {
        const int64_t at = b * shape.width + column;
        const T* g = gates + 2 * b * shape.width + column;
        T* d = dgates + 2 * b * shape.width + column;
        const V h = read(last + at, n), tanh = Activations<T, B>::tanh(read(g + shape.width, n)),
                du = read(own + at, n);
        V carry, rest;
        Activations<T, B>::logistic(read(g, n), carry, rest);
        write(d, du * (tanh - h) * (carry * rest), n);
        write(d + shape.width, du * carry * (1 - tanh * tanh), n);
        write(direct + at, du * rest, n);
      });
    }
  }
};

// Gradients of a node's gates and, but for what goes through the products, of the states before it, which lie before
// the node's own. `sums` are of the gradients of the edges' weights: [chunks, nodes before it, 4], if wanted.
template <typename T, int B>
struct NodeBackward : NormaliseBackward<T, B> {
  using Base = NormaliseBackward<T, B>;
  using Base::shape, Base::read, Base::write, Base::widen, Base::own;
  using typename Base::V, typename Base::Wide;
  const T *gates, *states, *edge_weights;
  T *dgates, *before;
  int64_t node;
  bool first;  // to write to `before`
  double* sums;

  FASTDARTS_INLINE void operator()(int64_t chunk) const {
    this->back(chunk);
    sums ? edges<true>(chunk) : edges<false>(chunk);
  }

  template <bool with_sums>
  FASTDARTS_INLINE void edges(int64_t chunk) const {
    for (int64_t j = 0; j < node; ++j) {
      const T* p = edge_weights + j * kEdgeWeights;
      Wide totals[4] = {};
      for (int64_t from = 0; from < shape.batch; from += kTogether) {
        V of[4] = {};
        for (int64_t b = from; b < std::min(shape.batch, from + kTogether); ++b) {
          this->vectors(chunk, [&](int64_t column, auto n) __attribute__((always_inline)) {
            const int64_t at = b * shape.width + column;
            const T* g = gates + j * shape.gates() + 2 * b * shape.width + column;
            T *d = dgates + j * shape.gates() + 2 * b * shape.width + column, *ds = before + j * shape.state() + at;
            this->fetch(g, states + j * shape.state() + at);
            prefetch<1, true>(ds + kAhead * shape.width);
            prefetch<1, true>(d + kAhead * 2 * shape.width);
            prefetch<1, true>(d + (kAhead * 2 + 1) * shape.width);
            const V x = read(g + shape.width, n), s = read(states + j * shape.state() + at, n), du = read(own + at, n);
            V carry, leave, tanh, logistic, rest;
            Activations<T, B>::logistic(read(g, n), carry, leave);
            Activations<T, B>::both(x, tanh, logistic, rest);
            const V stay = p[4] * s, relu = x > 0 ? x : V{}, dmixed = du * carry;
            const V mixed = p[0] * tanh + p[1] * relu + p[2] * logistic + p[3] * x;
            write(d, du * (mixed - stay) * (carry * leave), n);
            const V slope = p[0] * (1 - tanh * tanh) + (x > 0 ? V{} + p[1] : V{}) + p[2] * (logistic * rest) + p[3];
            write(d + shape.width, dmixed * slope, n);
            const V kept = du * leave;
            write(ds, first ? p[4] * kept : read(ds, n) + p[4] * kept, n);
            if constexpr (with_sums) {
              const V past = kept * s;
              of[0] += past + dmixed * tanh, of[1] += past + dmixed * relu;
              of[2] += past + dmixed * logistic, of[3] += past + dmixed * x;
            }
          });
        }
        if constexpr (with_sums) {
          for (int f = 0; f < 4; ++f) totals[f] += widen(of[f]);
        }
      }
      if constexpr (with_sums) {
        for (int f = 0; f < 4; ++f) {
          double total = 0;
          for (int i = 0; i < B; ++i) total += totals[f][i];
          sums[(chunk * node + j) * 4 + f] = total;
        }
      }
    }
  }
};

}  // namespace fastdarts
