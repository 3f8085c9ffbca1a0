// The flat updates on the CPU: the maths stands in kernels/flat/contract.py. Each is bound by memory. So it passes over
// memory once, and writes results that no cache holds by non-temporal stores.
#include "torch_stable.h"
//
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "cpu/vectors.h"

namespace fastdarts {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

constexpr int64_t kPiece = 1024;           // elements, whole cache lines: what threads divide an update by
constexpr int64_t kChunk = 16384;          // elements that are summed on their own
constexpr int64_t kGrain = 32768;          // a thread gets at least so many
constexpr int64_t kNonTemporal = 4 << 20;  // bytes of a result from which on stores are non-temporal
constexpr int kLanes = 16;                 // of a sum: the same on every instruction set

template <typename T, int B>
using Loose = typename Block<T, B>::Loose;

template <int B, typename T>
FASTDARTS_INLINE const Loose<T, B>& load(const T* p) {
  return *reinterpret_cast<const Loose<T, B>*>(p);
}

template <int B, typename T>
FASTDARTS_INLINE Loose<T, B>& load(T* p) {
  return *reinterpret_cast<Loose<T, B>*>(p);
}

template <typename T>
struct Unroll {
  T* out;
  const T *w, *grad, *momentum;
  T lr, mu, decay;

  template <int B>
  FASTDARTS_INLINE void at(int64_t i, bool nontemporal) const {
    typename Block<T, B>::Aligned step = load<B>(grad + i) + decay * load<B>(w + i);
    if (momentum) step += mu * load<B>(momentum + i);
    step = load<B>(w + i) - lr * step;
    store(&load<B>(out + i), step, nontemporal);
  }
};

template <typename T>
struct Perturb {
  T* out;
  const T *w, *v;
  T epsilon;

  template <int B>
  FASTDARTS_INLINE void at(int64_t i, bool nontemporal) const {
    const typename Block<T, B>::Aligned moved = load<B>(w + i) + epsilon * load<B>(v + i);
    store(&load<B>(out + i), moved, nontemporal);
  }
};

template <typename T>
struct Hypergradient {
  T* out;
  const T *direct, *above, *below;
  T width, lr;  // 2 ε

  template <int B>
  FASTDARTS_INLINE void at(int64_t i, bool nontemporal) const {
    const typename Block<T, B>::Aligned combined =
        load<B>(direct + i) - lr * ((load<B>(above + i) - load<B>(below + i)) / width);
    store(&load<B>(out + i), combined, nontemporal);
  }
};

template <typename T>
struct Sgd {
  T *out, *momentum;
  const T* grad;
  T clip, lr, mu, decay;

  template <int B>
  FASTDARTS_INLINE void at(int64_t i, bool) const {
    typename Block<T, B>::Aligned step = clip * load<B>(grad + i) + decay * load<B>(out + i);
    if (momentum) {
      step += mu * load<B>(momentum + i);
      load<B>(momentum + i) = step;
    }
    load<B>(out + i) -= lr * step;
  }
};

// Some elements of an update, as one kernel.
template <typename T, int B, typename Update>
struct Stretch {
  Update update;
  int64_t begin, end;
  bool nontemporal;

  FASTDARTS_INLINE void operator()() const {
    int64_t i = begin;
    for (; i + B <= end; i += B) update.template at<B>(i, nontemporal);
    for (; i < end; ++i) update.template at<1>(i, false);
  }
};

template <typename T, typename Update>
void run(const Update& update, int64_t n) {
  const bool nontemporal =
      n * static_cast<int64_t>(sizeof(T)) >= kNonTemporal && reinterpret_cast<uintptr_t>(update.out) % 64 == 0;
  with_isa([&](auto isa) {
    constexpr int B = isa.kBytes / sizeof(T);
    torch::stable::parallel_for(0, round_up(n, kPiece) / kPiece, kGrain / kPiece, [&](int64_t begin, int64_t end) {
      isa.call(Stretch<T, B, Update>{update, begin * kPiece, std::min(n, end * kPiece), nontemporal});
      if (nontemporal) fence();
    });
  });
}

// Σ x² of some chunks.
template <typename T>
struct Squares {
  const T* x;
  int64_t n, begin, end;  // begin and end count chunks
  double* partial;

  FASTDARTS_INLINE void operator()() const {
    typedef double Lanes __attribute__((vector_size(kLanes * sizeof(double))));
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t last = std::min(n, (chunk + 1) * kChunk);
      Lanes sums = {};
      int64_t i = chunk * kChunk;
      for (; i + kLanes <= last; i += kLanes) {
        const Lanes d = __builtin_convertvector(load<kLanes>(x + i), Lanes);
        sums += d * d;
      }
      double sum = 0;
      for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
      for (; i < last; ++i) sum += static_cast<double>(x[i]) * x[i];
      partial[chunk] = sum;
    }
  }
};

template <typename T>
Tensor norm(const Tensor& x) {
  const int64_t n = x.numel();
  std::vector<double> partial(round_up(n, kChunk) / kChunk);
  with_isa([&](auto isa) {
    torch::stable::parallel_for(0, partial.size(), kGrain / kChunk, [&](int64_t begin, int64_t end) {
      isa.call(Squares<T>{x.const_data_ptr<T>(), n, begin, end, partial.data()});
    });
  });
  double sum = 0;
  for (const double p : partial) sum += p;
  Tensor out = torch::stable::new_empty(x, {});
  *out.mutable_data_ptr<T>() = static_cast<T>(std::sqrt(sum));
  return out;
}

void check(const Tensor& first, std::initializer_list<const Tensor*> others) {
  for (const Tensor* t : others) {
    CHECK_SIZE("number of elements", t->numel(), first.numel());
    STD_TORCH_CHECK(t->scalar_type() == first.scalar_type() && t->is_contiguous(),
                    "expected contiguous tensors of one dtype");
  }
}

// Numbers in double, as the contract's: read where an update begins.
template <typename T>
struct Rates {
  T lr, mu, decay;

  explicit Rates(const Tensor& rates) {
    CHECK_SIZE("number of rates", rates.numel(), 3);
    const double* values = rates.const_data_ptr<double>();
    lr = static_cast<T>(values[0]), mu = static_cast<T>(values[1]), decay = static_cast<T>(values[2]);
  }
};

template <typename T>
T* address(std::optional<Tensor>& t) {
  return t ? t->mutable_data_ptr<T>() : nullptr;
}

// body.operator()<T>() in the type of `t`.
template <typename Body>
void with_type(const Tensor& t, const Body& body) {
  t.scalar_type() == ScalarType::Double ? body.template operator()<double>() : body.template operator()<float>();
}

Tensor flat_norm(Tensor x) {
  check(x, {&x});
  return x.scalar_type() == ScalarType::Double ? norm<double>(x) : norm<float>(x);
}

void flat_unroll(Tensor out, Tensor w, Tensor grad, std::optional<Tensor> momentum, Tensor rates) {
  check(out, {&out, &w, &grad, momentum ? &*momentum : &w});
  with_type(out, [&]<typename T>() {
    const Rates<T> by(rates);
    run<T>(Unroll<T>{out.mutable_data_ptr<T>(), w.const_data_ptr<T>(), grad.const_data_ptr<T>(), address<T>(momentum),
                     by.lr, by.mu, by.decay},
           out.numel());
  });
}

void flat_perturb(Tensor out, Tensor w, Tensor v, Tensor norm, double radius) {
  check(out, {&out, &w, &v});
  with_type(out, [&]<typename T>() {
    const T epsilon = static_cast<T>(radius) / *norm.const_data_ptr<T>();
    run<T>(Perturb<T>{out.mutable_data_ptr<T>(), w.const_data_ptr<T>(), v.const_data_ptr<T>(), epsilon}, out.numel());
  });
}

void flat_hypergradient(Tensor out, Tensor direct, Tensor above, Tensor below, Tensor norm, double radius, Tensor lr) {
  check(out, {&out, &direct, &above, &below});
  CHECK_SIZE("number of rates", lr.numel(), 1);
  with_type(out, [&]<typename T>() {
    const T epsilon = static_cast<T>(radius) / *norm.const_data_ptr<T>();
    run<T>(Hypergradient<T>{out.mutable_data_ptr<T>(), direct.const_data_ptr<T>(), above.const_data_ptr<T>(),
                            below.const_data_ptr<T>(), 2 * epsilon, static_cast<T>(*lr.const_data_ptr<double>())},
           out.numel());
  });
}

void flat_sgd(Tensor w, std::optional<Tensor> momentum, Tensor grad, std::optional<Tensor> norm, double max_norm,
              Tensor rates, bool only_finite) {
  check(w, {&w, &grad, momentum ? &*momentum : &w});
  with_type(w, [&]<typename T>() {
    const T* size = address<T>(norm);
    if (only_finite && size && !std::isfinite(*size)) return;
    const T clip = size ? static_cast<T>(max_norm) / (*size + static_cast<T>(1e-6)) : 1;
    const Rates<T> by(rates);
    run<T>(Sgd<T>{w.mutable_data_ptr<T>(), address<T>(momentum), grad.const_data_ptr<T>(),
                  clip > 1 ? 1 : clip,  // a comparison that lets NaN through
                  by.lr, by.mu, by.decay},
           w.numel());
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastdarts, CPU, m) {
  m.impl("flat_norm", TORCH_BOX(&flat_norm));
  m.impl("flat_unroll", TORCH_BOX(&flat_unroll));
  m.impl("flat_perturb", TORCH_BOX(&flat_perturb));
  m.impl("flat_hypergradient", TORCH_BOX(&flat_hypergradient));
  m.impl("flat_sgd", TORCH_BOX(&flat_sgd));
}

}  // namespace fastdarts
