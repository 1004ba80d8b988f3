// DraftPolicy on a made-up machine whose every step takes another time: drafts that do not pay cost
// little, those that pay are kept, and a change of the load is noticed. Seeded.
#include "atom/model_engine/draft_policy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>

namespace atom {
namespace {

constexpr double kAccepted = 0.78;  // each draft after an accepted one
constexpr double kDrafting = 0.15;  // of a plain step: what the draft layer takes
constexpr int kSequences = 16;

class Machine {
 public:
  Machine(uint64_t seed, double noise) : random_(seed), noise_(noise) {}

  // The tokens that a policy brings in the time of one that a plain step brings: 1 without drafts.
  // Drafts of length k bring `gain` of that, a little less for each one more.
  double run(DraftPolicy& policy, double gain, int num_steps) {
    double tokens = 0;
    double seconds = 0;
    for (int i = 0; i < num_steps; ++i) {
      const int length = policy.choose({.num_sequences = kSequences});
      const int64_t brought = draw_tokens(length);
      const double disturbed = disturbance();
      double time = 1 + (policy.gave_up() ? 0 : kDrafting);
      if (length > 0) {
        time = mean_tokens(length) / gain * (1 + 0.02 * (length - 1));
      }
      policy.observe({.load = {.num_sequences = kSequences},
                      .num_tokens = brought,
                      .seconds = scale * time * disturbed,
                      .draft_seconds = scale * kDrafting * disturbed});
      tokens += static_cast<double>(brought);
      seconds += time;  // what it takes when nothing disturbs it
    }
    return tokens / seconds / kSequences;
  }

  double scale = 1;  // of every step's time: longer contexts, another machine's load

 private:
  static double mean_tokens(int length) {
    double mean = 1;
    for (int i = 1; i <= length; ++i) {
      mean += std::pow(kAccepted, i);
    }
    return mean;
  }
  int64_t draw_tokens(int length) {
    int64_t tokens = kSequences;
    for (int sequence = 0; sequence < kSequences; ++sequence) {
      for (int i = 0; i < length && uniform() < kAccepted; ++i) {
        ++tokens;
      }
    }
    return tokens;
  }
  double disturbance() {
    const double usual = std::exp(noise_ * std::normal_distribution<>()(random_));
    return uniform() < 0.05 ? usual * (1.5 + uniform()) : usual;
  }
  double uniform() { return std::uniform_real_distribution<>()(random_); }

  std::mt19937_64 random_;
  double noise_;
};

class DraftPolicyTest : public testing::TestWithParam<bool> {
 protected:
  DraftPolicy make(int max_tokens, bool adaptive = true) const {
    return {max_tokens, adaptive, GetParam()};
  }
};

TEST_P(DraftPolicyTest, TakesWhatPaysAndLeavesWhatDoesNot) {
  for (const int max_tokens : {1, 3, 8}) {
    for (const double noise : {0.02, 0.15}) {
      for (const double gain : {0.7, 0.85, 0.95, 1.0, 1.25, 1.6}) {
        SCOPED_TRACE(testing::Message()
                     << max_tokens << " tokens, noise " << noise << ", gain " << gain);
        double sum = 0;
        for (uint64_t seed = 1; seed <= 10; ++seed) {
          DraftPolicy policy = make(max_tokens);
          Machine machine(seed, noise);
          machine.run(policy, gain, 300);  // gets to know the machine
          sum += machine.run(policy, gain, 2000);
        }
        EXPECT_GT(sum / 10, gain > 1 ? 0.94 * gain : (noise > 0.1 ? 0.97 : 0.985));
      }
    }
  }
}

TEST_P(DraftPolicyTest, NoticesThatTheTextHasChanged) {
  DraftPolicy policy = make(2);
  Machine machine(1, 0.05);
  machine.run(policy, 1.5, 500);
  EXPECT_GT(policy.choose({.num_sequences = kSequences}), 0);
  machine.run(policy, 0.6, 2000);
  EXPECT_GT(machine.run(policy, 0.6, 1000), 0.95);
  machine.run(policy, 1.5, 2000);
  EXPECT_GT(machine.run(policy, 1.5, 1000), 1.3);
}

// Contexts of other lengths: every step takes longer, or less long, whatever is drafted.
TEST_P(DraftPolicyTest, IsNotMisledWhenAllStepsTakeLonger) {
  for (const double gain : {0.7, 1.5}) {
    for (const int num_steps : {100, 400, 1500}) {
      for (uint64_t seed = 1; seed <= 10; ++seed) {
        DraftPolicy policy = make(5);
        Machine machine(seed, 0.05);
        machine.run(policy, gain, 1500);
        for (const double scale : {3.0, 10.0, 30.0, 300.0, 1.0, 6.0}) {
          machine.scale = scale;
          machine.run(policy, gain, num_steps);
        }
        EXPECT_GT(machine.run(policy, gain, 3000), gain > 1 ? 0.9 * gain : 0.95)
            << "gain " << gain << ", phases of " << num_steps << ", seed " << seed;
      }
    }
  }
}

TEST_P(DraftPolicyTest, ALoadBeginsWithWhatItsNeighbourKnows) {
  for (const double gain : {0.7, 1.5}) {
    DraftPolicy policy = make(1);
    Machine machine(1, 0.05);
    machine.run(policy, gain, 1000);
    for (const int64_t num_sequences : {kSequences + 4, 1, 200}) {
      EXPECT_EQ(policy.choose({.num_sequences = num_sequences}), gain > 1 ? 1 : 0) << num_sequences;
    }
  }
}

TEST_P(DraftPolicyTest, IsConstantWhereItIsToldTo) {
  DraftPolicy policy = make(4, false);
  Machine machine(1, 0.1);
  machine.run(policy, 0.2, 500);
  EXPECT_EQ(policy.choose({.num_sequences = kSequences}), 4);
  EXPECT_FALSE(policy.gave_up());
}

INSTANTIATE_TEST_SUITE_P(Drafts, DraftPolicyTest, testing::Bool(), [](const auto& info) {
  return std::string(info.param ? "OfALayer" : "OfTheText");
});

// One sequence, a draft of which costs 60 %: pays where nine of ten are accepted, not where four
// are.
class OneSequence {
 public:
  explicit OneSequence(DraftPolicy& policy) : policy_(policy) {}

  // Steps of a sequence whose draft layer has seen everything until drafts are given up. The share
  // of steps that draft.
  double run(int num_steps) {
    bool behind = false;
    int num_drafting = 0;
    for (int i = 0; i < num_steps; ++i) {
      const int64_t num_behind = behind ? 1 : 0;
      const int length = policy_.choose({.num_sequences = 1, .num_behind = num_behind});
      behind = behind || policy_.gave_up();
      const bool accepted = length > 0 && uniform() < (num_behind > 0 ? 0.4 : 0.9);
      policy_.observe({.load = {.num_sequences = 1, .num_behind = num_behind},
                       .num_tokens = accepted ? 2 : 1,
                       .num_tokens_behind = accepted ? 2 * num_behind : num_behind,
                       .seconds = length > 0          ? 1.6
                                  : policy_.gave_up() ? 1.0
                                                      : 1.1,
                       .draft_seconds = policy_.gave_up() ? 0.0 : 0.1});
      num_drafting += length;
    }
    return num_drafting / static_cast<double>(num_steps);
  }

 private:
  double uniform() { return std::uniform_real_distribution<>()(random_); }

  DraftPolicy& policy_;
  std::mt19937_64 random_{1};
};

TEST(DraftPolicy, WhatSequencesMissedIsNotHeldAgainstOthers) {
  DraftPolicy policy(1, true, true);
  OneSequence machine(policy);
  EXPECT_GT(machine.run(2000), 0.9);
  // A sequence that is behind: drafts are tried, and left.
  for (int i = 0; i < 3000; ++i) {
    const int length = policy.choose({.num_sequences = 1, .num_behind = 1});
    policy.observe({.load = {.num_sequences = 1, .num_behind = 1},
                    .num_tokens = 1,
                    .num_tokens_behind = 1,
                    .seconds = length > 0 ? 1.6 : 1.0});
  }
  EXPECT_EQ(policy.choose({.num_sequences = 1, .num_behind = 1}), 0);
  EXPECT_GT(machine.run(500), 0.9);  // the next one is drafted for at once
}

}  // namespace
}  // namespace atom
