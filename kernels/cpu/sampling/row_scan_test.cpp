// Every instruction set against a plain double-precision reference, and bit for bit against each
// other.
#include "kernels/cpu/sampling/row_scan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace atom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kSizes[] = {1, 2, 15, 16, 17, 63, 127, 128, 129, 255, 256, 257, 1000, 4096, 4099};

std::vector<const RowScanKernels*> kernel_sets() {
  const RowScanKernels* sets[4];
  const int count = row_scan_kernel_sets(sets, 4);
  return {sets, sets + count};
}

// Normal values with infinities, zeros of both signs and repeated values among them.
std::vector<float> random_row(int64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, 6.0F);
  std::vector<float> row(static_cast<size_t>(n));
  for (float& value : row) {
    value = normal(random);
    switch (random() % 16) {
      case 0:
        value = -kInfinity;
        break;
      case 1:
        value = 0.0F;
        break;
      case 2:
        value = -0.0F;
        break;
      case 3:
        value = std::round(value);
        break;
      case 4:
        value = -300.0F;
        break;
      default:
        break;
    }
  }
  return row;
}

struct Scan {
  RowMax max{};
  std::vector<float> block_max, block_sum, weights, cut, partial_sum;
  RowCount count{};
  double mass = 0.0;
};

Scan scan(const RowScanKernels& kernels, const std::vector<float>& row, float threshold) {
  const auto n = static_cast<int64_t>(row.size());
  const auto blocks = static_cast<size_t>(row_blocks(n));
  Scan result;
  result.block_max.resize(blocks);
  result.block_sum.resize(blocks);
  result.partial_sum.resize(blocks);
  result.weights.resize(row.size());
  result.max = kernels.max(row.data(), n, result.block_max.data());
  const WeightParams params{.max = result.max.max, .inv_temperature = 0.7F, .min_weight = 1e-6F};
  kernels.weights(row.data(), n, params, result.block_sum.data(), result.weights.data());
  kernels.sum(result.weights.data(), n, 0.01F, result.partial_sum.data());
  result.count = kernels.count(row.data(), n, threshold);
  result.mass = kernels.mass(row.data(), result.weights.data(), n, threshold);
  result.cut = result.weights;
  kernels.cut(row.data(), n, threshold, result.cut.data());
  return result;
}

TEST(RowScan, MatchesDoublePrecision) {
  for (const RowScanKernels* kernels : kernel_sets()) {
    for (const int64_t n : kSizes) {
      const std::vector<float> row = random_row(n, static_cast<uint32_t>(n));
      const float threshold = row[static_cast<size_t>(n / 2)];
      const Scan result = scan(*kernels, row, threshold);
      SCOPED_TRACE(testing::Message() << kernels->name << " n=" << n);
      EXPECT_EQ(result.max.max, *std::max_element(row.begin(), row.end()));
      EXPECT_FALSE(result.max.has_nan);
      double total = 0.0;
      double mass = 0.0;
      int64_t greater = 0;
      int64_t equal = 0;
      for (size_t i = 0; i < row.size(); ++i) {
        const double exact = std::exp((static_cast<double>(row[i]) - result.max.max) * 0.7);
        const double expected = exact < 1e-6 ? 0.0 : exact;
        const double weight = static_cast<double>(result.weights[i]);
        EXPECT_NEAR(weight, expected, exact > 1.1e-6 || exact < 0.9e-6 ? 3e-6 * expected : 1.2e-6)
            << row[i];
        total += weight;
        mass += row[i] >= threshold ? weight : 0.0;
        greater += row[i] > threshold;
        equal += row[i] == threshold;
        EXPECT_EQ(result.cut[i], row[i] >= threshold ? result.weights[i] : 0.0F);
      }
      double block_total = 0.0;
      for (const float sum : result.block_sum) {
        block_total += static_cast<double>(sum);
      }
      EXPECT_NEAR(block_total, total, 1e-6 * total);
      EXPECT_NEAR(result.mass, mass, 1e-6 * mass);
      EXPECT_EQ(result.count.greater, greater);
      EXPECT_EQ(result.count.equal, equal);
      for (int64_t block = 0; block < row_blocks(n); ++block) {
        const auto begin = row.begin() + block * kRowBlock;
        const auto end = row.begin() + std::min(n, (block + 1) * kRowBlock);
        EXPECT_EQ(result.block_max[static_cast<size_t>(block)], *std::max_element(begin, end));
      }
    }
  }
}

TEST(RowScan, EveryInstructionSetReturnsTheSameBits) {
  const auto sets = kernel_sets();
  for (const int64_t n : kSizes) {
    for (uint32_t seed = 0; seed < 20; ++seed) {
      const std::vector<float> row = random_row(n, seed);
      const float threshold = row[seed % row.size()];
      const Scan expected = scan(*sets[0], row, threshold);
      for (const RowScanKernels* kernels : sets) {
        const Scan result = scan(*kernels, row, threshold);
        EXPECT_EQ(result.max.max, expected.max.max);
        EXPECT_EQ(result.block_max, expected.block_max);
        EXPECT_EQ(result.weights, expected.weights);
        EXPECT_EQ(result.block_sum, expected.block_sum);
        EXPECT_EQ(result.partial_sum, expected.partial_sum);
        EXPECT_EQ(std::bit_cast<uint64_t>(result.mass), std::bit_cast<uint64_t>(expected.mass));
      }
    }
  }
}

TEST(RowScan, ExpIsAccurateOverItsRange) {
  std::vector<float> row = {0.0F};
  for (float x = -1e-4F; x > -85.9F; x -= 0.00371F) {
    row.push_back(x);
  }
  for (const RowScanKernels* kernels : kernel_sets()) {
    std::vector<float> weights(row.size());
    std::vector<float> sums(static_cast<size_t>(row_blocks(static_cast<int64_t>(row.size()))));
    kernels->weights(row.data(), static_cast<int64_t>(row.size()), {}, sums.data(), weights.data());
    EXPECT_EQ(weights[0], 1.0F);
    for (size_t i = 0; i < row.size(); ++i) {
      const double exact = std::exp(static_cast<double>(row[i]));
      ASSERT_NEAR(static_cast<double>(weights[i]), exact, 3e-7 * exact) << row[i];
    }
  }
}

TEST(RowScan, InfinitiesAndNan) {
  for (const RowScanKernels* kernels : kernel_sets()) {
    for (const size_t n : {1U, 16U, 129U, 200U}) {
      for (const size_t where : {size_t{0}, n / 2, n - 1}) {
        SCOPED_TRACE(testing::Message() << kernels->name << " n=" << n << " at " << where);
        std::vector<float> sums(2);
        std::vector<float> weights(n);
        const auto size = static_cast<int64_t>(n);
        std::vector<float> row(n, 1.0F);
        row[where] = std::numeric_limits<float>::quiet_NaN();
        EXPECT_TRUE(kernels->max(row.data(), size, sums.data()).has_nan);
        row[where] = kInfinity;
        const RowMax max = kernels->max(row.data(), size, sums.data());
        EXPECT_FALSE(max.has_nan);
        EXPECT_EQ(max.max, kInfinity);
        kernels->weights(row.data(), size, {.max = kInfinity}, sums.data(), weights.data());
        for (size_t i = 0; i < n; ++i) {
          EXPECT_EQ(weights[i], i == where ? 1.0F : 0.0F);
        }
        row.assign(n, -kInfinity);
        EXPECT_EQ(kernels->max(row.data(), size, sums.data()).max, -kInfinity);
      }
    }
  }
}

}  // namespace
}  // namespace atom
