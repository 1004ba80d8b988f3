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

TEST(Rotary, GgufDivisorsApplyPerFrequency) {
  const auto rotary =
      RotaryEmbedding::create({.theta = 10000.0, .freq_divisors = {1.0F, 2.0F, 4.0F, 8.0F}}, 8);
  EXPECT_FLOAT_EQ(rotary.inv_freq[0], 1.0F);
  EXPECT_FLOAT_EQ(rotary.inv_freq[3], 0.001F / 8.0F);
}

}  // namespace
}  // namespace atom
