// Weights as int8 with one scale per row: errors within half a step, rows that are zero or not
// finite, formats that stay.
#include "atom/models/int8_parts.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "atom/core/thread_pool.h"

namespace atom {
namespace {

TEST(Int8Parts, RowsAreRoundedToTheirOwnScale) {
  ThreadPool pool(2);
  for (const int64_t rows : {1, 64, 65}) {
    for (const int64_t cols : {1, 33}) {
      std::vector<float> values(static_cast<size_t>(rows * cols));
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = std::sin(static_cast<float>(i)) * std::exp2(static_cast<float>(i % 40) - 20.0F);
      }
      const WeightPart part{
          .data = values.data(), .format = {.dtype = DType::kF32}, .rows = rows, .cols = cols};
      const Result<Int8Parts> result = to_int8(pool.parallel_for(), {&part, 1});
      ASSERT_TRUE(result);
      std::vector<float> rounded(values.size());
      dequantize_rows(result->parts[0], 0, rows, rounded.data());
      const auto* scales = static_cast<const float*>(result->parts[0].scales);
      for (size_t i = 0; i < values.size(); ++i) {
        EXPECT_NEAR(rounded[i], values[i], 0.5001F * scales[i / static_cast<size_t>(cols)]) << i;
      }
    }
  }
}

TEST(Int8Parts, RowsWithoutScaleAndOtherFormats) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float values[3][2] = {{0.0F, 0.0F}, {1.0F, kInfinity}, {1.0F, -2.0F}};
  const WeightPart floats{.data = values, .format = {.dtype = DType::kF32}, .rows = 3, .cols = 2};
  const uint8_t bytes[32] = {};
  const WeightPart stored{.data = bytes, .format = {.dtype = DType::kQ4_0}, .rows = 1, .cols = 32};
  const WeightPart parts[] = {floats, stored};
  const Result<Int8Parts> result = to_int8({}, parts);
  ASSERT_TRUE(result);
  float rounded[3][2];
  dequantize_rows(result->parts[0], 0, 3, &rounded[0][0]);
  EXPECT_EQ(rounded[0][0], 0.0F);
  EXPECT_EQ(rounded[0][1], 0.0F);
  EXPECT_TRUE(std::isnan(rounded[1][0]) && std::isnan(rounded[1][1]));
  EXPECT_EQ(rounded[2][1], -2.0F);
  EXPECT_EQ(result->parts[1].format.dtype, DType::kQ4_0);
  EXPECT_EQ(result->parts[1].data, bytes);
}

}  // namespace
}  // namespace atom
