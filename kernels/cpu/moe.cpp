#include "kernels/cpu/moe.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace atom::cpu {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

void score(const RouterArgs& args, const float* logits, float* scores) {
  const int64_t n = args.num_experts;
  switch (args.rule.scoring) {
    case ExpertScoring::kSoftmaxTopK:
      std::copy_n(logits, n, scores);
      return;
    case ExpertScoring::kSigmoid:
      for (int64_t e = 0; e < n; ++e) scores[e] = 1.0F / (1.0F + std::exp(-logits[e]));
      return;
    case ExpertScoring::kSoftmax:
      break;
  }
  const float largest = *std::max_element(logits, logits + n);
  double sum = 0;
  for (int64_t e = 0; e < n; ++e) {
    scores[e] = std::exp(logits[e] - largest);
    sum += scores[e];
  }
  for (int64_t e = 0; e < n; ++e) scores[e] = static_cast<float>(scores[e] / sum);
}

float group_score(const RouterRule& rule, const float* choice, int64_t size) {
  float best = kNever, second = kNever;
  for (int64_t e = 0; e < size; ++e) {
    if (choice[e] > best) {
      second = best;
      best = choice[e];
    } else {
      second = std::max(second, choice[e]);
    }
  }
  return rule.groups_by_two_best && size > 1 ? best + second : best;
}

// Of `count` values, the `wanted` largest, best first; what is taken becomes kNever.
void take_best(float* values, int64_t count, int64_t wanted, int32_t* out) {
  for (int64_t k = 0; k < wanted; ++k) {
    const auto best = static_cast<int32_t>(std::max_element(values, values + count) - values);
    out[k] = best;
    values[best] = kNever;
  }
}

void keep_best_groups(const RouterRule& rule, float* choice, int64_t num_experts) {
  const int64_t size = num_experts / rule.num_groups;
  float groups[kMaxExperts];
  int32_t order[kMaxExperts];
  for (int64_t g = 0; g < rule.num_groups; ++g)
    groups[g] = group_score(rule, choice + g * size, size);
  take_best(groups, rule.num_groups, rule.num_groups, order);
  for (int64_t i = rule.top_groups; i < rule.num_groups; ++i)
    std::fill_n(choice + order[i] * size, size, kNever);
}

// A row with NaN logits chooses the first experts with the weights it has: the step's own check of
// logits reports it.
void route_token(const RouterArgs& args, int64_t token) {
  const RouterRule& rule = args.rule;
  const int64_t n = args.num_experts;
  float scores[kMaxExperts], choice[kMaxExperts];
  score(args, args.logits + token * n, scores);
  for (int64_t e = 0; e < n; ++e) {
    choice[e] = scores[e] + (args.correction_bias != nullptr ? args.correction_bias[e] : 0.0F);
    if (std::isnan(choice[e])) choice[e] = std::numeric_limits<float>::lowest();
  }
  if (rule.num_groups > 1) keep_best_groups(rule, choice, n);
  int32_t* ids = args.ids + token * rule.top_k;
  float* weights = args.weights + token * rule.top_k;
  take_best(choice, n, rule.top_k, ids);
  float sum = 0;
  for (int64_t k = 0; k < rule.top_k; ++k) {
    weights[k] = scores[ids[k]];
    if (rule.scoring == ExpertScoring::kSoftmaxTopK)
      weights[k] = std::exp(weights[k] - scores[ids[0]]);
    sum += weights[k];
  }
  const bool normalize = rule.renormalize || rule.scoring == ExpertScoring::kSoftmaxTopK;
  const float factor = (normalize ? 1.0F / std::max(sum, 1e-20F) : 1.0F) * rule.scale;
  for (int64_t k = 0; k < rule.top_k; ++k) weights[k] *= factor;
}

}  // namespace

void route(const RouterArgs& args, Range tokens) {
  for (int64_t token = tokens.begin; token < tokens.end; ++token) route_token(args, token);
}

void combine_experts(const CombineArgs& args, Range tokens) {
  for (int64_t token = tokens.begin; token < tokens.end; ++token) {
    float* out = args.out + token * args.size;
    if (!args.add) std::fill_n(out, args.size, 0.0F);
    for (int64_t k = 0; k < args.top_k; ++k) {
      const int64_t pair = token * args.top_k + k;
      const float* row = args.rows + args.row_of[pair] * args.size;
      const float weight = args.weights[pair];
      for (int64_t i = 0; i < args.size; ++i) out[i] += weight * row[i];
    }
  }
}

void clamped_swiglu(const float* gate_up, float* out, int64_t n, float limit, Range rows) {
  constexpr float kAlpha = 1.702F;  // GPT-OSS's swiglu, openai/gpt-oss model.py
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for (int64_t i = 0; i < n; ++i) {
      const float gate = std::min(gate_up[row * 2 * n + i], limit);
      const float up = std::clamp(gate_up[row * 2 * n + n + i], -limit, limit);
      out[row * n + i] = (up + 1.0F) * gate / (1.0F + std::exp(-kAlpha * gate));
    }
  }
}

}  // namespace atom::cpu
