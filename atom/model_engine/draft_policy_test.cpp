// DraftPolicy on a made-up machine whose every step takes another time: drafts that do not pay cost
// little, those that pay are kept, and a change of the load is noticed. Seeded.
#include "atom/model_engine/draft_policy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

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
      const int length = policy.choose(kSequences);
      const int64_t brought = draw_tokens(length);
      const double disturbed = disturbance();
      double time = 1 + (policy.gave_up() ? 0 : kDrafting);
      if (length > 0) {
        time = mean_tokens(length) / gain * (1 + 0.02 * (length - 1));
      }
      policy.observe(brought, scale * time * disturbed, scale * kDrafting * disturbed);
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

TEST(DraftPolicy, TakesWhatPaysAndLeavesWhatDoesNot) {
  for (const int max_tokens : {1, 3, 8}) {
    for (const double noise : {0.02, 0.15}) {
      for (const double gain : {0.7, 0.85, 0.95, 1.0, 1.25, 1.6}) {
        SCOPED_TRACE(testing::Message()
                     << max_tokens << " tokens, noise " << noise << ", gain " << gain);
        double sum = 0;
        for (uint64_t seed = 1; seed <= 10; ++seed) {
          DraftPolicy policy(max_tokens, true);
          Machine machine(seed, noise);
          machine.run(policy, gain, 300);  // gets to know the machine
          sum += machine.run(policy, gain, 2000);
        }
        EXPECT_GT(sum / 10, gain > 1 ? 0.94 * gain : 0.97);
      }
    }
  }
}

TEST(DraftPolicy, NoticesThatTheTextHasChanged) {
  DraftPolicy policy(2, true);
  Machine machine(1, 0.05);
  machine.run(policy, 1.5, 500);
  EXPECT_GT(policy.choose(kSequences), 0);
  machine.run(policy, 0.6, 2000);
  EXPECT_GT(machine.run(policy, 0.6, 1000), 0.95);
  machine.run(policy, 1.5, 2000);
  EXPECT_GT(machine.run(policy, 1.5, 1000), 1.3);
}

// Contexts of other lengths: every step takes longer, or less long, whatever is drafted.
TEST(DraftPolicy, IsNotMisledWhenAllStepsTakeLonger) {
  for (const double gain : {0.7, 1.5}) {
    for (const int num_steps : {100, 400, 1500}) {
      for (uint64_t seed = 1; seed <= 10; ++seed) {
        DraftPolicy policy(5, true);
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

TEST(DraftPolicy, IsConstantWhereItIsToldTo) {
  DraftPolicy policy(4, false);
  Machine machine(1, 0.1);
  machine.run(policy, 0.2, 500);
  EXPECT_EQ(policy.choose(kSequences), 4);
  EXPECT_FALSE(policy.gave_up());
}

}  // namespace
}  // namespace atom
