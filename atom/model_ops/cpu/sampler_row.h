// Samples from one row of logits. Not parallel and not batched: sampler_ops.h runs it over the
// rows. A row is changed in place (biases, penalties) and restored, so that logprobs come from the
// raw logits. A filter never sorts the vocabulary: a small candidate list comes from the blocks
// with the highest maxima (sampler_select.h); where that is not enough, thresholds are found by
// bisection with vector passes. To add a filter: a step in SamplerRow::draw and the same rule in
// the brute-force oracle of the tests.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "atom/model_ops/cpu/sampler_select.h"
#include "atom/model_ops/sampler.h"

namespace atom {

// Reusable memory of one worker; a SamplerRow is used by one thread.
class SamplerRow {
 public:
  explicit SamplerRow(int64_t vocab_size);

  // logits [vocab_size]; same values afterwards.
  SampledToken sample(float* logits, const SamplingRow& row);
  // The logprob, rank and `num_top` most likely tokens, for a token that is given.
  SampledToken score(const float* logits, int32_t token_id, int32_t num_top);

 private:
  // The row with -inf where a bit is clear; the row itself is kept for logprobs.
  float* masked_copy(const float* logits, std::span<const uint32_t> bitmask);
  void set(float* logits, int32_t id, float value);
  bool in_vocab(int32_t id) const { return id >= 0 && id < vocab_size_; }
  void apply_edits(float* logits, const SamplingRow& row);
  void apply_penalties(float* logits, const SamplingRow& row);
  void restore(float* logits);

  int32_t draw(const float* logits, const SamplingRow& row);
  int32_t argmax(const float* logits) const;
  int32_t draw_unfiltered(const float* logits, const SamplingRow& row, const WeightParams& weights);
  // The filters on a candidate list; -1 when the list may be too short to hold the answer.
  int32_t draw_from_candidates(const float* logits, const SamplingRow& row,
                               const WeightParams& weights, int64_t num_candidates);
  // The filters on the whole vocabulary.
  int32_t draw_dense(const float* logits, const SamplingRow& row, const WeightParams& weights);
  bool top_k_on(const SamplingRow& row) const { return row.top_k > 0 && row.top_k < vocab_size_; }
  // Zeroes the weights outside the smallest set of tokens that weighs at least top_p of them all.
  void cut_nucleus(std::span<const float> x, float top_p, const WeightParams& weights);
  // Zeroes `excess` of the tokens that tie at `threshold`, highest ids first.
  void drop_ties(const float* logits, float threshold, int64_t excess);
  double total_weight() const;

  int64_t vocab_size_;
  const RowScanKernels& kernels_;
  bool broken_ = false;  // an edited logit was NaN
  RowMax max_{};         // of the row as it is now
  std::vector<float> block_max_;
  std::vector<float> block_sum_;
  std::vector<float> weights_;  // [vocab_size], only when a dense filter runs
  std::vector<float> masked_;   // [vocab_size], only when a row has a bitmask
  std::vector<Candidate> candidates_;
  std::vector<std::pair<int32_t, float>> edits_;  // id and the value before, in order
  std::vector<uint32_t> history_;  // [vocab_size], all zero between rows: occurrences of a token
  std::vector<int32_t> seen_;      // ids with a non-zero entry in history_
};

}  // namespace atom
