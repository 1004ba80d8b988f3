#include "atom/model_ops/cpu/sampler_row.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "atom/core/check.h"
#include "atom/model_ops/cpu/philox.h"

namespace atom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Below this a temperature means greedy, as in vLLM: 1 / temperature must stay finite.
constexpr float kGreedyTemperature = 1e-5F;
// Candidate list lengths tried for top-p before the whole vocabulary is looked at.
constexpr std::array<int64_t, 2> kNucleusGuesses = {32, 256};
// A longer list (many equal logits) is cheaper to filter densely than to sort.
constexpr size_t kMaxCandidates = 8192;
constexpr int64_t kMaxSortedTopK = 1024;

double sum(std::span<const float> values) {
  return std::accumulate(values.begin(), values.end(), 0.0, [](double total, float value) {
    return total + static_cast<double>(value);
  });
}

// The first index at which the running sum exceeds `target`, which is reduced by what lies before
// it; the last positive weight when rounding leaves none.
size_t pick(std::span<const float> weights, double& target) {
  size_t last = 0;
  double before = 0.0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] <= 0.0F) {
      continue;
    }
    const double after = before + static_cast<double>(weights[i]);
    last = i;
    if (after > target) {
      break;
    }
    before = after;
  }
  target -= std::min(before, target);
  return last;
}

}  // namespace

SamplerRow::SamplerRow(int64_t vocab_size)
    : vocab_size_(vocab_size),
      kernels_(row_scan_kernels()),
      block_max_(static_cast<size_t>(row_blocks(vocab_size))),
      block_sum_(block_max_.size()) {
  ATOM_CHECK(vocab_size > 0);
}

SampledToken SamplerRow::sample(float* logits, const SamplingRow& row) {
  float* const raw_logits = logits;
  if (!row.token_bitmask.empty()) {
    logits = masked_copy(logits, row.token_bitmask);
  }
  apply_edits(logits, row);
  max_ = kernels_.max(logits, vocab_size_, block_max_.data());
  SampledToken result;
  if (!broken_ && !max_.has_nan && max_.max > -kInfinity) {
    result.token_id = draw(logits, row);
  }
  restore(logits);
  if (result.token_id >= 0 && row.num_logprobs >= 0) {
    result = score(raw_logits, result.token_id, row.num_logprobs);
  }
  return result;
}

SampledToken SamplerRow::score(const float* logits, int32_t token_id, int32_t num_top) {
  ATOM_CHECK(in_vocab(token_id)) << token_id << " of " << vocab_size_;
  max_ = kernels_.max(logits, vocab_size_, block_max_.data());
  if (max_.has_nan || max_.max == -kInfinity) {
    return {};
  }
  kernels_.weights(logits, vocab_size_, {.max = max_.max}, block_sum_.data(), nullptr);
  const double log_total = std::log(total_weight());
  const auto logprob = [&](float logit) {
    const double distance =
        logit == max_.max ? 0.0 : static_cast<double>(logit) - static_cast<double>(max_.max);
    return static_cast<float>(distance - log_total);
  };
  const float logit = logits[token_id];
  const RowCount above = kernels_.count(logits, vocab_size_, logit);
  const RowCount before = kernels_.count(logits, token_id, logit);
  SampledToken result{.token_id = token_id, .logprobs = {}};
  result.logprobs.logprob = logprob(logit);
  result.logprobs.rank = static_cast<int32_t>(1 + above.greater + before.equal);
  select_top({logits, static_cast<size_t>(vocab_size_)}, block_max_, num_top, candidates_);
  result.logprobs.top.reserve(candidates_.size());
  for (const Candidate& candidate : candidates_) {
    result.logprobs.top.emplace_back(candidate.id, logprob(candidate.logit));
  }
  return result;
}

// --- changes to the logits
// -------------------------------------------------------------------------------

float* SamplerRow::masked_copy(const float* logits, std::span<const uint32_t> bitmask) {
  ATOM_CHECK(static_cast<int64_t>(bitmask.size()) == (vocab_size_ + 31) / 32);
  masked_.resize(static_cast<size_t>(vocab_size_));
  for (int64_t begin = 0; begin < vocab_size_; begin += 32) {
    const uint32_t word = bitmask[static_cast<size_t>(begin / 32)];
    float* const out = masked_.data() + begin;
    const int64_t count = std::min<int64_t>(32, vocab_size_ - begin);
    if (word == 0) {
      std::fill_n(out, count, -kInfinity);
      continue;
    }
    for (int64_t i = 0; i < count; ++i) {
      out[i] = (word >> i & 1U) != 0 ? logits[begin + i] : -kInfinity;
    }
  }
  return masked_.data();
}

void SamplerRow::set(float* logits, int32_t id, float value) {
  broken_ = broken_ || std::isnan(logits[id]);
  edits_.emplace_back(id, logits[id]);
  logits[id] = value;
}

void SamplerRow::apply_edits(float* logits, const SamplingRow& row) {
  edits_.clear();
  broken_ = false;
  for (const auto& [id, bias] : row.logit_bias) {
    if (in_vocab(id)) {
      set(logits, id, logits[id] + bias);
    }
  }
  for (const int32_t id : row.banned_token_ids) {
    if (in_vocab(id)) {
      set(logits, id, -kInfinity);
    }
  }
  if (row.repetition_penalty != 1.0F || row.frequency_penalty != 0.0F ||
      row.presence_penalty != 0.0F) {
    apply_penalties(logits, row);
  }
}

void SamplerRow::apply_penalties(float* logits, const SamplingRow& row) {
  constexpr uint32_t kSeen =
      1;  // a token was seen at all; two more for every time it was generated
  constexpr uint32_t kGenerated = 2;
  history_.resize(static_cast<size_t>(vocab_size_));
  const auto record = [&](int32_t id, uint32_t increment) {
    if (!in_vocab(id)) {
      return;
    }
    uint32_t& entry = history_[static_cast<size_t>(id)];
    if (entry == 0) {
      entry = kSeen;
      seen_.push_back(id);
    }
    entry += increment;
  };
  if (row.repetition_penalty != 1.0F) {
    for (const int32_t id : row.prompt_token_ids) {
      record(id, 0);
    }
  }
  for (const int32_t id : row.output_token_ids) {
    record(id, kGenerated);
  }
  for (const int32_t id : seen_) {
    const uint32_t count = std::exchange(history_[static_cast<size_t>(id)], 0) / kGenerated;
    float logit = logits[id];
    logit = logit > 0.0F ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    logit -= row.frequency_penalty * static_cast<float>(count);
    logit -= count > 0 ? row.presence_penalty : 0.0F;
    set(logits, id, logit);
  }
  seen_.clear();
}

void SamplerRow::restore(float* logits) {
  for (auto edit = edits_.rbegin(); edit != edits_.rend(); ++edit) {
    logits[edit->first] = edit->second;
  }
  edits_.clear();
}

// --- the draw
// --------------------------------------------------------------------------------------------

double SamplerRow::total_weight() const { return sum(block_sum_); }

int32_t SamplerRow::draw(const float* logits, const SamplingRow& row) {
  if (!(row.temperature >= kGreedyTemperature)) {
    return argmax(logits);
  }
  const WeightParams weights{
      .max = max_.max, .inv_temperature = 1.0F / row.temperature, .min_weight = 0.0F};
  const auto num_blocks = static_cast<int64_t>(block_max_.size());
  if (top_k_on(row)) {
    return row.top_k <= std::min(num_blocks, kMaxSortedTopK)
               ? draw_from_candidates(logits, row, weights, row.top_k)
               : draw_dense(logits, row, weights);
  }
  if (row.top_p >= 1.0F) {
    return draw_unfiltered(logits, row, weights);
  }
  kernels_.weights(logits, vocab_size_, weights, block_sum_.data(), nullptr);
  for (const int64_t guess : kNucleusGuesses) {
    const int32_t id = guess <= num_blocks ? draw_from_candidates(logits, row, weights, guess) : -1;
    if (id >= 0) {
      return id;
    }
  }
  return draw_dense(logits, row, weights);
}

int32_t SamplerRow::argmax(const float* logits) const {
  const auto block = std::find(block_max_.begin(), block_max_.end(), max_.max) - block_max_.begin();
  const float* const begin = logits + block * kRowBlock;
  const float* const end = logits + std::min(vocab_size_, (block + 1) * kRowBlock);
  return static_cast<int32_t>(std::find(begin, end, max_.max) - logits);
}

int32_t SamplerRow::draw_unfiltered(const float* logits, const SamplingRow& row,
                                    const WeightParams& weights) {
  WeightParams params = weights;
  params.min_weight = row.min_p;
  kernels_.weights(logits, vocab_size_, params, block_sum_.data(), nullptr);
  double target = uniform_draw(row.seed, row.position) * total_weight();
  const int64_t begin = static_cast<int64_t>(pick(block_sum_, target)) * kRowBlock;
  const int64_t count = std::min(kRowBlock, vocab_size_ - begin);
  std::array<float, kRowBlock> block{};
  float block_total = 0.0F;
  kernels_.weights(logits + begin, count, params, &block_total, block.data());
  return static_cast<int32_t>(begin + static_cast<int64_t>(pick(block, target)));
}

int32_t SamplerRow::draw_from_candidates(const float* logits, const SamplingRow& row,
                                         const WeightParams& weights, int64_t num_candidates) {
  const std::span<const float> x(logits, static_cast<size_t>(vocab_size_));
  const bool complete = top_k_on(row);  // top-k: nothing outside the list counts
  if (complete) {
    select_top(x, block_max_, num_candidates, candidates_);
  } else {
    collect_candidates(x, block_max_, num_candidates, candidates_);
    if (candidates_.size() > kMaxCandidates) {
      return -1;
    }
    std::sort(candidates_.begin(), candidates_.end(), ranks_before);
  }
  std::vector<float> values(candidates_.size());
  std::ranges::transform(candidates_, values.begin(), &Candidate::logit);
  std::vector<float> sums(static_cast<size_t>(row_blocks(static_cast<int64_t>(values.size()))));
  kernels_.weights(values.data(), static_cast<int64_t>(values.size()), weights, sums.data(),
                   values.data());

  size_t keep = values.size();
  if (row.top_p < 1.0F) {
    const double needed =
        static_cast<double>(row.top_p) * (complete ? sum(values) : total_weight());
    double mass = 0.0;
    keep = 0;
    while (keep < values.size() && (keep == 0 || mass < needed)) {
      mass += static_cast<double>(values[keep++]);
    }
    if (mass < needed && !complete) {
      return -1;
    }
  }
  while (keep > 1 && values[keep - 1] < row.min_p) {
    --keep;
  }
  // The draw walks the tokens by id, as everywhere: `logit` now holds the weight.
  candidates_.resize(keep);
  for (size_t i = 0; i < keep; ++i) {
    candidates_[i].logit = values[i];
  }
  std::ranges::sort(candidates_, {}, &Candidate::id);
  values.resize(keep);
  std::ranges::transform(candidates_, values.begin(), &Candidate::logit);
  double target = uniform_draw(row.seed, row.position) * sum(values);
  return candidates_[pick(values, target)].id;
}

int32_t SamplerRow::draw_dense(const float* logits, const SamplingRow& row,
                               const WeightParams& weights) {
  const std::span<const float> x(logits, static_cast<size_t>(vocab_size_));
  weights_.resize(x.size());
  kernels_.weights(logits, vocab_size_, weights, block_sum_.data(), weights_.data());
  if (top_k_on(row)) {
    const float threshold = kth_largest(kernels_, x, row.top_k, max_.max);
    const RowCount count = kernels_.count(logits, vocab_size_, threshold);
    kernels_.cut(logits, vocab_size_, threshold, weights_.data());
    drop_ties(logits, threshold, count.greater + count.equal - row.top_k);
  }
  if (row.top_p < 1.0F) {
    cut_nucleus(x, row.top_p, weights);
  }
  kernels_.sum(weights_.data(), vocab_size_, row.min_p, block_sum_.data());
  double target = uniform_draw(row.seed, row.position) * total_weight();
  const int64_t begin = static_cast<int64_t>(pick(block_sum_, target)) * kRowBlock;
  const int64_t count = std::min(kRowBlock, vocab_size_ - begin);
  const std::span<float> block(weights_.data() + begin, static_cast<size_t>(count));
  for (float& weight : block) {
    weight = weight >= row.min_p ? weight : 0.0F;
  }
  return static_cast<int32_t>(begin + static_cast<int64_t>(pick(block, target)));
}

void SamplerRow::cut_nucleus(std::span<const float> x, float top_p, const WeightParams& weights) {
  const float* const logits = x.data();
  const double total = kernels_.mass(logits, weights_.data(), vocab_size_, -kInfinity);
  const double needed = static_cast<double>(top_p) * total;
  const float threshold = mass_threshold(kernels_, x, weights_.data(), needed, max_.max);
  const float next = std::nextafter(threshold, kInfinity);
  const double above =
      threshold < max_.max ? kernels_.mass(logits, weights_.data(), vocab_size_, next) : 0.0;
  kernels_.cut(logits, vocab_size_, threshold, weights_.data());
  // Of the tokens that tie at the threshold, as many as are needed.
  float weight = 0.0F;
  kernels_.weights(&threshold, 1, weights, &weight, nullptr);
  int64_t ties = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    ties += x[i] == threshold && weights_[i] > 0.0F ? 1 : 0;
  }
  int64_t kept = above > 0.0 ? 0 : 1;
  while (kept < ties && above + static_cast<double>(kept) * static_cast<double>(weight) < needed) {
    ++kept;
  }
  drop_ties(logits, threshold, ties - kept);
}

void SamplerRow::drop_ties(const float* logits, float threshold, int64_t excess) {
  for (int64_t i = vocab_size_ - 1; i >= 0 && excess > 0; --i) {
    float& weight = weights_[static_cast<size_t>(i)];
    if (logits[i] == threshold && weight > 0.0F) {
      weight = 0.0F;
      --excess;
    }
  }
}

}  // namespace atom
