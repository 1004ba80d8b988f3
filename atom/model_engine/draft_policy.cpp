#include "atom/model_engine/draft_policy.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <span>

#include "atom/core/check.h"

namespace atom {
namespace {

constexpr int kFirstSteps = 16;  // of the longest drafts, before anything else is tried
constexpr int kTrialSteps = 8;
constexpr int kFewSteps = 12;     // between the first trials, until every candidate is measured ...
constexpr int kFirstTrials = 16;  // of a load
constexpr int kLeastSteps = 64;
constexpr int kMostSteps = 2048;      // ... and after: as many as keep
constexpr double kTrialCost = 0.005;  // ... trials of what is worse below this share of all steps
constexpr int kTrustedSteps =
    2 * (kTrialSteps - 1);           // measured before a length takes the best one's place
constexpr double kMargin = 1.02;     // by which it must be better
constexpr double kCostWindow = 64;   // steps that a relative cost remembers
constexpr double kSurprise = 0.15;   // a trial that differs so much makes it forget all
constexpr double kGainWindow = 512;  // sequences, each step anew, that a gain remembers
// A step counts as this many times the median at most: somebody else had the processor. Looked up
// drafts are longer or shorter, and so are their steps.
constexpr double kLayerOutlier = 1.5;
constexpr double kLookupOutlier = 4.0;
// What other lengths are tried: none, and those near the best.
constexpr int kNumCandidates = 5;

int candidate(int index, int best, int max_tokens) {
  const int lengths[kNumCandidates] = {0, best + 1, best - 1, best * 2, best / 2};
  return std::clamp(lengths[index], 0, max_tokens);
}

// Exact up to 8, then four for each doubling.
size_t load_index(int64_t num_sequences) {
  const auto n = static_cast<uint64_t>(std::max<int64_t>(num_sequences, 1));
  if (n <= 8) {
    return n;
  }
  const int octave = std::bit_width(n) - 1;
  return static_cast<size_t>(4 * octave) + (n >> (octave - 2) & 3) - 3;
}

}  // namespace

void DraftPolicy::Mean::add(double new_value, double new_weight, double window) {
  weight = std::min(weight + new_weight, std::max(window, new_weight));
  value += (new_value - value) * new_weight / weight;
}

void DraftPolicy::Samples::add(const Sample& sample) {
  samples_[static_cast<size_t>(next_)] = sample;
  next_ = (next_ + 1) % kMost;
  size_ = std::min(size_ + 1, kMost);
}

double DraftPolicy::Samples::mean(double outlier) const {
  std::array<double, kMost> sorted{};
  const auto count = static_cast<size_t>(size_);
  std::transform(samples_.begin(), samples_.begin() + size_, sorted.begin(),
                 [](const Sample& sample) { return sample.seconds; });
  const auto middle = sorted.begin() + size_ / 2;
  std::nth_element(sorted.begin(), middle, sorted.begin() + size_);
  double seconds = 0;
  double units = 0;
  for (const Sample& sample : std::span(samples_).first(count)) {
    seconds += std::min(sample.seconds, outlier * *middle);
    units += sample.units;
  }
  return units > 0 ? seconds / units : 0;
}

DraftPolicy::DraftPolicy(int max_tokens, bool adaptive, bool draft_layer)
    : max_tokens_(max_tokens), adaptive_(adaptive), draft_layer_(draft_layer) {
  ATOM_CHECK(max_tokens >= 1 && max_tokens <= kMaxDraftTokens) << max_tokens;
}

// A load that is new begins with what the nearest one knows.
DraftPolicy::Load& DraftPolicy::load_of(int64_t num_sequences) {
  const size_t index = load_index(num_sequences);
  if (index >= loads_.size()) {
    loads_.resize(index + 1);
    current_ = nullptr;
  }
  Load& load = loads_[index];
  if (load.known) {
    return load;
  }
  const Load* nearest = nullptr;
  size_t distance = loads_.size();
  for (size_t i = 0; i < loads_.size(); ++i) {
    const size_t away = i > index ? i - index : index - i;
    if (loads_[i].known && loads_[i].recent.size() > 0 && away < distance) {
      nearest = &loads_[i];
      distance = away;
    }
  }
  load.known = true;
  load.best = max_tokens_;
  load.steps_to_trial = kFirstSteps;
  if (nearest != nullptr) {
    load.best = nearest->best;
    load.cost = nearest->cost;
    for (Mean& cost : load.cost) {
      cost.weight = std::min<double>(cost.weight, kTrialSteps);
    }
  }
  load.cost[at(load.best)] = {.value = 1, .weight = kCostWindow};
  return load;
}

double DraftPolicy::gain(int length) const {
  if (!draft_layer_ || length == 0) {
    return 1;
  }
  const Mean& seen = gains_[0][at(length)];
  const Mean& behind = gains_[1][at(length)];
  const double of_seen = seen.weight > 0 ? seen.value : behind.value;
  const double of_behind = behind.weight > 0 ? behind.value : seen.value;
  return of_seen + share_behind_ * (of_behind - of_seen);
}

int DraftPolicy::choose(const DraftLoad& now) {
  if (!adaptive_) {
    return max_tokens_;
  }
  Load& load = load_of(now.num_sequences);
  share_behind_ = now.num_sequences > 0
                      ? static_cast<double>(now.num_behind) / static_cast<double>(now.num_sequences)
                      : 0;
  if (load.trial_steps == 0) {
    choose_best(load);
  }
  const int length = load.trial_steps > 0 ? load.trial : load.best;
  is_steady_ = length == length_;
  current_ = &load;
  length_ = length;
  return length;
}

void DraftPolicy::choose_best(Load& load) const {
  int best = load.best;
  double least = rate(load, best) * kMargin;
  for (int length = 0; length <= max_tokens_; ++length) {
    if (length != load.best && is_measured(load, length) && rate(load, length) > least) {
      best = length;
      least = rate(load, length);
    }
  }
  if (best == load.best) {
    return;
  }
  const double unit = load.cost[at(best)].value;
  for (Mean& cost : load.cost) {
    cost.value /= unit;
  }
  load.best = best;
  load.recent.clear();
  load.steps_to_trial = kFewSteps;
}

void DraftPolicy::observe(const DraftStep& step) {
  if (!adaptive_ || current_ == nullptr || step.seconds <= 0 || step.load.num_sequences <= 0) {
    return;
  }
  // The first step of a length verifies what was drafted under the one before.
  if (is_steady_) {
    Load& load = *current_;
    const double seconds = length_ == 0 ? step.seconds - step.draft_seconds : step.seconds;
    const int64_t units = draft_layer_ ? step.load.num_sequences : step.num_tokens;
    (load.trial_steps > 0 ? load.tried : load.recent)
        .add({.seconds = seconds, .units = static_cast<double>(units)});
    const int64_t sequences[] = {step.load.num_sequences - step.load.num_behind,
                                 step.load.num_behind};
    const int64_t tokens[] = {step.num_tokens - step.num_tokens_behind, step.num_tokens_behind};
    for (size_t i = 0; i < 2 && length_ > 0; ++i) {
      if (sequences[i] > 0) {
        const auto count = static_cast<double>(sequences[i]);
        gains_[i][at(length_)].add(static_cast<double>(tokens[i]) / count, count, kGainWindow);
      }
    }
  }
  advance(*current_);
}

void DraftPolicy::advance(Load& load) {
  if (load.trial_steps > 0) {
    if (--load.trial_steps == 0) {
      end_trial(load);
    }
    return;
  }
  --load.steps_to_trial;
  // What a draft layer is worth shows where it has seen everything.
  const bool waits = load.steps_to_trial > -kLeastSteps && load.best == 0 && share_behind_ > 0.5;
  if (load.steps_to_trial <= 0 && load.recent.size() >= kTrialSteps && !waits) {
    start_trial(load);
  }
}

void DraftPolicy::end_trial(Load& load) const {
  const double outlier = draft_layer_ ? kLayerOutlier : kLookupOutlier;
  const double usual = load.recent.mean(outlier);
  const double tried = load.tried.mean(outlier);
  if (usual > 0 && tried > 0) {
    Mean& cost = load.cost[at(load.trial)];
    if (std::abs(tried / usual - cost.value) > kSurprise * cost.value) {
      cost.weight = 0;
    }
    cost.add(tried / usual, load.tried.size(), kCostWindow);
  }
  const Trial next = next_trial(load);
  load.steps_to_trial = ++load.num_trials <= kFirstTrials ? kFewSteps : kLeastSteps;
  if (is_measured(load, next.length)) {
    const double loss = 1 - rate(load, next.length) / rate(load, load.best);
    load.steps_to_trial = static_cast<int>(
        std::clamp<double>(kTrialSteps * loss / kTrialCost, kLeastSteps, kMostSteps));
  }
}

bool DraftPolicy::is_measured(const Load& load, int length) {
  return load.cost[at(length)].weight >= kTrustedSteps;
}

// Candidates take turns, those that are not known well enough before others.
DraftPolicy::Trial DraftPolicy::next_trial(const Load& load) const {
  Trial chosen;
  for (int i = 0; i < kNumCandidates; ++i) {
    const int index = (load.next_candidate + i) % kNumCandidates;
    const int length = candidate(index, load.best, max_tokens_);
    if (length == load.best) {
      continue;
    }
    if (chosen.length < 0 || !is_measured(load, length)) {
      chosen = {.length = length, .index = index};
    }
    if (!is_measured(load, length)) {
      break;
    }
  }
  return chosen;
}

void DraftPolicy::start_trial(Load& load) const {
  const Trial trial = next_trial(load);
  load.next_candidate = (trial.index + 1) % kNumCandidates;
  load.trial = trial.length;
  load.trial_steps = kTrialSteps;
  load.tried.clear();
}

}  // namespace atom
