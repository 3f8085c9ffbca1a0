// interleave on the CPU: the maths stands in kernels/interleave/contract.py. Forward and backward are one pass over
// memory each, for all edges that leave a state, row by row of the output. The bypassed channels of a row are shuffled
// once for all edges, into a row that stays in L1. Every map of an edge is read and written in memory order.
//
// dβ is summed in float64, by sample, then over the samples in their order: the same bits for every number of threads.
#include "torch_stable.h"
//
#include <tuple>
#include <vector>

#include "cpu/layout.h"
#include "cpu/pooling.h"
#include "cpu/result_memory.h"

namespace fastdarts {

struct Partial {  // sizes of a call; height and width are those of x
  int64_t samples, channels, height, width, own, stride;

  int64_t groups() const { return channels / own; }
  int64_t rows() const { return height / stride; }
  int64_t columns() const { return width / stride; }
  int64_t row() const { return columns() * channels; }  // elements of a row of the output
};

// K neighbouring channels of the output: one mixed channel and K - 1 bypassed ones. If K is 2, 4 or 8, known at compile
// time, they are one vector. K = 0 stands for any other number; then they are handled one by one.
template <typename T, int K>
struct Groups {
  static constexpr int B = K ? K : 1;
  FASTDARTS_VECTORS
  int64_t groups;  // K, where it is not known

  FASTDARTS_INLINE int64_t k() const { return K ? K : groups; }

  // to[column][i][j] = from[column][j][i], zero for j = 0.
  FASTDARTS_INLINE void shuffle(const T* from, int64_t columns, int64_t own, T* to) const {
    for (int64_t column = 0; column < columns; ++column, from += k() * own, to += k() * own) {
      int64_t i = 0;
      if constexpr (K == 2 || K == 4) {
        for (; i + 4 <= own; i += 4) transpose(from + i, own, to + i * K);
      }
      for (; i < own; ++i) {
        to[i * k()] = T(0);
        for (int64_t j = 1; j < k(); ++j) to[i * k() + j] = from[j * own + i];
      }
    }
  }

  // Of four channels i.
  static FASTDARTS_INLINE void transpose(const T* from, int64_t own, T* to) {
    using Four = typename Block<T, 4>::Aligned;
    using FourLoose = typename Block<T, 4>::Loose;
    // Always inlined: a function of its own has not this one's instruction set, and returns vectors elsewhere.
    const auto read = EACH(j) { return static_cast<Four>(*reinterpret_cast<const FourLoose*>(from + j * own)); };
    const auto write = [&](int64_t i, const Four& v)
                           __attribute__((always_inline)) { *reinterpret_cast<FourLoose*>(to + 4 * i) = v; };
    const Four zero = {}, first = read(1);
    const Four low = __builtin_shufflevector(zero, first, 0, 4, 1, 5);
    const Four high = __builtin_shufflevector(zero, first, 2, 6, 3, 7);
    if constexpr (K == 2) {
      write(0, low), write(1, high);
    } else {
      const Four second = read(2), third = read(3);
      const Four below = __builtin_shufflevector(second, third, 0, 4, 1, 5);
      const Four above = __builtin_shufflevector(second, third, 2, 6, 3, 7);
      write(0, __builtin_shufflevector(low, below, 0, 1, 4, 5)),
          write(1, __builtin_shufflevector(low, below, 2, 3, 6, 7));
      write(2, __builtin_shufflevector(high, above, 0, 1, 4, 5)),
          write(3, __builtin_shufflevector(high, above, 2, 3, 6, 7));
    }
  }

  // The other way round; zero for j = 0 as well.
  FASTDARTS_INLINE void unshuffle(const T* from, int64_t columns, int64_t own, T* to) const {
    for (int64_t column = 0; column < columns; ++column, from += k() * own, to += k() * own) {
      for (int64_t i = 0; i < own; ++i) to[i] = T(0);
      if constexpr (K != 0) {
#pragma omp simd
        for (int64_t i = 0; i < own; ++i) {
          unroll<B - 1>(EACH(j) { to[(j + 1) * own + i] = from[i * K + j + 1]; });
        }
      } else {
        for (int64_t j = 1; j < groups; ++j) {
          for (int64_t i = 0; i < own; ++i) to[j * own + i] = from[i * groups + j];
        }
      }
    }
  }

  // to = start + beta · bypassed, plus mixed in every K-th channel, for `count` groups.
  template <bool started>
  FASTDARTS_INLINE void combine(const T* start, const T* bypassed, const T* mixed, T beta, int64_t count, T* to) const {
    if constexpr (K != 0) {
      for (int64_t i = 0; i < count; ++i) {
        V v = {};
        v[0] = mixed[i];
        v += beta * loose(bypassed + i * K);
        if constexpr (started) v += loose(start + i * K);
        loose(to + i * K) = v;
      }
    } else {
      for (int64_t i = 0; i < count; ++i, to += groups, bypassed += groups, start += started ? groups : 0) {
        to[0] = mixed[i] + (started ? start[0] : T(0));
        for (int64_t j = 1; j < groups; ++j) to[j] = beta * bypassed[j] + (started ? start[j] : T(0));
      }
    }
  }
};

template <typename T>
struct Bypass {
  static constexpr int B = 8;
  FASTDARTS_VECTORS
  Partial p;
  const T* x;

  const T* line(int64_t sample, int64_t y) const {
    return x + (sample * p.height + y * p.stride) * p.width * p.channels;
  }

  // y of a row of the output: x itself, or the maxima of 2×2 pixels, which go to `maxima`.
  FASTDARTS_INLINE const T* row(int64_t sample, int64_t y, T* maxima) const {
    const T* top = line(sample, y);
    if (p.stride == 1) return top;
    const int64_t C = p.channels, down = p.width * C;
    for (int64_t column = 0; column < p.columns(); ++column) {
      const T* a = top + 2 * column * C;
      T* to = maxima + column * C;
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) {
        T best = a[c];
        best = larger<false>(best, a[C + c]);
        best = larger<false>(best, a[down + c]);
        to[c] = larger<false>(best, a[down + C + c]);
      }
    }
    return maxima;
  }

  // g where the value is the first of the largest, else zero; of numbers or of vectors of them.
  template <typename W>
  static FASTDARTS_INLINE void choose(W a, W b, W c, W d, W g, W* at) {
    const W zero = {};
    const auto second = (b > a) | (b != b);
    W best = second ? b : a;
    const auto third = (c > best) | (c != c);
    best = third ? c : best;
    const auto fourth = (d > best) | (d != d);
    W rest = fourth ? zero : g;
    at[3] = fourth ? g : zero, at[2] = third ? rest : zero;
    rest = third ? zero : rest;
    at[1] = second ? rest : zero, at[0] = second ? zero : rest;
  }

  // The gradient of y, of a row, into x: at stride 2 all of it to the first of the largest, a NaN being larger.
  FASTDARTS_INLINE void back(int64_t sample, int64_t y, const T* gradient, T* dx) const {
    const int64_t C = p.channels, down = p.width * C, first = line(sample, y) - x;
    for (int64_t column = 0; column < p.columns(); ++column) {
      const T *a = x + first + 2 * column * C, *g = gradient + column * C;
      T* to = dx + first + 2 * column * C;
      int64_t c = 0;
      for (; c + B <= C; c += B) {
        V at[4];
        choose<V>(loose(a + c), loose(a + C + c), loose(a + down + c), loose(a + down + C + c), loose(g + c), at);
        loose(to + c) = at[0], loose(to + C + c) = at[1];
        loose(to + down + c) = at[2], loose(to + down + C + c) = at[3];
      }
      for (; c < C; ++c) {
        T at[4];
        choose<T>(a[c], a[C + c], a[down + c], a[down + C + c], g[c], at);
        to[c] = at[0], to[C + c] = at[1], to[down + c] = at[2], to[down + C + c] = at[3];
      }
    }
  }
};

// The output of one sample.
template <typename T, int K>
struct Interleave {
  Bypass<T> bypass;
  Groups<T, K> groups;
  std::vector<const T*> m, base;
  std::vector<double> beta;
  std::vector<T*> out;

  FASTDARTS_INLINE void operator()(int64_t sample) const {
    const Partial p = bypass.p;
    const int64_t size = p.row(), count = p.columns() * p.own;
    std::vector<T> bypassed(size), maxima(p.stride == 1 ? 0 : size);
    for (int64_t y = 0; y < p.rows(); ++y) {
      groups.shuffle(bypass.row(sample, y, maxima.data()), p.columns(), p.own, bypassed.data());
      const int64_t row = sample * p.rows() + y;
      for (size_t e = 0; e < out.size(); ++e) {
        const T* mixed = m[e] + row * count;
        T* to = out[e] + row * size;
        const T b = static_cast<T>(beta[e]);
        if (base.empty()) {
          groups.template combine<false>(nullptr, bypassed.data(), mixed, b, count, to);
        } else {
          groups.template combine<true>(base[e] + row * size, bypassed.data(), mixed, b, count, to);
        }
      }
    }
  }
};

template <typename T, int K>
struct InterleaveBackward {
  Bypass<T> bypass;
  Groups<T, K> groups;
  std::vector<const T*> grad;
  std::vector<double> beta;
  std::vector<T*> dm;
  T* dx;         // null where not wanted
  double* sums;  // [samples, edges] of dβ; null where not wanted

  FASTDARTS_INLINE void operator()(int64_t sample) const {
    const Partial p = bypass.p;
    const int64_t size = p.row(), count = p.columns() * p.own, edges = grad.size(), k = groups.k();
    std::vector<T> bypassed(size), maxima(p.stride == 1 ? 0 : size), total(size), turned(p.stride == 1 ? 0 : size);
    for (int64_t e = 0; e < edges && sums; ++e) sums[sample * edges + e] = 0;
    for (int64_t y = 0; y < p.rows(); ++y) {
      if (sums) groups.shuffle(bypass.row(sample, y, maxima.data()), p.columns(), p.own, bypassed.data());
      const int64_t row = sample * p.rows() + y;
      T* sum = total.data();
      for (int64_t e = 0; e < edges; ++e) {
        const T *g = grad[e] + row * size, *from = bypassed.data();
        const T b = static_cast<T>(beta[e]);
        T* own = dm[e] + row * count;
        for (int64_t i = 0; i < count; ++i) own[i] = g[i * k];
        if (sums) {
          double dot = 0;
#pragma omp simd reduction(+ : dot)
          for (int64_t i = 0; i < size; ++i) dot += double{g[i]} * from[i];
          sums[sample * edges + e] += dot;
        }
        if (!dx) continue;
        if (e) {
#pragma omp simd
          for (int64_t i = 0; i < size; ++i) sum[i] += b * g[i];
        } else {
#pragma omp simd
          for (int64_t i = 0; i < size; ++i) sum[i] = b * g[i];
        }
      }
      if (!dx) continue;
      T* to = p.stride == 1 ? dx + row * size : turned.data();
      groups.unshuffle(sum, p.columns(), p.own, to);
      if (p.stride == 2) bypass.back(sample, y, to, dx);
    }
  }
};

// body.operator()<K>() for K groups.
template <typename Body>
void with_groups(int64_t groups, const Body& body) {
  groups == 2   ? body.template operator()<2>()
  : groups == 4 ? body.template operator()<4>()
  : groups == 8 ? body.template operator()<8>()
                : body.template operator()<0>();
}

namespace {

int64_t elements(const Partial& p, size_t edges) {
  return p.samples * p.rows() * p.row() * (2 * static_cast<int64_t>(edges) + 2);
}

void check_last(const Tensor& t, const Tensor& like, const std::vector<int64_t>& size) {
  STD_TORCH_CHECK(t.scalar_type() == like.scalar_type(), "tensors differ in dtype");
  const int64_t strides[4] = {size[1] * size[2] * size[3], 1, size[3] * size[1], size[1]};
  STD_TORCH_CHECK(t.dim() == 4, "expected [N, C, H, W], got ", t.dim(), " dimensions");
  for (int64_t d = 0; d < 4; ++d) {
    CHECK_SIZE("a size", t.size(d), size[d]);
    STD_TORCH_CHECK(t.size(d) == 1 || t.stride(d) == strides[d], "expected a channels-last tensor");
  }
}

// Of a call whose mixed operations take `own` channels; `maps` are outputs, their gradients or bases.
Partial partial_of(const Tensor& x, int64_t own, int64_t stride, const std::vector<Tensor>& maps,
                   const std::vector<Tensor>& mixed, const Tensor& beta, size_t edges) {
  STD_TORCH_CHECK(x.dim() == 4 && (stride == 1 || stride == 2) && own > 0, "expected [N, C, H, W] and stride 1 or 2");
  const Partial p{x.size(0), x.size(1), x.size(2), x.size(3), own, stride};
  CHECK_SIZE("remainder of channels, height or width", p.channels % own + p.height % stride + p.width % stride, 0);
  check_last(x, x, {p.samples, p.channels, p.height, p.width});
  for (const Tensor& t : maps) check_last(t, x, {p.samples, p.channels, p.rows(), p.columns()});
  for (const Tensor& t : mixed) check_last(t, x, {p.samples, own, p.rows(), p.columns()});
  STD_TORCH_CHECK(beta.scalar_type() == x.scalar_type() && beta.dim() == 1, "expected one weight per edge, as x");
  CHECK_SIZE("number of weights", beta.numel(), static_cast<int64_t>(edges));
  return p;
}

std::vector<Tensor> interleave(Tensor x, std::vector<Tensor> m, std::vector<Tensor> base, Tensor beta, int64_t stride) {
  STD_TORCH_CHECK(!m.empty() && (base.empty() || base.size() == m.size()), "expected one base per edge or none");
  const Partial p = partial_of(x, m[0].size(1), stride, base, m, beta, m.size());
  std::vector<Tensor> out;
  for (size_t e = 0; e < m.size(); ++e) {
    out.push_back(channels_last_result({p.samples, p.channels, p.rows(), p.columns()}, x.scalar_type()));
  }
  const auto run = [&]<typename T>() {
    with_groups(p.groups(), [&]<int K>() {
      Interleave<T, K> pass{{p, x.const_data_ptr<T>()}, {p.groups()},    pointers<T>(m),
                            pointers<T>(base),          values<T>(beta), {}};
      for (Tensor& t : out) pass.out.push_back(t.mutable_data_ptr<T>());
      in_parallel(pass, p.samples, elements(p, m.size()));
    });
  };
  x.scalar_type() == ScalarType::Double ? run.template operator()<double>() : run.template operator()<float>();
  return out;
}

std::tuple<std::vector<Tensor>, Tensor, Tensor> interleave_backward(std::vector<Tensor> grad, Tensor x, Tensor beta,
                                                                    int64_t partial, int64_t stride, bool need_x,
                                                                    bool need_beta) {
  STD_TORCH_CHECK(partial > 0 && x.dim() == 4 && !grad.empty(), "expected gradients, and x of a multiple of ", partial,
                  " channels");
  const Partial p = partial_of(x, x.size(1) / partial, stride, grad, {}, beta, grad.size());
  CHECK_SIZE("number of groups", p.groups(), partial);
  std::vector<Tensor> dm;
  for (size_t e = 0; e < grad.size(); ++e) {
    dm.push_back(channels_last_result({p.samples, p.own, p.rows(), p.columns()}, x.scalar_type()));
  }
  Tensor dx = need_x ? channels_last_result({p.samples, p.channels, p.height, p.width}, x.scalar_type())
                     : torch::stable::new_empty(x, {0});
  Tensor dbeta = torch::stable::new_empty(beta, {need_beta ? static_cast<int64_t>(grad.size()) : 0});
  const auto run = [&]<typename T>() {
    std::vector<double> sums(need_beta ? p.samples * grad.size() : 0);
    with_groups(p.groups(), [&]<int K>() {
      InterleaveBackward<T, K> pass{
          {p, x.const_data_ptr<T>()}, {p.groups()}, pointers<T>(grad), values<T>(beta), {}, nullptr, nullptr};
      for (Tensor& t : dm) pass.dm.push_back(t.mutable_data_ptr<T>());
      if (need_x) pass.dx = dx.mutable_data_ptr<T>();
      if (need_beta) pass.sums = sums.data();
      in_parallel(pass, p.samples, elements(p, grad.size()));
    });
    for (size_t e = 0; e < grad.size() && need_beta; ++e) {
      double sum = 0;
      for (int64_t n = 0; n < p.samples; ++n) sum += sums[n * grad.size() + e];
      dbeta.mutable_data_ptr<T>()[e] = static_cast<T>(sum);
    }
  };
  x.scalar_type() == ScalarType::Double ? run.template operator()<double>() : run.template operator()<float>();
  return {dm, dx, dbeta};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastdarts, CPU, m) {
  m.impl("interleave", TORCH_BOX(&interleave));
  m.impl("interleave_backward", TORCH_BOX(&interleave_backward));
}

}  // namespace fastdarts
