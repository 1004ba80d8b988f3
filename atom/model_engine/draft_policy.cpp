#include "atom/model_engine/draft_policy.h"

#include <algorithm>
#include <bit>

#include "atom/core/check.h"

namespace atom {
namespace {

constexpr int kWindow = 32;      // steps that a mean remembers
constexpr int kFirstSteps = 24;  // of the longest drafts, before anything else is tried
constexpr int kTrialSteps = 8;
constexpr int kFewSteps = 24;    // between trials until every candidate has been measured ...
constexpr int kManySteps = 256;  // ... and after
// A step counts as this many times the mean at most: somebody else had the processor. Where all
// take longer the mean follows.
constexpr double kOutlier = 4.0;
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

void DraftPolicy::Measured::add(double new_tokens, double new_seconds) {
  if (count > 4) {
    new_seconds = std::min(new_seconds, kOutlier * seconds);
  }
  count = std::min(count + 1, kWindow);
  tokens += (new_tokens - tokens) / count;
  seconds += (new_seconds - seconds) / count;
}

DraftPolicy::DraftPolicy(int max_tokens, bool adaptive)
    : max_tokens_(max_tokens), adaptive_(adaptive) {
  ATOM_CHECK(max_tokens >= 1 && max_tokens <= kMaxDraftTokens) << max_tokens;
}

DraftPolicy::Load& DraftPolicy::load_of(int64_t num_sequences) {
  const size_t index = load_index(num_sequences);
  if (index >= loads_.size()) {
    loads_.resize(index + 1, Load{.best = max_tokens_, .steps_to_trial = kFirstSteps});
    current_ = nullptr;
  }
  return loads_[index];
}

int DraftPolicy::choose(int64_t num_sequences) {
  if (!adaptive_) {
    return max_tokens_;
  }
  Load& load = load_of(num_sequences);
  const int length = load.trial_steps > 0 ? load.trial : load.best;
  num_steady_ = &load == current_ && length == length_ ? num_steady_ + 1 : 0;
  current_ = &load;
  length_ = length;
  return length;
}

void DraftPolicy::observe(int64_t num_tokens, double seconds, double draft_seconds) {
  if (!adaptive_ || current_ == nullptr || seconds <= 0) {
    return;
  }
  // The first step of a length verifies what was drafted under the one before.
  if (num_steady_ > 0) {
    Measured& measured = current_->by_length[static_cast<size_t>(length_)];
    measured.add(static_cast<double>(num_tokens), length_ == 0 ? seconds - draft_seconds : seconds);
    if (length_ == current_->best && ++current_->steps_of_best == kWindow) {
      current_->reference = measured.seconds;
    }
  }
  advance(*current_);
}

void DraftPolicy::advance(Load& load) {
  if (load.trial_steps > 0) {
    if (--load.trial_steps == 0) {
      choose_best(load);
    }
  } else if (--load.steps_to_trial <= 0) {
    choose_best(load);
    start_trial(load);
  }
}

void DraftPolicy::start_trial(Load& load) {
  bool all_measured = true;
  for (int i = 0; i < kNumCandidates; ++i) {
    const int length = candidate(i, load.best, max_tokens_);
    if (length != load.best && load.by_length[static_cast<size_t>(length)].count == 0) {
      all_measured = false;
      load.next_candidate = i;
      break;
    }
  }
  for (int i = 0; i < kNumCandidates; ++i) {
    load.trial = candidate(load.next_candidate, load.best, max_tokens_);
    load.next_candidate = (load.next_candidate + 1) % kNumCandidates;
    if (load.trial != load.best) {
      load.trial_steps = kTrialSteps;
      break;
    }
  }
  load.steps_to_trial = all_measured ? kManySteps : kFewSteps;
}

// Contexts grow, and with them the time of every step: what other lengths took is what they would
// take now when it has changed as that of the best.
void DraftPolicy::choose_best(Load& load) const {
  const double now = load.by_length[static_cast<size_t>(load.best)].seconds;
  if (load.reference > 0) {
    for (int length = 0; length <= max_tokens_; ++length) {
      load.by_length[static_cast<size_t>(length)].seconds *=
          length == load.best ? 1 : now / load.reference;
    }
    load.reference = now;
  }
  int best = load.best;
  for (int length = 0; length <= max_tokens_; ++length) {
    if (load.by_length[static_cast<size_t>(length)].rate() >
        load.by_length[static_cast<size_t>(best)].rate()) {
      best = length;
    }
  }
  if (best != load.best) {
    load.best = best;
    load.steps_of_best = 0;
    load.reference = 0;
  }
}

}  // namespace atom
