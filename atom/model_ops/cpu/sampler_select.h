// Selection in one row of logits: the most likely tokens and exact thresholds. Tokens are ordered
// by logit, highest first, equal logits by id. Not the sampler (sampler_row.h): no probabilities
// are decided here.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/sampling/row_scan.h"

namespace atom {

struct Candidate {
  float logit;
  int32_t id;
};

inline bool ranks_before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// All tokens of x [vocab_size] whose logit is at least the num-th highest block maximum, in order
// of id: at least `num` tokens, usually few more. num <= block_max.size(), x without NaN.
void collect_candidates(std::span<const float> x, std::span<const float> block_max, int64_t num,
                        std::vector<Candidate>& out);

// The `num` most likely tokens, most likely first.
void select_top(std::span<const float> x, std::span<const float> block_max, int64_t num,
                std::vector<Candidate>& out);

// The num-th highest logit, 1 <= num <= x.size(); max is the highest.
float kth_largest(const RowScanKernels& kernels, std::span<const float> x, int64_t num, float max);

// The highest threshold t <= max at which the tokens with logit >= t weigh at least `mass`.
float mass_threshold(const RowScanKernels& kernels, std::span<const float> x, const float* weights,
                     double mass, float max);

}  // namespace atom
