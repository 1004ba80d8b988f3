// Linear layers of every format, table and awkward shape against the reference, and their
// invariances.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "tests/conformance/conformance.h"

namespace atom::conformance {
namespace {

constexpr DType kWeightTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ8_0,
                                  DType::kQ4_0, DType::kQ4_1, DType::kQ4_K, DType::kQ6_K};

// What the activations of a kernel may lose; everything is summed in f32.
double tolerance(int32_t kernel) {
  switch (kernel) {
    case cpu::kPanelsBF16:
      return 1e-5;
    case cpu::kPanelsInt16:
      return 2e-8;  // a block with one value 100 times the others
    default:
      return 1e-11;
  }
}

struct Case {
  DType dtype;
  int64_t rows, cols;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const DType dtype : kWeightTypes) {
    const int64_t block = dtype_info(dtype).block_size;
    for (const int64_t rows : {1, 15, 16, 17, 48, 67, 200}) {
      if (block == 1) {
        for (const int64_t cols : {1, 2, 31, 63, 64, 65, 80, 96, 131})
          all.push_back({dtype, rows, cols});
      } else {
        for (const int64_t blocks : {1, 2, 3, 7}) all.push_back({dtype, rows, blocks * block});
      }
    }
    all.push_back({dtype, 40, block == 1 ? 577 : 6 * 256});
  }
  return all;
}

std::vector<float> run_linear(Context& ctx, const LinearWeight& weight, std::vector<float>& x) {
  const int64_t tokens = static_cast<int64_t>(x.size()) / weight.in_features;
  std::vector<float> out(static_cast<size_t>(tokens * weight.out_features), NAN);
  ctx->ops->linear(*ctx, matrix(x, tokens, weight.in_features), weight,
                   matrix(out, tokens, weight.out_features));
  return out;
}

LinearWeight pack(Context& ctx, std::span<const WeightPart> parts, ComputeType compute, Rng* bias) {
  LinearWeight weight;
  const Status status = ctx->ops->pack_linear(*ctx, parts, compute, weight);
  EXPECT_TRUE(status) << (status ? "" : status.error().message);
  if (bias != nullptr) {
    const std::vector<float> values = random_floats(*bias, weight.out_features);
    weight.bias = std::move(*Buffer::allocate(weight.out_features * 4));
    memcpy(weight.bias.data(), values.data(), values.size() * sizeof(float));
  }
  return weight;
}

WeightPart part_of(const std::vector<uint8_t>& bytes, const Case& c) {
  return {.data = bytes.data(), .format = {.dtype = c.dtype}, .rows = c.rows, .cols = c.cols};
}

TEST(LinearConformance, MatchesReference) {
  Context reference(reference_table());
  for (const auto& table : all_tables()) {
    Context ctx(*table, 2);
    for (const ComputeType compute : {ComputeType::kFloat32, ComputeType::kBFloat16}) {
      double worst = 0;
      for (const Case& c : cases()) {
        Rng rng(static_cast<uint64_t>(c.rows * 1000 + c.cols));
        const auto bytes = random_weight(rng, c.dtype, c.rows, c.cols);
        const WeightPart part = part_of(bytes, c);
        Rng bias_rng(7), bias_rng_again(7);
        const bool has_bias = c.rows % 2 == 0;
        const LinearWeight want_weight =
            pack(reference, {&part, 1}, compute, has_bias ? &bias_rng : nullptr);
        const LinearWeight weight =
            pack(ctx, {&part, 1}, compute, has_bias ? &bias_rng_again : nullptr);
        for (const int64_t tokens : {1, 2, 7, 16, 33, 130}) {
          auto x = random_floats(rng, tokens * c.cols);
          const double error =
              nmse(run_linear(ctx, weight, x), run_linear(reference, want_weight, x));
          // A handful of outputs may all be small differences of large sums.
          const double cancellation = tokens * c.rows < 64 ? 100.0 : 1.0;
          const double limit =
              cancellation *
              (compute == ComputeType::kFloat32 ? 1e-11 : tolerance(weight.segments[0].kernel));
          worst = std::max(worst, error);
          ASSERT_LE(error, limit) << table->name << " " << dtype_name(c.dtype) << " [" << c.rows
                                  << ", " << c.cols << "] x " << tokens;
        }
      }
      std::printf("  %-12s %-8s largest normalised MSE %.1e\n", std::string(table->name).c_str(),
                  compute == ComputeType::kFloat32 ? "float32" : "bfloat16", worst);
    }
  }
}

TEST(LinearConformance, ZeroTokens) {
  for (const auto& table : all_tables()) {
    Context ctx(*table);
    Rng rng(1);
    const auto bytes = random_weight(rng, DType::kQ4_1, 16, 32);
    const WeightPart part = part_of(bytes, {DType::kQ4_1, 16, 32});
    const LinearWeight weight = pack(ctx, {&part, 1}, ComputeType::kAuto, nullptr);
    std::vector<float> x;
    EXPECT_TRUE(run_linear(ctx, weight, x).empty());
  }
}

TEST(LinearConformance, SameBitsAtAnyBatchSizeAndThreadCount) {
  for (const auto& table : all_tables()) {
    Context one(*table, 1), three(*table, 3);
    for (const DType dtype : kWeightTypes) {
      for (const ComputeType compute : {ComputeType::kFloat32, ComputeType::kBFloat16}) {
        Rng rng(3);
        const Case c{dtype, 150, dtype_info(dtype).block_size == 1 ? 301 : 768};
        const auto bytes = random_weight(rng, dtype, c.rows, c.cols);
        const WeightPart part = part_of(bytes, c);
        const LinearWeight weight = pack(one, {&part, 1}, compute, nullptr);
        constexpr int64_t kTokens = 261;
        auto x = random_floats(rng, kTokens * c.cols);
        const auto whole = run_linear(one, weight, x);
        EXPECT_EQ(0, memcmp(whole.data(), run_linear(three, weight, x).data(), whole.size() * 4))
            << table->name << " " << dtype_name(dtype) << " threads";
        for (const int64_t size : {1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33, 130}) {
          for (int64_t m = 0; m + size <= kTokens; m += std::max<int64_t>(size, 41)) {
            std::vector<float> rows(x.begin() + m * c.cols, x.begin() + (m + size) * c.cols);
            const auto got = run_linear(one, weight, rows);
            ASSERT_EQ(0, memcmp(whole.data() + m * c.rows, got.data(), got.size() * 4))
                << table->name << " " << dtype_name(dtype) << " rows " << m << " + " << size;
          }
        }
      }
    }
  }
}

TEST(LinearConformance, MixedFormatsAndRotaryRows) {
  constexpr int64_t kCols = 256, kHeads = 3, kHeadDim = 10, kRows = kHeads * kHeadDim;
  Rng rng(5);
  const auto q = random_weight(rng, DType::kQ4_K, kRows, kCols);
  const auto k = random_weight(rng, DType::kQ4_K, kRows, kCols);
  const auto v = random_weight(rng, DType::kQ6_K, 7, kCols);
  std::vector<WeightPart> parts{
      {.data = q.data(),
       .format = {.dtype = DType::kQ4_K},
       .rows = kRows,
       .cols = kCols,
       .rotary_heads = kHeads},
      {.data = k.data(), .format = {.dtype = DType::kQ4_K}, .rows = kRows, .cols = kCols},
      {.data = v.data(), .format = {.dtype = DType::kQ6_K}, .rows = 7, .cols = kCols}};
  auto x = random_floats(rng, 3 * kCols);
  // What must come out, from the definition: stored row 2i is row i, 2i + 1 is row i + head_dim
  // / 2.
  std::vector<float> want(3 * 67);
  for (int64_t m = 0; m < 3; ++m) {
    for (int64_t row = 0; row < 67; ++row) {
      const int64_t part = row < 30 ? 0 : row < 60 ? 1 : 2;
      int64_t stored = row - part * 30;
      if (part == 0) {
        const int64_t head = stored / kHeadDim, i = stored % kHeadDim;
        stored = head * kHeadDim + (i < 5 ? 2 * i : 2 * (i - 5) + 1);
      }
      float values[kCols];
      const DType dtype = parts[static_cast<size_t>(part)].format.dtype;
      cpu::dequantize(dtype,
                      static_cast<const uint8_t*>(parts[static_cast<size_t>(part)].data) +
                          stored * dtype_bytes(dtype, kCols),
                      0, kCols, values);
      double sum = 0;
      for (int64_t i = 0; i < kCols; ++i) {
        sum += static_cast<double>(values[i]) *
               static_cast<double>(x[static_cast<size_t>(m * kCols + i)]);
      }
      want[static_cast<size_t>(m * 67 + row)] = static_cast<float>(sum);
    }
  }
  for (const auto& table : all_tables()) {
    Context ctx(*table);
    const LinearWeight weight = pack(ctx, parts, ComputeType::kAuto, nullptr);
    EXPECT_EQ(weight.segments.size(), 2u);
    EXPECT_LE(nmse(run_linear(ctx, weight, x), want), 2e-8) << table->name;
  }
}

TEST(LinearConformance, NonFiniteInputStaysInItsRow) {
  for (const auto& table : all_tables()) {
    Context ctx(*table);
    for (const DType dtype : kWeightTypes) {
      for (const float bad : {NAN, INFINITY, -INFINITY}) {
        Rng rng(9);
        const Case c{dtype, 20, 256};
        const auto bytes = random_weight(rng, dtype, c.rows, c.cols);
        const WeightPart part = part_of(bytes, c);
        const LinearWeight weight = pack(ctx, {&part, 1}, ComputeType::kAuto, nullptr);
        auto x = random_floats(rng, 3 * c.cols);
        x[static_cast<size_t>(c.cols + 77)] = bad;
        const auto out = run_linear(ctx, weight, x);
        for (int64_t n = 0; n < c.rows; ++n) {
          EXPECT_TRUE(std::isfinite(out[static_cast<size_t>(n)]));
          EXPECT_TRUE(std::isfinite(out[static_cast<size_t>(2 * c.rows + n)]));
        }
        EXPECT_TRUE(std::any_of(out.begin() + c.rows, out.begin() + 2 * c.rows,
                                [](float value) { return !std::isfinite(value); }))
            << table->name << " " << dtype_name(dtype);
      }
    }
  }
}

TEST(LinearConformance, RefusesWhatItCannotPack) {
  for (const auto& table : all_tables()) {
    Context ctx(*table);
    const std::vector<uint8_t> bytes(4096);
    const WeightPart good{
        .data = bytes.data(), .format = {.dtype = DType::kF16}, .rows = 4, .cols = 32};
    auto refused = [&](std::vector<WeightPart> parts) {
      LinearWeight weight;
      return !ctx->ops->pack_linear(*ctx, parts, ComputeType::kAuto, weight) && !weight.defined();
    };
    WeightPart part = good;
    EXPECT_TRUE(refused({}));
    part.format.dtype = DType::kF8E4M3;
    EXPECT_TRUE(refused({part}));
    part = good;
    part.format.block_n = 128;
    EXPECT_TRUE(refused({part}));
    part = good;
    part.cols = 31;
    EXPECT_TRUE(refused({good, part}));
    part.format.dtype = DType::kQ4_0;
    EXPECT_TRUE(refused({part}));
    part = good;
    part.rotary_heads = 3;
    EXPECT_TRUE(refused({part}));
    part = good;
    part.rows = 0;
    EXPECT_TRUE(refused({part}));
  }
}

}  // namespace
}  // namespace atom::conformance
