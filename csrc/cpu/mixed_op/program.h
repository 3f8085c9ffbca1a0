// What a call of mixed_op asks for, taken apart: the stages to run, the rows of the tables, the sums at the end.
//
// A stage is ReLU → depthwise convolution → 1×1 convolution. A first stage reads the state. A second stage is the
// second half of a separable convolution: it reads the raw output of a first stage through that one's BatchNorm.
#pragma once

#include "torch_stable.h"
//
#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "cpu/maps.h"
#include "cpu/mixed_op/kinks.h"
#include "cpu/result_memory.h"
#include "cpu/vectors.h"
#include "process_group.h"

namespace fastdarts {

using torch::stable::Tensor;

enum Kind : int64_t {
  kSkip,
  kMaxPool,
  kAvgPool,
  kFactorizedReduce,
  kDilConv,
  kSepConv,
  kReLUConv,
  kNoise,
  kDroppedSkip
};

struct Stage {
  int64_t edge, row;  // the row of its output
  int64_t source;     // row of the BatchNorm that it reads through, or -1: it reads the state
  int64_t kernel, dilation, stride;
  int64_t
      groups;  // 0, or without a depthwise convolution: 1×1 convolutions of the pixels (0, 0) and (1, 1) of each S×S
  int64_t weight, z;  // its first weight, its raw output

  int64_t border() const { return dilation * (kernel - 1) / 2; }
  int64_t taps() const { return kernel * kernel; }
};

struct Final {  // one term of an edge's sum
  int64_t edge, row;
  Kind kind;
  int64_t z;  // its raw output; of what draws, its place among the draws; else -1

  bool draws() const { return kind == kNoise || kind == kDroppedSkip; }
  bool plain() const { return kind == kSkip || draws(); }  // nothing normalises it
  bool staged() const { return z >= 0 && !draws(); }
};

struct Draw {
  uint64_t seed = 0;
  int64_t limit = 0;  // of a dropped skip
};

struct Program {
  int64_t samples, inputs, outputs, height, width, stride, edges;
  int64_t images = 0;  // of the whole batch, where other processes have the rest of it; else 0
  int64_t rows = 0, raw = 0, weights = 0;
  int64_t border = 1;  // of private buffers: a pair (pairs.h) may lie before the first pixel
  std::vector<Draw> draws;
  bool max_pool = false, avg_pool = false, skip = false;
  std::vector<Stage> first, second;
  std::vector<Final> finals;
  Kinks kinks;

  Program(const Tensor& x, const std::vector<Tensor>& weight, const std::optional<Tensor>& seed,
          const std::vector<int64_t>& candidates, int64_t channels, int64_t edges, int64_t stride)
      : samples(x.size(0)),
        inputs(x.size(1)),
        outputs(channels),
        height(x.size(2)),
        width(x.size(3)),
        stride(stride),
        edges(edges),
        pieces(std::min(samples, std::max<int64_t>(8, torch::stable::get_num_threads()))) {
    STD_TORCH_CHECK(stride == 1 || stride == 2, "stride is ", stride, ", expected 1 or 2");
    CHECK_SIZE("length of candidates modulo 4", candidates.size() % 4, size_t{0});
    for (size_t i = 0; i < candidates.size(); i += 4) {
      add(candidates[i], static_cast<Kind>(candidates[i + 1]), candidates[i + 2], candidates[i + 3], weight);
    }
    CHECK_SIZE("number of seeds", seed ? seed->numel() : 0, numbers);
    if (seed) {
      STD_TORCH_CHECK(seed->is_contiguous(), "expected contiguous seeds");
      const int64_t* p = seed->const_data_ptr<int64_t>();
      for (const Final& f : finals) {
        if (!f.draws()) continue;
        draws[f.z].seed = static_cast<uint64_t>(*p++);
        if (f.kind == kDroppedSkip) draws[f.z].limit = *p++;
      }
    }
    CHECK_SIZE("number of weights", static_cast<int64_t>(weight.size()), weights);
  }

  int64_t out_rows() const { return (height - 1) / stride + 1; }
  int64_t out_columns() const { return (width - 1) / stride + 1; }
  int64_t pixels() const { return out_rows() * out_columns(); }
  double count() const {  // of the values that a channel is normalised by
    return static_cast<double>((images ? images : samples) * pixels());
  }
  int64_t in_size() const { return height * width * inputs; }  // of one sample
  int64_t out_size() const { return pixels() * outputs; }
  int64_t groups() const {  // the largest number of channel groups that a strip has
    return std::any_of(first.begin(), first.end(), [](const Stage& s) { return s.groups == 2; }) ? 2 : 1;
  }
  // The pieces that sums are cut into; up to 8 threads they are the same, and so is every bit of the results.
  int64_t chunks() const { return pieces; }
  int64_t chunk(int64_t i) const { return samples * i / pieces; }  // its first sample

  // What the tensors of a call hold, or are to hold: sizes of bytes, in their order.
  std::vector<std::vector<int64_t>> kink_sizes() const {
    std::vector<std::vector<int64_t>> sizes(2, {0});
    if (!first.empty()) sizes[0] = {samples, height, width, kink_bytes(inputs)};
    if (max_pool) sizes[1] = {samples, out_rows(), out_columns(), inputs};
    for (size_t i = 0; i < second.size(); ++i) {
      sizes.push_back({samples, out_rows(), out_columns(), kink_bytes(outputs)});
    }
    return sizes;
  }
  void set_kinks(std::vector<Tensor>& tensors, bool keep) {
    if (tensors.empty()) return;
    const auto sizes = kink_sizes();
    CHECK_SIZE("number of kinks", tensors.size(), sizes.size());
    std::vector<uint8_t*> data;
    for (size_t i = 0; i < sizes.size(); ++i) {
      int64_t size = 1;
      for (int64_t side : sizes[i]) size *= side;
      CHECK_SIZE("size of kinks", tensors[i].numel(), size);
      STD_TORCH_CHECK(tensors[i].scalar_type() == torch::headeronly::ScalarType::Byte && tensors[i].is_contiguous(),
                      "expected contiguous bytes as kinks");
      data.push_back(size ? static_cast<uint8_t*>(tensors[i].data_ptr()) : nullptr);
    }
    kinks = {keep, data[0], data[1], {data.begin() + 2, data.end()}};
  }

 private:
  int64_t pieces;
  int64_t numbers = 0;  // in seeds

  void add(int64_t edge, Kind kind, int64_t kernel, int64_t dilation, const std::vector<Tensor>& weight) {
    STD_TORCH_CHECK(0 <= edge && edge < edges, "edge ", edge, " of ", edges);
    STD_TORCH_CHECK(finals.empty() || finals.back().edge <= edge, "expected candidates sorted by edge");
    const bool pool = kind == kMaxPool || kind == kAvgPool;
    const bool passes = kind == kSkip || kind == kDroppedSkip;
    STD_TORCH_CHECK(inputs == outputs || !(pool || passes || kind == kSepConv), "channels differ: ", inputs, " and ",
                    outputs);
    max_pool |= kind == kMaxPool, avg_pool |= kind == kAvgPool, skip |= passes;
    if (passes) CHECK_SIZE("stride of a skip connection", stride, 1);
    if (pool || kind == kSkip) {
      finals.push_back({edge, rows++, kind, -1});
      return;
    }
    if (kind == kNoise || kind == kDroppedSkip) {
      finals.push_back({edge, rows++, kind, std::ssize(draws)});
      draws.emplace_back();
      numbers += kind == kNoise ? 1 : 2;
      return;
    }
    const auto take = [&](int64_t size, const char* what) {
      STD_TORCH_CHECK(weights < static_cast<int64_t>(weight.size()), "a weight is missing: ", what);
      const Tensor& w = weight[weights++];
      STD_TORCH_CHECK(w.is_contiguous(), "expected contiguous weights");
      CHECK_SIZE(what, w.numel(), size);
    };
    const auto stage = [&](std::vector<Stage>& list, int64_t source, int64_t step, int64_t groups) {
      list.push_back({edge, rows++, source, kernel, dilation, step, groups, weights, raw++});
      border = std::max(border, std::max(list.back().border(), groups - 1));
      if (!groups) take(inputs * kernel * kernel, "depthwise weight");
      for (int64_t i = 0; i < std::max<int64_t>(1, groups); ++i) {
        take(inputs * outputs / std::max<int64_t>(1, groups), "1x1 weight");
      }
    };
    if (kind == kFactorizedReduce || kind == kReLUConv) {
      kernel = dilation = 1;
      CHECK_SIZE("stride", stride, kind == kReLUConv ? 1 : 2);
      STD_TORCH_CHECK(kind == kReLUConv || outputs % 2 == 0, "expected an even number of channels, got ", outputs);
      stage(first, -1, stride, kind == kReLUConv ? 1 : 2);
    } else {
      STD_TORCH_CHECK(kind == kDilConv || kind == kSepConv, "unknown kind ", static_cast<int64_t>(kind));
      STD_TORCH_CHECK(kernel == 3 || kernel == 5 || kernel == 7, "kernel is ", kernel, ", expected 3, 5 or 7");
      STD_TORCH_CHECK(dilation == 1 || dilation == 2, "dilation is ", dilation, ", expected 1 or 2");
      stage(first, -1, stride, 0);
      if (kind == kSepConv) {
        CHECK_SIZE("dilation of a separable convolution", dilation, 1);
        stage(second, rows - 1, 1, 0);
      }
    }
    finals.push_back({edge, rows - 1, kind, raw - 1});
  }
};

// The values per row and channel, [rows, channels], in double.
struct Tables {
  int64_t channels;
  std::vector<double> gain, offset, mean, rstd;

  double scale(int64_t i) const { return gain[i] * rstd[i]; }
};

template <typename T>
std::vector<double> doubles(const Tensor& t) {  // of a matrix of any strides
  // each of these is a call of torch
  const int64_t rows = t.size(0), columns = t.size(1), row = t.stride(0), column = t.stride(1);
  std::vector<double> result;
  result.reserve(rows * columns);
  const T* p = t.const_data_ptr<T>();
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) result.push_back(p[i * row + j * column]);
  }
  return result;
}

template <typename T>
Tables tables(const Program& program, const Tensor& gain, const std::optional<Tensor>& offset) {
  const size_t size = program.rows * program.outputs;
  for (const Tensor& t : {gain, offset ? *offset : gain}) {
    STD_TORCH_CHECK(t.dim() == 2, "expected tables of 2 dimensions");
    CHECK_SIZE("number of rows of a table", t.size(0), program.rows);
    CHECK_SIZE("number of channels of a table", t.size(1), program.outputs);
  }
  return {program.outputs, doubles<T>(gain), offset ? doubles<T>(*offset) : std::vector<double>(size),
          std::vector<double>(size), std::vector<double>(size, 1.0)};
}

// Takes mean and var of all rows but plain ones, which stay (0, 1); `copy` gets the same of var.
template <typename T>
void take_statistics(const Program& program, const Tensor& mean, const Tensor& var, double correction, double eps,
                     Tables& to, T* copy = nullptr) {
  std::vector<double> means = doubles<T>(mean), vars = doubles<T>(var);
  std::vector<bool> plain(program.rows);
  for (const Final& f : program.finals) plain[f.row] = f.plain();
  for (int64_t i = 0; i < program.rows * program.outputs; ++i) {
    if (plain[i / program.outputs]) continue;
    to.mean[i] = means[i];
    to.rstd[i] = 1 / std::sqrt(vars[i] * correction + eps);
    if (copy) copy[i] = static_cast<T>(vars[i]);
  }
}

inline bool channels_last(const Tensor& t) {
  const int64_t strides[4] = {t.size(1) * t.size(2) * t.size(3), 1, t.size(3) * t.size(1), t.size(1)};
  for (int64_t d = 0; d < 4; ++d) {
    if (t.size(d) != 1 && t.stride(d) != strides[d]) return false;
  }
  return true;
}

inline void check(const Program& program, const Tensor& x, const std::vector<Tensor>& outputs,
                  const std::vector<Tensor>& weights, const std::vector<Tensor>& tables) {
  STD_TORCH_CHECK(channels_last(x), "expected a channels-last input");
  for (const Tensor& t : outputs) {
    STD_TORCH_CHECK(t.dim() == 4 && channels_last(t), "expected channels-last tensors of 4 dimensions");
    STD_TORCH_CHECK(t.scalar_type() == x.scalar_type(), "tensors differ in dtype");
    CHECK_SIZE("number of elements", t.numel(), program.samples * program.out_size());
  }
  for (const Tensor& t : weights) STD_TORCH_CHECK(t.scalar_type() == x.scalar_type(), "weights differ in dtype");
  const ScalarType wide = x.scalar_type() == ScalarType::BFloat16 ? ScalarType::Float : x.scalar_type();
  for (const Tensor& t : tables) STD_TORCH_CHECK(t.scalar_type() == wide, "tables differ in dtype");
}

// X(M) for all types of maps.
#define FASTDARTS_MAPS(X) X(double) X(float) X(BFloat16<false>) X(BFloat16<true>)

// run.operator()<M>() for the type of the map x.
template <typename Run>
void with_map_type(const Tensor& x, const Run& run) {
  switch (x.scalar_type()) {
    case ScalarType::Double:
      return run.template operator()<double>();
    case ScalarType::Float:
      return run.template operator()<float>();
    case ScalarType::BFloat16:
      return chosen_has_dots() ? run.template operator()<BFloat16<true>>() : run.template operator()<BFloat16<false>>();
    default:
      STD_TORCH_CHECK(false, "expected float32, float64 or bfloat16");
  }
}

template <typename M>
M* address(const Tensor& t) {
  return static_cast<M*>(t.data_ptr());
}

template <typename M>
std::vector<M*> addresses(std::vector<Tensor>& tensors) {
  std::vector<M*> result;
  for (Tensor& t : tensors) result.push_back(address<M>(t));
  return result;
}

template <typename M>
std::vector<const M*> addresses(const std::vector<Tensor>& tensors) {
  std::vector<const M*> result;
  for (const Tensor& t : tensors) result.push_back(address<M>(t));
  return result;
}

// Weights as the kernels compute with them: copies, if they are stored as maps of half precision are.
template <typename M>
struct Weights {
  std::vector<std::vector<Wide<M>>> copies;
  std::vector<const Wide<M>*> data;

  explicit Weights(const std::vector<Tensor>& tensors) {
    for (const Tensor& t : tensors) {
      if constexpr (kHalf<M>) {
        std::vector<float>& copy = copies.emplace_back(t.numel());
        const M* from = address<M>(t);
        for (size_t i = 0; i < copy.size(); ++i) copy[i] = value(from[i]);
        data.push_back(copy.data());
      } else {
        data.push_back(address<M>(t));
      }
    }
  }
};

inline Tensor new_map(const Tensor& x, int64_t channels, int64_t height, int64_t width) {
  return channels_last_result({x.size(0), channels, height, width}, x.scalar_type());
}

}  // namespace fastdarts
