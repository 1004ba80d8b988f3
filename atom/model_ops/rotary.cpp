// Rotary frequencies and their scaling rules. To add a rule: an enum value in RopeConfig, a reader
// row in model_loader/hf_config, a function here.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "atom/core/check.h"
#include "atom/model_ops/layers.h"

namespace atom {
namespace {

// Llama 3.1: long wavelengths are divided by `factor`, short ones kept, the band between
// interpolated. Source: transformers modeling_rope_utils, rope_type "llama3".
float scale_llama3(float inv_freq, const RopeConfig& rope) {
  const double context = static_cast<double>(rope.original_max_position_embeddings);
  const double wavelength = 2.0 * std::numbers::pi / inv_freq;
  const double low_wavelength = context / rope.low_freq_factor;
  const double high_wavelength = context / rope.high_freq_factor;
  if (wavelength > low_wavelength) {
    return static_cast<float>(inv_freq / rope.factor);
  }
  if (wavelength < high_wavelength) {
    return inv_freq;
  }
  const double smooth = (context / wavelength - rope.low_freq_factor) /
                        (rope.high_freq_factor - rope.low_freq_factor);
  return static_cast<float>((1.0 - smooth) * inv_freq / rope.factor + smooth * inv_freq);
}

float scale_frequency(float inv_freq, const RopeConfig& rope) {
  switch (rope.scaling) {
    case RopeConfig::Scaling::kNone:
      return inv_freq;
    case RopeConfig::Scaling::kLinear:
      return static_cast<float>(inv_freq / rope.factor);
    case RopeConfig::Scaling::kLlama3:
      return scale_llama3(inv_freq, rope);
    case RopeConfig::Scaling::kYarn:
      break;  // not a function of the frequency alone
  }
  return inv_freq;
}

// The dimension (a real number) that makes `rotations` turns within the original context.
double yarn_dimension(double rotations, const RopeConfig& rope, int64_t rotary_dim) {
  const auto context = static_cast<double>(rope.original_max_position_embeddings);
  return static_cast<double>(rotary_dim) *
         std::log(context / (rotations * 2.0 * std::numbers::pi)) / (2.0 * std::log(rope.theta));
}

// YaRN: dimensions that turn often keep their frequency, slow ones are divided by `factor`, those
// between change over linearly. Source: transformers modeling_rope_utils, rope_type "yarn".
std::vector<float> yarn_frequencies(const RopeConfig& rope, int64_t rotary_dim) {
  double low = yarn_dimension(rope.beta_fast, rope, rotary_dim);
  double high = yarn_dimension(rope.beta_slow, rope, rotary_dim);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(rotary_dim - 1));
  if (low == high) {
    high += 0.001;  // no division by zero
  }
  std::vector<float> frequencies;
  for (int64_t i = 0; i < rotary_dim / 2; ++i) {
    const double exponent = static_cast<double>(2 * i) / static_cast<double>(rotary_dim);
    const double kept = 1.0 / std::pow(rope.theta, exponent);
    const double slow = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies.push_back(static_cast<float>(kept / rope.factor * slow + kept * (1.0 - slow)));
  }
  return frequencies;
}

}  // namespace

RotaryEmbedding RotaryEmbedding::create(const RopeConfig& rope, int64_t rotary_dim) {
  RotaryEmbedding rotary;
  const int64_t half = rotary_dim / 2;
  ATOM_CHECK(rope.freq_divisors.empty() || static_cast<int64_t>(rope.freq_divisors.size()) == half);
  if (rope.scaling == RopeConfig::Scaling::kYarn) {
    rotary.inv_freq = yarn_frequencies(rope, rotary_dim);
    rotary.scale = static_cast<float>(rope.attention_factor);
    return rotary;
  }
  for (int64_t i = 0; i < half; ++i) {
    const double exponent = static_cast<double>(2 * i) / static_cast<double>(rotary_dim);
    float inv_freq =
        scale_frequency(static_cast<float>(1.0 / std::pow(rope.theta, exponent)), rope);
    if (!rope.freq_divisors.empty()) {
      inv_freq /= rope.freq_divisors[static_cast<size_t>(i)];
    }
    rotary.inv_freq.push_back(inv_freq);
  }
  return rotary;
}

}  // namespace atom
