// What the tests of vector ops share: made-up values, error, and the count of passed and failed
// rows. Not in the product; one program each. C++23.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/convert.h"
#include "kernels/gpu/device_test.h"

namespace atom::gpu::device_test {

inline int passed = 0;
inline int failed = 0;

inline std::vector<float> random_values(size_t count, uint32_t seed, float scale = 1.0F) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, scale);
  std::vector<float> values(count);
  for (float& value : values) {
    value = normal(random);
  }
  return values;
}

inline std::vector<uint16_t> to_bf16(const std::vector<float>& from) {
  std::vector<uint16_t> to(from.size());
  std::transform(from.begin(), from.end(), to.begin(), f32_to_bf16);
  return to;
}
inline std::vector<float> to_f32(const std::vector<uint16_t>& from) {
  std::vector<float> to(from.size());
  std::transform(from.begin(), from.end(), to.begin(), bf16_to_f32);
  return to;
}
inline std::vector<float> rounded(const std::vector<float>& from) { return to_f32(to_bf16(from)); }

// Squared error over squared reference; infinite for a value that was not written (NaN).
inline double error_of(const std::vector<float>& out, const std::vector<float>& expected) {
  double errors = 0;
  double squares = 1e-30;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = static_cast<double>(out[i]) - static_cast<double>(expected[i]);
    errors += difference * difference;
    squares += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  return std::isnan(errors) ? std::numeric_limits<double>::infinity() : errors / squares;
}

inline void report(const std::string& name, double error, double limit, double us = 0) {
  const bool good = error <= limit;
  ++(good ? passed : failed);
  std::printf("%s %-52s error %.1e (limit %.0e) %8.1f us\n", good ? "ok  " : "FAIL", name.c_str(),
              error, limit, us);
}

inline void launched(DeviceStatus status) {
  if (status != nullptr) {
    std::printf("FAIL launch: %s\n", status);
    ++failed;
  }
}

}  // namespace atom::gpu::device_test
