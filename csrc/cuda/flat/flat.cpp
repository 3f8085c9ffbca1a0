// The flat updates for torch on a GPU: every launch goes to the current stream of the tensors' device and waits for
// nothing. Needs no CUDA library of torch, so that the extension loads where torch has none.
#include "cuda/flat/flat.h"

#include "cuda/stream.h"
//
#include <optional>

namespace fastdarts {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

void check(cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, "a flat update was not started: ", cudaGetErrorString(error));
}

cuda::Type type_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return cuda::kFloat32;
    case ScalarType::Double:
      return cuda::kFloat64;
    case ScalarType::Half:
      return cuda::kFloat16;
    case ScalarType::BFloat16:
      return cuda::kBFloat16;
    default:
      STD_TORCH_CHECK(false, "expected float32, float64, float16 or bfloat16");
  }
}

bool on_device_of(const Tensor& first, const Tensor& t) {
  return t.is_cuda() == first.is_cuda() && t.get_device() == first.get_device();
}

void check(const Tensor& first, std::initializer_list<const Tensor*> others) {
  for (const Tensor* t : others) {
    CHECK_SIZE("number of elements", t->numel(), first.numel());
    STD_TORCH_CHECK(t->scalar_type() == first.scalar_type() && t->is_contiguous() && on_device_of(first, *t),
                    "expected contiguous tensors of one dtype on one device");
  }
}

void check_norm(const Tensor& first, const Tensor& norm) {
  const ScalarType wide = first.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  CHECK_SIZE("number of elements of a norm", norm.numel(), 1);
  STD_TORCH_CHECK(norm.scalar_type() == wide && on_device_of(first, norm),
                  "expected a norm in the dtype that updates are computed in, on their device");
}

// The address of so many rates.
const double* check_rates(const Tensor& first, const Tensor& rates, int64_t count) {
  CHECK_SIZE("number of rates", rates.numel(), count);
  STD_TORCH_CHECK(rates.scalar_type() == ScalarType::Double && rates.is_contiguous() && on_device_of(first, rates),
                  "expected rates in float64 on the device of the weights");
  return rates.const_data_ptr<double>();
}

void* address(std::optional<Tensor>& t) { return t ? t->mutable_data_ptr() : nullptr; }

Tensor flat_norm(Tensor x) {
  check(x, {&x});
  const cuda::Place place(x);
  const bool wide = x.scalar_type() == ScalarType::Double;
  Tensor partial =
      torch::stable::new_empty(x, {int64_t{cuda::fastdarts_flat_norm_blocks(x.numel())}}, ScalarType::Double);
  Tensor out = torch::stable::new_empty(x, {}, wide ? ScalarType::Double : ScalarType::Float);
  check(cuda::fastdarts_flat_norm(type_of(x), x.const_data_ptr(), x.numel(), partial.mutable_data_ptr<double>(),
                                  out.mutable_data_ptr(), place.stream));
  return out;
}

void flat_unroll(Tensor out, Tensor w, Tensor grad, std::optional<Tensor> momentum, Tensor rates) {
  check(out, {&out, &w, &grad, momentum ? &*momentum : &w});
  const cuda::Place place(out);
  check(cuda::fastdarts_flat_unroll(type_of(out), out.mutable_data_ptr(), w.const_data_ptr(), grad.const_data_ptr(),
                                    address(momentum), out.numel(), check_rates(out, rates, 3), place.stream));
}

void flat_perturb(Tensor out, Tensor w, Tensor v, Tensor norm, double radius) {
  check(out, {&out, &w, &v});
  check_norm(out, norm);
  const cuda::Place place(out);
  check(cuda::fastdarts_flat_perturb(type_of(out), out.mutable_data_ptr(), w.const_data_ptr(), v.const_data_ptr(),
                                     norm.const_data_ptr(), out.numel(), radius, place.stream));
}

void flat_hypergradient(Tensor out, Tensor direct, Tensor above, Tensor below, Tensor norm, double radius, Tensor lr) {
  check(out, {&out, &direct, &above, &below});
  check_norm(out, norm);
  const cuda::Place place(out);
  check(cuda::fastdarts_flat_hypergradient(type_of(out), out.mutable_data_ptr(), direct.const_data_ptr(),
                                           above.const_data_ptr(), below.const_data_ptr(), norm.const_data_ptr(),
                                           out.numel(), radius, check_rates(out, lr, 1), place.stream));
}

void flat_sgd(Tensor w, std::optional<Tensor> momentum, Tensor grad, std::optional<Tensor> norm, double max_norm,
              Tensor rates, bool only_finite) {
  check(w, {&w, &grad, momentum ? &*momentum : &w});
  if (norm) check_norm(w, *norm);
  const cuda::Place place(w);
  check(cuda::fastdarts_flat_sgd(type_of(w), w.mutable_data_ptr(), address(momentum), grad.const_data_ptr(),
                                 address(norm), w.numel(), max_norm, check_rates(w, rates, 3), only_finite,
                                 place.stream));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastdarts, CUDA, m) {
  m.impl("flat_norm", TORCH_BOX(&flat_norm));
  m.impl("flat_unroll", TORCH_BOX(&flat_unroll));
  m.impl("flat_perturb", TORCH_BOX(&flat_perturb));
  m.impl("flat_hypergradient", TORCH_BOX(&flat_hypergradient));
  m.impl("flat_sgd", TORCH_BOX(&flat_sgd));
}

}  // namespace fastdarts
