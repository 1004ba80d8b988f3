// How a token chooses its experts (mixture of experts): the rules of all families as data, shared
// by configuration, op contract and kernels.
#pragma once

#include <cstdint>

namespace atom {

// What router logits become before experts are compared.
enum class ExpertScoring : int32_t {
  kSoftmax,      // over all experts
  kSigmoid,      // each by itself
  kSoftmaxTopK,  // compared as they are; softmax over the chosen ones
};

struct RouterRule {
  int64_t top_k = 0;
  ExpertScoring scoring = ExpertScoring::kSoftmax;
  bool renormalize = false;  // the chosen weights are divided by their sum
  // Experts stand in `num_groups` equal groups, and only those of the best `top_groups` compete. A
  // group is as good as its best expert, or as the sum of its two best.
  int64_t num_groups = 1;
  int64_t top_groups = 1;
  bool groups_by_two_best = false;
  float scale = 1.0F;  // of the weights, last (routed_scaling_factor)
};

}  // namespace atom
