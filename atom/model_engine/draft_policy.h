// DraftPolicy: how many tokens it pays to draft at the present load. What a step with drafts takes
// depends on the number of decoding sequences, what it brings on how many drafts are accepted.
// Times are measured by number of sequences and length of drafts, always against steps of the
// length in use just before, as the machine's mood and the contexts change; what drafts of a draft
// layer bring is measured for all loads together. The length that brings most tokens a second is
// used. Others are tried as often as it costs 0.5 % at most. Pure: time is passed in. Owned by the
// Scheduler.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "atom/model_engine/draft_stats.h"

namespace atom {

// The sequences of a step, and those of them that the draft layer is behind with: it has not seen
// tokens which were computed while drafts were given up, and guesses worse.
struct DraftLoad {
  int64_t num_sequences = 0;
  int64_t num_behind = 0;
};

// A step of decoding sequences alone.
struct DraftStep {
  DraftLoad load;
  int64_t num_tokens = 0;  // that it brought
  int64_t num_tokens_behind =
      0;  // of these, those of sequences that the draft layer is behind with
  double seconds = 0;
  double draft_seconds = 0;  // of `seconds`: drafting, which ends when that is given up
};

class DraftPolicy {
 public:
  // max_tokens: the longest draft, 1 to kMaxDraftTokens. Without `adaptive` it is always taken.
  // draft_layer: drafts come from one, and not from the text.
  DraftPolicy(int max_tokens, bool adaptive, bool draft_layer);

  // The length of drafts for a step of these sequences.
  int choose(const DraftLoad& load);
  // After choose() said 0: whether that is for good, or to see what it brings.
  bool gave_up() const { return adaptive_ && length_ == 0 && current_->trial_steps == 0; }
  // A step that ran with what choose() said last.
  void observe(const DraftStep& step);

 private:
  struct Mean {  // forgets
    double value = 0;
    double weight = 0;
    void add(double new_value, double new_weight, double window);
  };
  // Times of some steps, and the tokens or sequences that they were for.
  struct Sample {
    double seconds = 0;
    double units = 0;
  };
  class Samples {
   public:
    void add(const Sample& sample);
    void clear() { size_ = next_ = 0; }
    int size() const { return size_; }
    // Seconds per unit; no step counts as more than `outlier` times the median.
    double mean(double outlier) const;

   private:
    static constexpr int kMost = 24;  // the latest
    std::array<Sample, kMost> samples_;
    int size_ = 0;
    int next_ = 0;
  };
  struct Load {  // some number of sequences
    bool known = false;
    // What a unit takes with drafts of a length, relative to the best; weight: steps.
    std::array<Mean, kMaxDraftTokens + 1> cost{};
    int best = 0;
    Samples recent;  // of the best
    int steps_to_trial = 0;
    int trial = 0;  // a length, for trial_steps more steps
    int trial_steps = 0;
    Samples tried;
    int next_candidate = 0;
    int num_trials = 0;
  };

  Load& load_of(int64_t num_sequences);
  // Tokens that a unit brings with drafts of this length at the present load.
  double gain(int length) const;
  double rate(const Load& load, int length) const {
    return gain(length) / load.cost[at(length)].value;
  }
  static size_t at(int length) { return static_cast<size_t>(length); }
  void choose_best(Load& load) const;
  void advance(Load& load);
  struct Trial {
    int length = -1;
    int index = 0;  // of the candidate
  };
  Trial next_trial(const Load& load) const;
  void start_trial(Load& load) const;
  void end_trial(Load& load) const;
  static bool is_measured(const Load& load, int length);

  int max_tokens_;
  bool adaptive_;
  bool draft_layer_;
  // Tokens of a sequence by length of drafts, [1] of those the draft layer is behind with.
  std::array<std::array<Mean, kMaxDraftTokens + 1>, 2> gains_{};
  std::vector<Load> loads_;
  Load* current_ = nullptr;
  double share_behind_ = 0;  // of the present load's sequences
  int length_ = 0;
  bool is_steady_ = false;  // as long as the step before
};

}  // namespace atom
