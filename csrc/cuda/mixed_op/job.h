// A call of mixed_op as torch makes it: tensors taken apart for the launchers, new tensors, memory to work in.
#pragma once

#ifndef FASTDARTS_EMULATED
#include "cuda/stream.h"
#endif
#include "torch_stable.h"
//
#include <array>
#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>

#include "cuda/launch.h"
#include "cuda/mixed_op/plan.h"

namespace fastdarts {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

using cuda::Affine, cuda::Call, cuda::Plan, cuda::Stage, cuda::Tiling;

inline void check(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();  // clears it: torch would report it again
  STD_TORCH_CHECK(error != cuda::kTooMuchShared,
                  "mixed_op has too many channels for its CUDA kernels: a block needs more shared memory than this GPU "
                  "has. Search with fewer channels, or set FASTDARTS_GPU=triton.");
  STD_TORCH_CHECK(error == cudaSuccess, "a kernel of mixed_op was not started: ", cudaGetErrorString(error));
}

inline cuda::Type type_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return cuda::Type::kFloat32;
    case ScalarType::Half:
      return cuda::Type::kFloat16;
    case ScalarType::BFloat16:
      return cuda::Type::kBFloat16;
    default:
      STD_TORCH_CHECK(false, "expected float32, float16 or bfloat16");
  }
}

// Empty tensors like `like`: its device, and its type unless another is given.
inline Tensor empty(const Tensor& like, std::initializer_list<int64_t> size,
                    std::optional<ScalarType> type = std::nullopt) {
  return torch::stable::new_empty(like, torch::headeronly::IntHeaderOnlyArrayRef(size.begin(), size.size()), type);
}

// Sets results to zero in a dry run, where no kernel writes them: who goes on with them may look for NaN.
inline void blank(const std::vector<Tensor>& results) {
  if (!cuda::dry_run.load(std::memory_order_relaxed)) return;
  for (const Tensor& t : results) {
    if (t.numel()) std::memset(t.mutable_data_ptr(), 0, t.numel() * t.element_size());
  }
}

inline Tensor new_map(const Tensor& like, int64_t channels, int64_t height, int64_t width) {
  const int64_t size[] = {like.size(0), channels, height, width};
  return torch::stable::empty(size, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                              torch::headeronly::MemoryFormat::ChannelsLast);
}

// Calls an op of torch by its name; the stable ABI has a function for few of them.
template <typename Result, typename... Arguments>
Result call_op(const char* name, const char* overload, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(arguments)> stack{torch::stable::detail::from(arguments)...};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  if constexpr (!std::is_void_v<Result>) return torch::stable::detail::to<Result>(stack[0]);
}

// Maps in one block of memory, which lives as long as any of them: three calls of torch, whatever their number.
inline std::vector<Tensor> new_maps(const Tensor& like, int64_t count, int64_t channels, int64_t height,
                                    int64_t width) {
  if (count == 0) return {};
  const Tensor all = empty(like, {count, like.size(0), height, width, channels});
  const std::vector<int64_t> order = {0, 1, 4, 2, 3};
  const Tensor maps = call_op<Tensor>("aten::permute", "", all, order);
  return call_op<std::vector<Tensor>>("aten::unbind", "int", maps, int64_t{0});
}

// Empty gradients of these tensors, in one block of memory.
inline std::vector<Tensor> new_gradients(const std::vector<Tensor>& tensors) {
  if (tensors.empty()) return {};
  int64_t size = 0;
  for (const Tensor& t : tensors) size += t.numel();
  return call_op<std::vector<Tensor>>("aten::unflatten_dense_tensors", "", empty(tensors[0], {size}), tensors);
}

inline Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

// Scratch memory of a call: one tensor, given out in pieces of 256 bytes.
class Workspace {
 public:
  template <typename T>
  size_t reserve(int64_t count) {
    const size_t begin = bytes_;
    bytes_ += (count * sizeof(T) + 255) / 256 * 256;
    return begin;
  }
  void allocate(const Tensor& like) {
    memory_ = empty(like, {static_cast<int64_t>(bytes_)}, ScalarType::Byte);
    begin_ = static_cast<char*>(memory_->mutable_data_ptr());
  }
  template <typename T>
  T* at(size_t place) const {
    return reinterpret_cast<T*>(begin_ + place);
  }

 private:
  size_t bytes_ = 0;
  std::optional<Tensor> memory_;
  char* begin_ = nullptr;
};

// The rows among them that something normalises.
inline std::vector<int64_t> normalised(const std::vector<int>& rows) {
  std::vector<int64_t> result;
  for (int row : rows) {
    if (row >= 0) result.push_back(row);
  }
  return result;
}

inline bool aligned(const void* p, size_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

// The device and the stream that kernels are started on; none where they are emulated or in a dry run.
struct On {
#ifndef FASTDARTS_EMULATED
  std::optional<cuda::Place> place;
  explicit On(const Tensor& x) {
    if (x.is_cuda()) stream = place.emplace(x).stream;
  }
#else
  explicit On(const Tensor&) {}
#endif
  cudaStream_t stream = nullptr;
};

// The parts that forward and backward share.
struct Job {
  Plan plan;
  Call call = {};
  cuda::Operands operands = {};
  Affine affine = {};
  int64_t values;  // that a channel is normalised by

  Job(const Tensor& x, const std::vector<Tensor>& weights, const Tensor& gain, const std::optional<Tensor>& offset,
      const std::optional<Tensor>& seeds, const std::vector<int64_t>& candidates, int64_t stride, double eps,
      int64_t images, bool training, bool exact)
      : plan(candidates, static_cast<int>(gain.size(1))) {
    auto& sizes = call.sizes;
    STD_TORCH_CHECK(x.dim() == 4 && (stride == 1 || stride == 2), "expected a state [N, C, H, W] and stride 1 or 2");
    for (int i = 0; i < 4; ++i) {
      STD_TORCH_CHECK(x.size(i) > 0 && x.size(i) < (1 << 30), "expected sizes from 1 to 2^30");
    }
    sizes.images = static_cast<int>(x.size(0)), sizes.channels = static_cast<int>(x.size(1));
    sizes.height = static_cast<int>(x.size(2)), sizes.width = static_cast<int>(x.size(3));
    sizes.stride = static_cast<int>(stride), sizes.outputs = static_cast<int>(gain.size(1));
    sizes.out_height = (sizes.height - 1) / sizes.stride + 1, sizes.out_width = (sizes.width - 1) / sizes.stride + 1;
    STD_TORCH_CHECK(int64_t{sizes.height} * sizes.width * std::max(sizes.channels, sizes.outputs) < (1ll << 31),
                    "expected fewer than 2^31 values of one image");
    CHECK_SIZE("number of weights", static_cast<int64_t>(weights.size()), plan.weights);
    CHECK_SIZE("rows of gain", gain.size(0), plan.rows);
    CHECK_SIZE("number of seeds", seeds ? seeds->numel() : 0, plan.seeds);
    call.type = type_of(x);
    call.exact = exact;
    const size_t four = 4 * x.element_size();
    call.vector = sizes.channels % 4 == 0 && sizes.outputs % 4 == 0;
    operands.x = take(x, four);
    for (const Tensor& w : weights) operands.weights.push_back(take(w, four));
    for (const Stage& stage : plan.stages) call.vector &= stage.count % 4 == 0;
    operands.seeds = seeds ? seeds->const_data_ptr<int64_t>() : nullptr;
    values = (images ? images : sizes.images) * sizes.out_height * sizes.out_width;
    affine.gain = gain.const_data_ptr<float>();
    affine.offset = offset ? offset->const_data_ptr<float>() : nullptr;
    affine.eps = static_cast<float>(eps);
    affine.correction =
        training ? static_cast<float>(static_cast<double>(values - 1) / static_cast<double>(values)) : 1.0f;
  }

  const void* take(const Tensor& t, size_t four) {
    const void* p = t.const_data_ptr();
    call.vector &= aligned(p, four);
    return p;
  }

  Tiling tiling(int stride, int most) const {
    return cuda::tiling_of(call.sizes.images, call.sizes.out_height, call.sizes.out_width, stride, most);
  }
  // For a launch of so many stages.
  Tiling tiling_for(int stride, int stages) const {
    const Tiling most = tiling(stride, cuda::kMaxChunks);
    const int64_t blocks = stages * cuda::quotient(call.sizes.outputs, 32);
    return tiling(stride, cuda::chunks_of(most.tiles(), blocks, most.warps()));
  }
  const Stage* stages(int first) const { return plan.stages.data() + first; }
  int unseconds() const { return plan.singles + plan.firsts; }  // stages that read the state

  bool max_pools() const {
    return std::any_of(plan.finals.begin(), plan.finals.end(),
                       [](const cuda::Final& f) { return f.kind == cuda::FinalKind::kMax; });
  }

  // Shapes of the kinks of a call: bits of the state, places of maxima, bits of every middle.
  std::vector<std::vector<int64_t>> kink_sizes() const {
    const auto& s = call.sizes;
    const auto bytes = [](int channels) { return (channels + 7) / 8; };
    std::vector<std::vector<int64_t>> sizes(2, {0});
    if (plan.weights) sizes[0] = {s.images, s.height, s.width, bytes(s.channels)};
    if (max_pools()) sizes[1] = {s.images, s.out_height, s.out_width, s.channels};
    for (int i = 0; i < plan.seconds; ++i) {
      sizes.push_back({s.images, s.out_height, s.out_width, bytes(s.outputs)});
    }
    return sizes;
  }
  std::vector<Tensor> new_kinks(const Tensor& x) const {
    std::vector<Tensor> kinks;
    for (const auto& size : kink_sizes()) kinks.push_back(torch::stable::new_empty(x, size, ScalarType::Byte));
    return kinks;
  }
  // Where kinks are; null where there are none.
  std::vector<uint8_t*> addresses(std::vector<Tensor>& kinks) const {
    const auto sizes = kink_sizes();
    CHECK_SIZE("number of kinks", kinks.size(), sizes.size());
    std::vector<uint8_t*> result;
    for (size_t i = 0; i < kinks.size(); ++i) {
      int64_t size = 1;
      for (const int64_t side : sizes[i]) size *= side;
      CHECK_SIZE("bytes of kinks", kinks[i].numel(), size);
      result.push_back(size ? static_cast<uint8_t*>(kinks[i].mutable_data_ptr()) : nullptr);
    }
    return result;
  }

  // Keeps these kinks. Returns the maps that they rectify, which have to live until the last kernel is started.
  std::vector<Tensor> keep(std::vector<Tensor>& kinks, const Tensor& x) {
    if (kinks.empty()) return {};
    const std::vector<uint8_t*> at = addresses(kinks);
    cuda::Kept& kept = operands.kept;
    kept.any = true;
    kept.state = at[0], kept.places = at[1];
    kept.middles.assign(at.begin() + 2, at.end());
    std::vector<Tensor> maps = new_maps_in_one(x, plan.seconds);
    for (Tensor& map : maps) kept.rectified_middles.push_back(map.mutable_data_ptr());
    if (kept.state) {
      maps.push_back(torch::stable::empty_like(x));
      kept.rectified_state = maps.back().mutable_data_ptr();
      check(cuda::rectify(call, affine, operands.x, -1, kept.state, kept.rectified_state));
    }
    return maps;
  }
  void keep_middles() const {
    for (int i = 0; operands.kept.any && i < plan.seconds; ++i) {
      const Stage& stage = plan.stages[i];
      check(cuda::rectify(call, affine, operands.raw[stage.reads], stage.middle(), operands.kept.middles[i],
                          operands.kept.rectified_middles[i]));
    }
  }

  // Maps of the outputs' size that the caller gets, in one block or each in its own.
  std::vector<Tensor> new_maps_in_one(const Tensor& x, int64_t count) const {
    return new_maps(x, count, call.sizes.outputs, call.sizes.out_height, call.sizes.out_width);
  }
  std::vector<Tensor> new_maps_apart(const Tensor& x, int64_t count) const {
    std::vector<Tensor> maps;
    for (int64_t i = 0; i < count; ++i) {
      maps.push_back(new_map(x, call.sizes.outputs, call.sizes.out_height, call.sizes.out_width));
    }
    return maps;
  }
};

}  // namespace fastdarts
