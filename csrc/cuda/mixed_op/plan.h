// What a call of mixed_op asks for, taken apart: the stages to run, the rows of the tables, the sums at the end.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cuda/mixed_op/call.h"

namespace fastdarts::cuda {

struct Plan {
  // second halves, then other stages of final rows ("singles"), then first halves of separable convolutions
  std::vector<Stage> stages;
  int seconds = 0, singles = 0, firsts = 0;
  std::vector<Final> finals;
  // Rows that statistics and totals are taken of; ~row where nothing normalises it.
  std::vector<int> first_rows, second_rows, final_rows, middle_rows;
  int rows = 0, raws = 0, weights = 0, seeds = 0;
  bool pools = false;

  const Stage* firsts_begin() const { return stages.data() + seconds + singles; }
  int plain = 0;

  // Four integers a candidate: edge, kind, kernel, dilation; sorted by edge.
  Plan(std::span<const int64_t> candidates, int outputs) {
    enum Kind { kSkip, kMaxPool, kAvgPool, kFactorizedReduce, kDilConv, kSepConv, kReLUConv, kNoise, kDroppedSkip };
    std::vector<Stage> single, first;
    const int edges = candidates.empty() ? 0 : static_cast<int>(candidates[candidates.size() - 4]) + 1;
    for (size_t at = 0; at + 4 <= candidates.size(); at += 4) {
      const int edge = static_cast<int>(candidates[at]), kernel = static_cast<int>(candidates[at + 2]);
      const int dilation = static_cast<int>(candidates[at + 3]);
      FinalKind kind = FinalKind::kConv;
      int source = raws, own = 0;  // own: its weights
      switch (candidates[at + 1]) {
        case kSkip:
          kind = FinalKind::kSkip;
          break;
        case kNoise:
          kind = FinalKind::kNoise;
          source = seeds++;
          break;
        case kDroppedSkip:
          kind = FinalKind::kDropped;
          source = seeds;
          seeds += 2;
          break;
        case kMaxPool:
        case kAvgPool:
          kind = candidates[at + 1] == kMaxPool ? FinalKind::kMax : FinalKind::kAvg;
          pools = true;
          break;
        case kFactorizedReduce:
          for (int odd = 0; odd < 2; ++odd) {
            single.push_back({1, 1, odd, -1, weights + odd, raws, rows, edge, odd * (outputs / 2), outputs / 2, -1});
          }
          own = 2;
          break;
        case kReLUConv:
          single.push_back({1, 1, 0, -1, weights, raws, rows, edge, 0, outputs, -1});
          own = 1;
          break;
        case kDilConv:
          single.push_back({kernel, dilation, 0, weights, weights + 1, raws, rows, edge, 0, outputs, -1});
          own = 2;
          break;
        case kSepConv:
          // the gradient of its middle stands behind those of the edges
          first.push_back({kernel, 1, 0, weights, weights + 1, raws, rows, edges + firsts++, 0, outputs, -1});
          middle_rows.push_back(rows++);
          source = ++raws;
          stages.push_back({kernel, 1, 0, weights + 2, weights + 3, raws, rows, edge, 0, outputs, raws - 1});
          second_rows.push_back(rows);
          ++seconds;
          own = 4;
          break;
      }
      const bool nothing = is_plain(kind);
      finals.push_back({kind, rows, source, edge});
      final_rows.push_back(nothing ? ~rows : rows);
      if (candidates[at + 1] != kSepConv) first_rows.push_back(nothing ? ~rows : rows);
      plain += nothing;
      weights += own;
      raws += own > 0;
      ++rows;
    }
    singles = static_cast<int>(single.size());
    stages.insert(stages.end(), single.begin(), single.end());
    stages.insert(stages.end(), first.begin(), first.end());
    first_rows.insert(first_rows.end(), middle_rows.begin(), middle_rows.end());
  }
};

}  // namespace fastdarts::cuda
