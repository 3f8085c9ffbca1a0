// mixed_sum on the CPU, NCHW-contiguous or channels-last: the maths stands in kernels/mixed_sum/contract.py. Forward is
// two passes over memory: statistics, then the weighted sum. Backward is two as well: the sums A and B, then dz.
//
// Numerics: statistics and gradient sums are float64 for float32 data as well. The passes are bound by memory, so it is
// nearly free. Moments are taken about the channel's first value, hence safe for |mean| >> std. The mean is subtracted
// before scaling, never folded into a constant. The work is cut into pieces that depend on the shape alone, each summed
// in a fixed order. So results are the same for every number of threads.
#include "torch_stable.h"
//
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/layout.h"
#include "cpu/result_memory.h"

namespace fastdarts {

using torch::headeronly::ScalarType;

namespace {  // mixed_op has kernels of the same names

// Σ d and Σ d² per channel, d = z − shift, of one branch and one chunk; item = branch · chunks + chunk.
template <typename T>
struct Moments {
  Layout layout;
  std::vector<const T*> z;
  std::vector<double> shift;  // [B, width]
  double* partial;            // [B, chunks, 2, C]

  FASTDARTS_INLINE void operator()(int64_t item) const {
    const int64_t branch = item / layout.chunks(), chunk = item % layout.chunks(), width = layout.width;
    const T* data = z[branch];
    const double* about = shift.data() + branch * width;
    std::vector<double> sums(2 * width);
    double *first = sums.data(), *second = first + width;
    for (int64_t n = layout.chunk(chunk); n < layout.chunk(chunk + 1); ++n) {
      layout.stretches(n, [&](int64_t at, int64_t length, int64_t entry, auto step) __attribute__((always_inline)) {
        const T* p = data + at;
        if constexpr (step) {
#pragma omp simd
          for (int64_t i = 0; i < length; ++i) {
            const double d = p[i] - about[i];
            first[i] += d;
            second[i] += d * d;
          }
        } else {
          const double centre = about[entry];
          double s = 0, q = 0;
#pragma omp simd reduction(+ : s, q)
          for (int64_t i = 0; i < length; ++i) {
            const double d = p[i] - centre;
            s += d;
            q += d * d;
          }
          first[entry] += s;
          second[entry] += q;
        }
      });
    }
    double* result = partial + item * 2 * layout.channels;
    layout.fold(first, result);
    layout.fold(second, result + layout.channels);
  }
};

// out = Σ_k scale_k (z_k − mean_k) of one sample.
template <typename T>
struct WeightedSum {
  Layout layout;
  std::vector<const T*> z;
  std::vector<T> scale, mean;  // [K, width]
  T* out;

  FASTDARTS_INLINE void operator()(int64_t sample) const {
    layout.stretches(sample, [&](int64_t at, int64_t length, int64_t entry, auto step) __attribute__((always_inline)) {
      T* o = out + at;
      for (size_t k = 0; k < z.size(); ++k) {
        const T *p = z[k] + at, *s = scale.data() + k * layout.width + entry,
                *m = mean.data() + k * layout.width + entry;
        if (k == 0) {
#pragma omp simd
          for (int64_t i = 0; i < length; ++i) o[i] = s[i * step] * (p[i] - m[i * step]);
        } else {
#pragma omp simd
          for (int64_t i = 0; i < length; ++i) o[i] += s[i * step] * (p[i] - m[i * step]);
        }
      }
    });
  }
};

// Row 0: Σ g, row 1 + k: Σ g (z_k − mean_k), per channel, of one chunk of samples.
template <typename T>
struct GradientSums {
  Layout layout;
  std::vector<const T*> z;
  const T* grad;
  std::vector<T> mean;  // [K, width]
  double* partial;      // [chunks, 1 + K, C]

  FASTDARTS_INLINE void operator()(int64_t chunk) const {
    const int64_t width = layout.width, rows = 1 + z.size();
    std::vector<double> sums(rows * width);
    for (int64_t n = layout.chunk(chunk); n < layout.chunk(chunk + 1); ++n) {
      layout.stretches(n, [&](int64_t at, int64_t length, int64_t entry, auto step) __attribute__((always_inline)) {
        const T* g = grad + at;
        for (int64_t row = 0; row < rows; ++row) {
          const T* p = row ? z[row - 1] + at : g;
          const T* m = row ? mean.data() + (row - 1) * width + entry : nullptr;
          double* sum = sums.data() + row * width + entry;
          if constexpr (step) {
            if (row) {
#pragma omp simd
              for (int64_t i = 0; i < length; ++i) sum[i] += double{g[i]} * (double{p[i]} - m[i]);
            } else {
#pragma omp simd
              for (int64_t i = 0; i < length; ++i) sum[i] += g[i];
            }
          } else {
            double s = 0;
            if (row) {
              const double centre = *m;
#pragma omp simd reduction(+ : s)
              for (int64_t i = 0; i < length; ++i) s += double{g[i]} * (p[i] - centre);
            } else {
#pragma omp simd reduction(+ : s)
              for (int64_t i = 0; i < length; ++i) s += g[i];
            }
            *sum += s;
          }
        }
      });
    }
    for (int64_t row = 0; row < rows; ++row) {
      layout.fold(sums.data() + row * width, partial + (chunk * rows + row) * layout.channels);
    }
  }
};

// dz_k = scale_k (g − shift_k) + slope_k (z_k − mean_k) of one sample, for the wanted branches.
template <typename T>
struct BranchGradients {
  Layout layout;
  std::vector<const T*> z;
  const T* grad;
  std::vector<T> scale, shift, slope, mean;  // [K, width]
  std::vector<T*> out;                       // null where not wanted
  std::vector<bool> through_statistics;      // else dz_k = scale_k g

  FASTDARTS_INLINE void operator()(int64_t sample) const {
    layout.stretches(sample, [&](int64_t at, int64_t length, int64_t entry, auto step) __attribute__((always_inline)) {
      const T* g = grad + at;
      for (size_t k = 0; k < z.size(); ++k) {
        if (!out[k]) continue;
        const int64_t row = k * layout.width + entry;
        const T *a = scale.data() + row, *b = slope.data() + row, *s = shift.data() + row, *m = mean.data() + row;
        const T* p = z[k] + at;
        T* o = out[k] + at;
        if (through_statistics[k]) {
#pragma omp simd
          for (int64_t i = 0; i < length; ++i) {
            o[i] = a[i * step] * (g[i] - s[i * step]) + b[i * step] * (p[i] - m[i * step]);
          }
        } else {
#pragma omp simd
          for (int64_t i = 0; i < length; ++i) o[i] = a[i * step] * g[i];
        }
      }
    });
  }
};

struct Statistics {  // per branch and channel, [K, C]; μ = 0 and r = 1 where a branch is not normalised
  std::vector<double> mean, rstd;
};

template <typename T>
Statistics expand(const Layout& layout, const std::vector<bool>& normalize, const Tensor& mean, const Tensor& var,
                  double correction, double eps) {
  Statistics result;
  const T *m = mean.const_data_ptr<T>(), *v = var.const_data_ptr<T>();
  for (const bool normalized : normalize) {
    for (int64_t c = 0; c < layout.channels; ++c) {
      result.mean.push_back(normalized ? *m++ : 0);
      result.rstd.push_back(normalized ? 1 / std::sqrt(*v++ * correction + eps) : 1);
    }
  }
  return result;
}

// Fills mean and var (unbiased), [B, C], of the normalised branches.
template <typename T>
void batch_statistics(const Layout& layout, const std::vector<const T*>& z, Tensor& mean, Tensor& var) {
  const int64_t branches = z.size(), channels = layout.channels, chunks = layout.chunks(), count = layout.count();
  std::vector<double> shift;
  for (const T* p : z) {
    for (int64_t c = 0; c < channels; ++c) shift.push_back(p[layout.last ? c : c * layout.pixels]);
  }
  std::vector<double> partial(branches * chunks * 2 * channels);
  in_parallel(Moments<T>{layout, z, layout.table<double>(shift), partial.data()}, branches * chunks);
  T *m = mean.mutable_data_ptr<T>(), *v = var.mutable_data_ptr<T>();
  for (int64_t b = 0; b < branches; ++b) {
    for (int64_t c = 0; c < channels; ++c) {
      double first = 0, second = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const double* p = partial.data() + (b * chunks + chunk) * 2 * channels + c;
        first += p[0];
        second += p[channels];
      }
      m[b * channels + c] = shift[b * channels + c] + first / count;
      const double squares = second - first * first / count;
      v[b * channels + c] = (squares < 0 ? 0 : squares) / (count - 1);  // a comparison that lets NaN through
    }
  }
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor> forward(const std::vector<Tensor>& z, const Tensor& weights,
                                           const std::vector<bool>& normalize,
                                           const std::optional<Tensor>& running_mean,
                                           const std::optional<Tensor>& running_var, double eps) {
  const Layout layout = layout_of(z[0]);
  const std::vector<const T*> data = pointers<T>(z);
  Tensor mean, var;
  if (running_mean) {
    mean = torch::stable::clone(*running_mean);
    var = torch::stable::clone(*running_var);
  } else {
    std::vector<const T*> normalized;
    for (size_t k = 0; k < z.size(); ++k) {
      if (normalize[k]) normalized.push_back(data[k]);
    }
    mean = torch::stable::new_empty(weights, {static_cast<int64_t>(normalized.size()), layout.channels});
    var = torch::stable::empty_like(mean);
    batch_statistics<T>(layout, normalized, mean, var);
  }
  const double correction = running_mean ? 1.0 : static_cast<double>(layout.count() - 1) / layout.count();
  Statistics statistics = expand<T>(layout, normalize, mean, var, correction, eps);
  const std::vector<double> w = values<T>(weights);
  for (size_t i = 0; i < statistics.rstd.size(); ++i) statistics.rstd[i] *= w[i / layout.channels];
  Tensor out = result_like(z[0]);
  in_parallel(WeightedSum<T>{layout, data, layout.table<T>(statistics.rstd), layout.table<T>(statistics.mean),
                             out.mutable_data_ptr<T>()},
              layout.samples);
  return {out, mean, var};
}

template <typename T>
std::tuple<std::vector<Tensor>, Tensor> backward(const Tensor& grad, const std::vector<Tensor>& z,
                                                 const Tensor& weights, const std::vector<bool>& normalize,
                                                 const Tensor& mean, const Tensor& var, bool training, double eps,
                                                 const std::vector<bool>& need_z, bool need_weights) {
  const Layout layout = layout_of(z[0]);
  const int64_t channels = layout.channels, branches = z.size(), rows = 1 + branches, count = layout.count();
  const double correction = training ? static_cast<double>(count - 1) / count : 1.0;
  const Statistics statistics = expand<T>(layout, normalize, mean, var, correction, eps);
  const std::vector<const T*> data = pointers<T>(z);
  const T* g = grad.const_data_ptr<T>();
  const std::vector<T> means = layout.table<T>(statistics.mean);

  std::vector<double> sums(rows * channels);
  if (need_weights || training) {
    std::vector<double> partial(layout.chunks() * rows * channels);
    in_parallel(GradientSums<T>{layout, data, g, means, partial.data()}, layout.chunks());
    for (size_t i = 0; i < partial.size(); ++i) sums[i % sums.size()] += partial[i];
  }

  Tensor grad_weights = torch::stable::new_empty(weights, {need_weights ? branches : 0});
  const std::vector<double> w = values<T>(weights);
  std::vector<double> scale, shift, slope;
  std::vector<bool> through_statistics;
  for (int64_t k = 0; k < branches; ++k) {
    double grad_weight = 0;
    through_statistics.push_back(training && normalize[k]);
    for (int64_t c = 0; c < channels; ++c) {
      const double r = statistics.rstd[k * channels + c], b = sums[(1 + k) * channels + c] * r;
      grad_weight += b;
      scale.push_back(w[k] * r);
      shift.push_back(sums[c] / count);
      slope.push_back(-w[k] * r * r * b / count);
    }
    if (need_weights) grad_weights.mutable_data_ptr<T>()[k] = static_cast<T>(grad_weight);
  }

  std::vector<Tensor> grad_z;
  std::vector<T*> out(branches);
  for (int64_t k = 0; k < branches; ++k) {
    if (!need_z[k]) continue;
    grad_z.push_back(result_like(z[k]));
    out[k] = grad_z.back().template mutable_data_ptr<T>();
  }
  if (!grad_z.empty()) {
    in_parallel(BranchGradients<T>{layout, data, g, layout.table<T>(scale), layout.table<T>(shift),
                                   layout.table<T>(slope), means, out, through_statistics},
                layout.samples);
  }
  return {grad_z, grad_weights};
}

void check(const std::vector<Tensor>& z, const Tensor& weights, const std::vector<bool>& normalize) {
  CHECK_SIZE("number of weights", weights.numel(), static_cast<int64_t>(z.size()));
  CHECK_SIZE("number of normalize flags", normalize.size(), z.size());
  const Layout first = layout_of(z[0]);
  for (const Tensor& t : z) {
    const Layout layout = layout_of(t);
    STD_TORCH_CHECK(layout.last == first.last, "branches differ in memory format");
    CHECK_SIZE("number of elements of a branch", t.numel(), z[0].numel());
    STD_TORCH_CHECK(t.scalar_type() == weights.scalar_type(), "branches and weights differ in dtype");
  }
}

std::tuple<Tensor, Tensor, Tensor> mixed_sum(std::vector<Tensor> z, Tensor weights, std::vector<bool> normalize,
                                             std::optional<Tensor> running_mean, std::optional<Tensor> running_var,
                                             double eps) {
  check(z, weights, normalize);
  const auto run = weights.scalar_type() == ScalarType::Double ? forward<double> : forward<float>;
  return run(z, weights, normalize, running_mean, running_var, eps);
}

std::tuple<std::vector<Tensor>, Tensor> mixed_sum_backward(Tensor grad, std::vector<Tensor> z, Tensor weights,
                                                           std::vector<bool> normalize, Tensor mean, Tensor var,
                                                           bool training, double eps, std::vector<bool> need_z,
                                                           bool need_weights) {
  check(z, weights, normalize);
  STD_TORCH_CHECK(layout_of(grad).last == layout_of(z[0]).last, "gradient and branches differ in memory format");
  CHECK_SIZE("number of elements of the gradient", grad.numel(), z[0].numel());
  CHECK_SIZE("number of need_z flags", need_z.size(), z.size());
  const auto run = weights.scalar_type() == ScalarType::Double ? backward<double> : backward<float>;
  return run(grad, z, weights, normalize, mean, var, training, eps, need_z, need_weights);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastdarts, CPU, m) {
  m.impl("mixed_sum", TORCH_BOX(&mixed_sum));
  m.impl("mixed_sum_backward", TORCH_BOX(&mixed_sum_backward));
}

}  // namespace fastdarts
