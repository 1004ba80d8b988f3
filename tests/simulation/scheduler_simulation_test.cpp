// Thousands of seeded lives of the scheduler. A failing seed is printed; ATOM_SIM_SEED=<seed>
// replays it alone, ATOM_SIM_COUNT=<n> changes how many there are.
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include "tests/simulation/simulation.h"

namespace atom::simulation {
namespace {

constexpr uint64_t kDefaultCount = 20'000;

TEST(SchedulerSimulation, EveryScheduleGivesTheOraclesAnswers) {
  uint64_t first = 1;
  uint64_t count = kDefaultCount;
  if (const char* seed = std::getenv("ATOM_SIM_SEED")) {
    first = std::strtoull(seed, nullptr, 10);
    count = 1;
  } else if (const char* number = std::getenv("ATOM_SIM_COUNT")) {
    count = std::strtoull(number, nullptr, 10);
  }
  Totals totals;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    const std::string fault = Simulation(seed).run(totals);
    ASSERT_EQ(fault, "") << "replay with ATOM_SIM_SEED=" << seed;
  }
  std::cout << count << " schedules, " << totals.steps << " steps, " << totals.tokens << " tokens, "
            << totals.preemptions << " preemptions, " << totals.cache_hits << " cached tokens, "
            << totals.ahead << " rows ahead, " << totals.forks << " requests with n > 1, "
            << totals.aborts << " aborts, " << totals.failures << " failed steps, "
            << totals.bad_rows << " bad rows, " << totals.lost_memories
            << " allocations that failed, " << totals.drafts[1] << " + " << totals.drafts[2]
            << " draft tokens (mtp, ngram), " << totals.accepted[1] << " + " << totals.accepted[2]
            << " accepted\n";
  if (count >= kDefaultCount) {
    // The series is worth something only if it reaches all of this.
    EXPECT_GT(totals.preemptions, 5'000);
    EXPECT_GT(totals.cache_hits, 100'000);
    EXPECT_GT(totals.ahead, 100'000);
    EXPECT_GT(totals.forks, 1'000);
    EXPECT_GT(totals.aborts, 1'000);
    EXPECT_GT(totals.failures, 500);
    EXPECT_GT(totals.bad_rows, 500);
    EXPECT_GT(totals.lost_memories, 500);
    EXPECT_EQ(totals.drafts[0], 0);
    for (const size_t method : {1U, 2U}) {
      EXPECT_GT(totals.accepted[method], 40'000);
      EXPECT_GT(totals.drafts[method] - totals.accepted[method], 50'000);
    }
  }
}

class NegativeControl : public testing::TestWithParam<Sabotage> {};

TEST_P(NegativeControl, IsFound) {
  int found = 0;
  Totals totals;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    found += Simulation(seed, GetParam()).run(totals).empty() ? 0 : 1;
  }
  // Some lives are over before the bug strikes, or have nothing it could strike.
  EXPECT_GE(found, 20);
}

INSTANTIATE_TEST_SUITE_P(All, NegativeControl,
                         testing::Values(Sabotage::kSwapBlocks, Sabotage::kSkipToken,
                                         Sabotage::kForeignBlock, Sabotage::kStaleRow,
                                         Sabotage::kWrongToken, Sabotage::kLostUpdate,
                                         Sabotage::kDoubledUpdate, Sabotage::kKeepMemory,
                                         Sabotage::kWrongAccept, Sabotage::kStaleDraftKv,
                                         Sabotage::kLostDraftRow, Sabotage::kMixedDrafts));

}  // namespace
}  // namespace atom::simulation
