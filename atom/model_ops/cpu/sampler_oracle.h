// The brute-force oracle of the sampler tests: a full sort in double precision. Only for tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "atom/model_ops/cpu/philox.h"
#include "atom/model_ops/sampler.h"

namespace atom::oracle {

using Row = std::vector<float>;

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline Row random_logits(size_t vocab_size, uint32_t seed, float scale = 2.0F) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, scale);
  Row row(vocab_size);
  std::ranges::generate(row, [&] { return normal(random); });
  return row;
}

// Logits after biases, bans and penalties.
inline Row edited_logits(Row logits, const SamplingRow& row) {
  for (size_t id = 0; id < logits.size() && !row.token_bitmask.empty(); ++id) {
    if ((row.token_bitmask[id / 32] >> (id % 32) & 1U) == 0) {
      logits[id] = -kInfinity;
    }
  }
  for (const auto& [id, bias] : row.logit_bias) {
    logits[static_cast<size_t>(id)] += bias;
  }
  for (const int32_t id : row.banned_token_ids) {
    logits[static_cast<size_t>(id)] = -kInfinity;
  }
  for (size_t id = 0; id < logits.size(); ++id) {
    const auto token = static_cast<int32_t>(id);
    const auto generated = std::ranges::count(row.output_token_ids, token);
    const bool seen = generated > 0 || std::ranges::count(row.prompt_token_ids, token) > 0;
    if (seen && row.repetition_penalty != 1.0F) {
      logits[id] = logits[id] > 0 ? logits[id] / row.repetition_penalty
                                  : logits[id] * row.repetition_penalty;
    }
    logits[id] -= row.frequency_penalty * static_cast<float>(generated);
    logits[id] -= generated > 0 ? row.presence_penalty : 0.0F;
  }
  return logits;
}

// The probability of every token that may be drawn.
inline std::map<int32_t, double> distribution(const Row& raw, const SamplingRow& row) {
  const Row logits = edited_logits(raw, row);
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return logit(a) > logit(b); });
  if (row.temperature < 1e-5F) {
    return {{order[0], 1.0}};
  }
  if (row.top_k > 0 && static_cast<size_t>(row.top_k) < order.size()) {
    order.resize(static_cast<size_t>(row.top_k));
  }
  std::vector<double> weights;
  const double max = logit(order[0]);
  for (const int32_t id : order) {
    weights.push_back(std::exp((logit(id) - max) / static_cast<double>(row.temperature)));
  }
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  size_t keep = 0;
  for (double mass = 0.0; keep < order.size() && (keep == 0 || row.top_p >= 1.0F ||
                                                  mass < static_cast<double>(row.top_p) * total);) {
    mass += weights[keep++];
  }
  std::map<int32_t, double> kept;
  double kept_total = 0.0;
  for (size_t i = 0; i < keep; ++i) {
    if (weights[i] >= static_cast<double>(row.min_p) && weights[i] > 0.0) {
      kept[order[i]] = weights[i];
      kept_total += weights[i];
    }
  }
  for (auto& [id, weight] : kept) {
    weight /= kept_total;
  }
  return kept;
}

// The token that the draw must give, or -1 when the random number is too near a boundary to say.
inline int32_t token(const std::map<int32_t, double>& probabilities, const SamplingRow& row) {
  const double u = uniform_draw(row.seed, row.position);
  double cumulative = 0.0;
  for (const auto& [id, probability] : probabilities) {
    cumulative += probability;
    if (std::abs(u - cumulative) < 1e-5) {
      return -1;
    }
    if (u < cumulative) {
      return id;
    }
  }
  return -1;
}

// Natural logarithm of the probability of `id` in the raw logits.
inline double logprob(const Row& logits, int32_t id) {
  const double max = *std::ranges::max_element(logits);
  double total = 0.0;
  for (const float logit : logits) {
    total += std::exp(logit - max);
  }
  return logits[static_cast<size_t>(id)] - max - std::log(total);
}

}  // namespace atom::oracle
