#include <gtest/gtest.h>

#include <cmath>

#include "atom/model_ops/layers.h"

namespace atom {
namespace {

TEST(Rotary, PlainFrequencies) {
  const auto rotary = RotaryEmbedding::create({.theta = 10000.0}, 8);
  ASSERT_EQ(rotary.inv_freq.size(), 4U);
  EXPECT_FLOAT_EQ(rotary.inv_freq[0], 1.0F);
  EXPECT_FLOAT_EQ(rotary.inv_freq[1], 0.1F);
  EXPECT_FLOAT_EQ(rotary.inv_freq[3], 0.001F);
}

TEST(Rotary, LinearScalingDividesAll) {
  const auto rotary = RotaryEmbedding::create(
      {.theta = 10000.0, .scaling = RopeConfig::Scaling::kLinear, .factor = 4.0}, 8);
  EXPECT_FLOAT_EQ(rotary.inv_freq[0], 0.25F);
}

// Values of the rule of transformers' rope_type "llama3" for theta 500000, head_dim 16, original
// context 64.
TEST(Rotary, Llama3KeepsShortWavelengthsAndDividesLongOnes) {
  const RopeConfig rope{.theta = 500000.0,
                        .scaling = RopeConfig::Scaling::kLlama3,
                        .factor = 8.0,
                        .low_freq_factor = 1.0,
                        .high_freq_factor = 4.0,
                        .original_max_position_embeddings = 64};
  const auto scaled = RotaryEmbedding::create(rope, 16);
  const auto plain = RotaryEmbedding::create({.theta = 500000.0}, 16);
  EXPECT_FLOAT_EQ(scaled.inv_freq[0], plain.inv_freq[0]);         // wavelength 6.3 < 16
  EXPECT_FLOAT_EQ(scaled.inv_freq[7], plain.inv_freq[7] / 8.0F);  // far above 64
  EXPECT_FLOAT_EQ(scaled.inv_freq[1], 0.0794030092F);             // 32.4: between
  EXPECT_FLOAT_EQ(scaled.inv_freq[2], 0.00470075387F);            // 167: divided
}

// Values of the rule of transformers' rope_type "yarn" for DeepSeek-V3's numbers.
TEST(Rotary, YarnKeepsFastFrequenciesAndDividesSlowOnes) {
  const RopeConfig rope{.theta = 10000.0,
                        .scaling = RopeConfig::Scaling::kYarn,
                        .factor = 40.0,
                        .original_max_position_embeddings = 4096,
                        .attention_factor = 1.25};
  const auto rotary = RotaryEmbedding::create(rope, 64);
  EXPECT_FLOAT_EQ(rotary.scale, 1.25F);
  EXPECT_FLOAT_EQ(rotary.inv_freq[0], 1.0F);
  EXPECT_FLOAT_EQ(rotary.inv_freq[10], 0.0562341325F);    // the last that is kept
  EXPECT_FLOAT_EQ(rotary.inv_freq[11], 0.0390069266F);    // between
  EXPECT_FLOAT_EQ(rotary.inv_freq[23], 3.33380358e-05F);  // divided
  EXPECT_FLOAT_EQ(rotary.inv_freq[31], 3.33380358e-06F);
}

TEST(Rotary, GgufDivisorsApplyPerFrequency) {
  const auto rotary =
      RotaryEmbedding::create({.theta = 10000.0, .freq_divisors = {1.0F, 2.0F, 4.0F, 8.0F}}, 8);
  EXPECT_FLOAT_EQ(rotary.inv_freq[0], 1.0F);
  EXPECT_FLOAT_EQ(rotary.inv_freq[3], 0.001F / 8.0F);
}

}  // namespace
}  // namespace atom
