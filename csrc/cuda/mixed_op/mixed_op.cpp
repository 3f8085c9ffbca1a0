// mixed_op for torch on a GPU: one call starts all kernels of the edges that leave a state, and waits for nothing. The
// maths stands in kernels/mixed_op/contract.py.
//
// Forward: first halves and other stages; statistics of the pools; second halves; mix. Every launch takes the
// statistics of its rows itself. Backward: sums of the final rows and their totals; gradients of the stages of final
// rows; of the middles, and their totals; of the first halves; of the pools; of the state; totals of the weight
// gradients.
#include "cuda/mixed_op/job.h"
//
#include <tuple>

namespace fastdarts {

namespace {

std::tuple<std::vector<Tensor>, std::vector<Tensor>, Tensor, Tensor, std::vector<Tensor>> mixed_op(
    Tensor x, std::vector<Tensor> base, Tensor gain, std::optional<Tensor> offset, std::vector<Tensor> weights,
    std::optional<Tensor> seeds, std::vector<int64_t> candidates, int64_t edges, int64_t stride,
    std::optional<Tensor> running_mean, std::optional<Tensor> running_var, double eps, int64_t images, bool store,
    std::vector<Tensor> kinks, bool note, bool exact) {
  STD_TORCH_CHECK(kinks.empty() || !note, "expected kinks to be kept or noted, not both");
  const bool training = !running_mean;
  const On on(x);
  gain = dense(gain);
  if (offset) offset = dense(*offset);
  Job job(x, weights, gain, offset, seeds, candidates, stride, eps, images, training, exact);
  const Plan& plan = job.plan;
  job.call.stream = on.stream;
  const size_t four = 4 * x.element_size();
  std::vector<Tensor> out = job.new_maps_apart(x, edges), z = job.new_maps_in_one(x, plan.raws);
  for (Tensor& t : z) job.operands.raw.push_back(const_cast<void*>(job.take(t, four)));
  std::vector<const void*> bases;
  std::vector<void*> outs;
  for (const Tensor& t : base) bases.push_back(job.take(t, four));
  for (Tensor& t : out) outs.push_back(const_cast<void*>(job.take(t, four)));
  Tensor mean = training ? torch::stable::empty_like(gain) : torch::stable::clone(dense(*running_mean));
  Tensor var = training ? torch::stable::empty_like(gain) : torch::stable::clone(dense(*running_var));
  job.affine.mean = mean.const_data_ptr<float>();
  job.affine.var = var.const_data_ptr<float>();
  // where other processes have the rest of the batch
  const auto join = [&](const std::vector<int>& rows) {
    if (const auto joined = normalised(rows); training && images && !joined.empty()) {
      call_op<void>("fastdarts::mixed_op_join_statistics", "", mean, var, joined, job.call.pixels(), job.values);
    }
  };
  const Tiling first = job.tiling_for(static_cast<int>(stride), job.unseconds()),
               second = job.tiling_for(1, plan.seconds);
  const Tiling pools = job.tiling(static_cast<int>(stride), cuda::kMaxChunks);
  Workspace workspace;
  cuda::Statistics statistics = {};
  if (training) {
    const int64_t values = int64_t{plan.rows} * job.call.sizes.outputs;
    statistics.chunks = std::max({first.chunks, second.chunks, pools.chunks});
    const size_t of_moments = workspace.reserve<float>(values * statistics.chunks * cuda::kMoments);
    const size_t of_counters = workspace.reserve<unsigned>(values);
    workspace.allocate(x);
    statistics.partial = workspace.at<float>(of_moments);
    statistics.mean = mean.mutable_data_ptr<float>(), statistics.var = var.mutable_data_ptr<float>();
    statistics.counters = workspace.at<unsigned>(of_counters);
    check(cuda::set_to_zero(statistics.counters, values * sizeof(unsigned), on.stream));
  }
  const cuda::Statistics* const taken = training ? &statistics : nullptr;
  std::vector<Tensor> noted = note ? job.new_kinks(x) : std::vector<Tensor>{}, rectified = job.keep(kinks, x);
  const std::vector<uint8_t*> notes = note ? job.addresses(noted) : std::vector<uint8_t*>(2 + plan.seconds);
  if (notes[0]) check(cuda::note_bits(job.call, job.affine, job.operands.x, -1, notes[0]));
  if (notes[1]) check(cuda::note_places(job.call, job.operands.x, notes[1]));
  check(cuda::run_stages(job.call, job.affine, job.operands, job.stages(plan.seconds), job.unseconds(), first, taken));
  if (training) {
    check(cuda::pool_moments(job.call, job.operands, plan.finals.data(), static_cast<int>(plan.finals.size()), pools,
                             statistics));
    join(plan.first_rows);
  }
  for (int i = 0; note && i < plan.seconds; ++i) {
    const Stage& stage = plan.stages[i];
    check(cuda::note_bits(job.call, job.affine, job.operands.raw[stage.reads], stage.middle(), notes[2 + i]));
  }
  job.keep_middles();
  check(cuda::run_stages(job.call, job.affine, job.operands, job.stages(0), plan.seconds, second, taken));
  join(plan.second_rows);
  check(cuda::mix(job.call, job.affine, job.operands, plan.finals.data(), static_cast<int>(plan.finals.size()), bases,
                  outs, mean.mutable_data_ptr<float>(), var.mutable_data_ptr<float>()));
  if (!store) z.clear();
  blank(out), blank(z), blank(noted), blank({mean, var});
  return {out, z, mean, var, noted};
}

std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> mixed_op_backward(
    std::vector<Tensor> grad, Tensor x, Tensor gain, std::optional<Tensor> offset, std::vector<Tensor> weights,
    std::optional<Tensor> seeds, std::vector<int64_t> candidates, int64_t stride, std::vector<Tensor> z, Tensor mean,
    Tensor var, bool training, double eps, int64_t images, bool need_x, bool need_weights, std::vector<Tensor> kinks,
    bool exact) {
  const On on(x);
  gain = dense(gain);
  if (offset) offset = dense(*offset);
  mean = dense(mean);
  var = dense(var);
  Job job(x, weights, gain, offset, seeds, candidates, stride, eps, images, training, exact);
  const Plan& plan = job.plan;
  const auto& sizes = job.call.sizes;
  job.call.stream = on.stream;
  job.affine.mean = mean.const_data_ptr<float>();
  job.affine.var = var.const_data_ptr<float>();
  const bool again = z.empty() && plan.raws;
  if (again) z = job.new_maps_in_one(x, plan.raws);
  CHECK_SIZE("number of raw outputs", static_cast<int64_t>(z.size()), plan.raws);
  std::vector<Tensor> middle = job.new_maps_in_one(x, plan.firsts);
  const size_t four = 4 * x.element_size();
  for (Tensor& t : z) job.operands.raw.push_back(const_cast<void*>(job.take(t, four)));
  for (const Tensor& t : grad) job.operands.gradients.push_back(job.take(t, four));
  std::vector<void*> middles;
  for (Tensor& t : middle) {
    middles.push_back(t.mutable_data_ptr());
    job.operands.gradients.push_back(job.take(t, four));
  }
  Tensor dx = need_x ? torch::stable::empty_like(x) : empty(x, {0});
  Tensor dgain = torch::stable::empty_like(gain), doffset = torch::stable::empty_like(gain);
  std::vector<Tensor> dweights = need_weights ? new_gradients(weights) : std::vector<Tensor>{};
  std::vector<void*> weight_gradients;
  for (Tensor& t : dweights) weight_gradients.push_back(t.mutable_data_ptr());
  // dgain and doffset are what this part of the batch adds; the kernels need those of the whole batch.
  Tensor slope = images ? torch::stable::empty_like(gain) : dgain,
         shift = images ? torch::stable::empty_like(gain) : doffset;
  float *slopes = slope.mutable_data_ptr<float>(), *shifts = shift.mutable_data_ptr<float>();
  const int strides = static_cast<int>(stride), count = static_cast<int>(plan.stages.size());
  const int finals = static_cast<int>(plan.finals.size());
  const Tiling sums = job.tiling(strides, cuda::kMaxChunks), middle_sums = job.tiling(1, cuda::kMaxChunks);
  const int most = cuda::weight_chunks(count, sizes);
  const Tiling first = job.tiling(strides, most), second = job.tiling(1, most);
  const bool through = need_x || need_weights;
  Workspace workspace;
  const int64_t pixels = job.call.pixels(), chunks = std::max(first.chunks, second.chunks);
  const size_t of_sums = workspace.reserve<float>(int64_t{plan.rows} * std::max(sums.chunks, middle_sums.chunks) *
                                                  cuda::kSums * sizes.outputs);
  const size_t of_t = workspace.reserve<char>(count * pixels * sizes.channels * x.element_size());
  size_t of_taps = 0, of_products = 0, of_max = 0, of_avg = 0, of_which = 0;
  if (need_weights) {
    of_taps = workspace.reserve<float>(count * chunks * cuda::kTaps * sizes.channels);
    of_products = workspace.reserve<float>(count * chunks * sizes.outputs * sizes.channels);
  }
  const bool pools = need_x && plan.pools;
  if (pools) {
    of_max = workspace.reserve<float>(pixels * sizes.channels);
    of_avg = workspace.reserve<float>(pixels * sizes.channels);
    of_which = workspace.reserve<int8_t>(pixels * sizes.channels);
  }
  workspace.allocate(x);
  float* const partial = workspace.at<float>(of_sums);
  const auto totals = [&](const std::vector<int>& rows, int of_chunks) {
    check(cuda::gradient_totals(job.call, job.affine, rows.data(), static_cast<int>(rows.size()), of_chunks, partial,
                                dgain.mutable_data_ptr<float>(), doffset.mutable_data_ptr<float>()));
    if (const auto joined = normalised(rows); images && !joined.empty()) {
      call_op<void>("fastdarts::mixed_op_add_up_rows", "", slope, shift, dgain, doffset, joined);
    }
  };
  const auto taps_of = [&](int stage) {
    return workspace.at<float>(of_taps) + stage * chunks * cuda::kTaps * sizes.channels;
  };
  const auto products_of = [&](int stage) {
    return workspace.at<float>(of_products) + stage * chunks * sizes.outputs * sizes.channels;
  };
  const auto stage_gradients = [&](int begin, int stages, const Tiling& tiling) {
    char* const t = workspace.at<char>(of_t) + begin * pixels * sizes.channels * x.element_size();
    check(cuda::stage_gradients(job.call, job.affine, job.operands, job.stages(begin), stages, tiling, slopes, shifts,
                                static_cast<float>(job.values), training, t, need_weights ? taps_of(begin) : nullptr,
                                need_weights ? products_of(begin) : nullptr));
  };
  const auto weight_totals = [&](int begin, int stages, const Tiling& tiling) {
    check(cuda::weight_totals(job.call, job.stages(begin), stages, tiling.chunks, taps_of(begin), products_of(begin),
                              weight_gradients));
  };
  const bool alike = strides == 1;  // stages that read the state have the tiles of second halves: one launch for both
  const std::vector<Tensor> rectified = job.keep(kinks, x);
  if (again) {
    check(
        cuda::run_stages(job.call, job.affine, job.operands, job.stages(plan.seconds), job.unseconds(), sums, nullptr));
  }
  job.keep_middles();
  if (again) {
    check(cuda::run_stages(job.call, job.affine, job.operands, job.stages(0), plan.seconds, middle_sums, nullptr));
  }
  check(cuda::gradient_sums(job.call, job.affine, job.operands, plan.finals.data(), finals, sums, partial));
  totals(plan.final_rows, sums.chunks);
  stage_gradients(0, plan.seconds + (through && alike ? plan.singles : 0), second);
  if (through && !alike) stage_gradients(plan.seconds, plan.singles, first);
  if (plan.seconds) {
    check(cuda::middle_gradients(job.call, job.affine, job.operands, job.stages(0), plan.seconds, middle_sums,
                                 workspace.at<void>(of_t), middles, partial));
    totals(plan.middle_rows, middle_sums.chunks);
    if (through) stage_gradients(plan.seconds + plan.singles, plan.firsts, first);
  }
  if (need_weights) {
    weight_totals(0, alike ? count : plan.seconds, second);
    if (!alike) weight_totals(plan.seconds, job.unseconds(), first);
  }
  float *dmax = nullptr, *davg = nullptr;
  int8_t* which = nullptr;
  if (pools) {
    dmax = workspace.at<float>(of_max), davg = workspace.at<float>(of_avg), which = workspace.at<int8_t>(of_which);
    check(cuda::pool_gradients(job.call, job.affine, job.operands, plan.finals.data(), finals, slopes, shifts,
                               static_cast<float>(job.values), training, dmax, davg, which));
  }
  if (need_x) {
    const char* const t = workspace.at<char>(of_t) + plan.seconds * pixels * sizes.channels * x.element_size();
    check(cuda::state_gradient(job.call, job.affine, job.operands, job.stages(plan.seconds), job.unseconds(),
                               plan.finals.data(), finals, t, dmax, davg, which, dx.mutable_data_ptr()));
  }
  blank(dweights), blank({dx, dgain, doffset});
  return {dx, dgain, offset ? doffset : empty(gain, {0}), dweights};
}

}  // namespace

#ifndef FASTDARTS_EMULATED
#define FASTDARTS_ON_CPU fastdarts_dry
STABLE_TORCH_LIBRARY_IMPL(fastdarts, CUDA, m) {
  m.impl("mixed_op", TORCH_BOX(&mixed_op));
  m.impl("mixed_op_backward", TORCH_BOX(&mixed_op_backward));
}
#endif

namespace {

// Starts to count launches in place of starting kernels, or ends it; returns how many there were.
int64_t dry_run(bool on) {
  cuda::dry_run = on;
  return cuda::launches.exchange(0);
}

}  // namespace

// The same ops on CPU tensors: emulated, or in a dry run, which measures the host's work without a GPU.
STABLE_TORCH_LIBRARY(FASTDARTS_ON_CPU, m) {
  m.def(
      "mixed_op(Tensor x, Tensor[] base, Tensor gain, Tensor? offset, Tensor[] weights, Tensor? seeds, int[] "
      "candidates, "
      "int edges, int stride, Tensor? running_mean, Tensor? running_var, float eps, int images, bool store, "
      "Tensor[] kinks, bool note, bool exact) -> (Tensor[] out, Tensor[] z, Tensor mean, Tensor var, Tensor[] noted)");
  m.def(
      "mixed_op_backward(Tensor[] grad, Tensor x, Tensor gain, Tensor? offset, Tensor[] weights, Tensor? seeds, "
      "int[] candidates, int stride, Tensor[] z, Tensor mean, Tensor var, bool training, float eps, int images, "
      "bool need_x, bool need_weights, Tensor[] kinks, bool exact) -> (Tensor dx, Tensor dgain, Tensor doffset, "
      "Tensor[] dweights)");
  m.def("dry_run(bool on) -> int");
}
STABLE_TORCH_LIBRARY_IMPL(FASTDARTS_ON_CPU, CompositeExplicitAutograd, m) {
  m.impl("mixed_op", TORCH_BOX(&mixed_op));
  m.impl("mixed_op_backward", TORCH_BOX(&mixed_op_backward));
  m.impl("dry_run", TORCH_BOX(&dry_run));
}

}  // namespace fastdarts
