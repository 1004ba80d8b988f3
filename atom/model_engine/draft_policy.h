// DraftPolicy: how many tokens it pays to draft at the present load. Verifying drafts costs time
// that grows with the number of sequences, and what it brings depends on how many are accepted; so
// both are measured, by number of decoding sequences and length of drafts, and the length that
// brought most tokens a second is used. Others are tried now and then. Pure: time is passed in.
// Owned by the Scheduler.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "atom/model_engine/draft_stats.h"

namespace atom {

class DraftPolicy {
 public:
  // max_tokens: the longest draft, 1 to kMaxDraftTokens. Without `adaptive` it is always taken.
  DraftPolicy(int max_tokens, bool adaptive);

  // The length of drafts for a step of so many decoding sequences.
  int choose(int64_t num_sequences);
  // After choose() said 0: whether that is for good, or to see what it brings.
  bool gave_up() const { return adaptive_ && length_ == 0 && current_->trial_steps == 0; }
  // A step of decoding sequences alone that ran with what choose() said last: the tokens that it
  // brought and its time; draft_seconds of it went into drafting, which ends when that is given up.
  void observe(int64_t num_tokens, double seconds, double draft_seconds);

 private:
  struct Measured {  // means that forget
    double tokens = 0;
    double seconds = 0;
    int count = 0;
    void add(double new_tokens, double new_seconds);
    double rate() const { return seconds > 0 ? tokens / seconds : 0; }
  };
  struct Load {  // some number of sequences
    std::array<Measured, kMaxDraftTokens + 1> by_length{};
    int best = 0;
    int steps_of_best = 0;  // since it is the best
    // Mean time of its steps when the others' were last brought in line with it; 0: not yet.
    double reference = 0;
    int steps_to_trial = 0;
    int trial = 0;  // a length, for trial_steps more steps
    int trial_steps = 0;
    int next_candidate = 0;
  };
  Load& load_of(int64_t num_sequences);
  void advance(Load& load);
  void start_trial(Load& load);
  void choose_best(Load& load) const;

  int max_tokens_;
  bool adaptive_;
  std::vector<Load> loads_;
  Load* current_ = nullptr;
  int length_ = 0;
  int num_steady_ = 0;  // steps in a row at one load and length
};

}  // namespace atom
