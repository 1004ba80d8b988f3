// Linear layers of the formats with separate scales (FP8, INT8, INT4, MXFP4): every table against
// the definition (dequantize_rows, sums in double), over odd sizes, partial groups and blocks.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/common/convert.h"
#include "tests/conformance/conformance.h"

namespace atom::conformance {
namespace {

// A random stored weight and what it is made of.
struct Stored {
  WeightPart part;
  std::vector<uint8_t> values, scales, zeros;
};

void put_scale(Rng& rng, DType dtype, uint8_t* p) {
  const float value = 0.001F * static_cast<float>(1 + rng() % 64);
  const uint16_t bf16 = f32_to_bf16(value);
  const auto f16 = static_cast<uint16_t>(0x1c00 + rng() % 0x1000);
  switch (dtype) {
    case DType::kF8E8M0:
      *p = static_cast<uint8_t>(117 + rng() % 6);
      break;
    case DType::kBF16:
      memcpy(p, &bf16, 2);
      break;
    case DType::kF16:
      memcpy(p, &f16, 2);
      break;
    default:
      memcpy(p, &value, 4);
  }
}

Stored make_stored(Rng& rng, const DataFormat& format, int64_t rows, int64_t cols) {
  Stored out;
  out.values.resize(static_cast<size_t>(rows * row_bytes(format.dtype, cols)));
  for (uint8_t& byte : out.values) {
    byte = static_cast<uint8_t>(rng());
    if (format.dtype == DType::kF8E4M3 && (byte & 0x7f) == 0x7f) {
      byte = 0x01;  // a subnormal in place of NaN
    }
  }
  const int64_t block = format.block_n < 0 ? rows : format.block_n;
  const int64_t tiles = (rows + block - 1) / block * scales_per_row(format, cols);
  const int64_t bytes = dtype_bytes(format.scale_dtype, 1);
  out.scales.resize(static_cast<size_t>(tiles * bytes));
  for (int64_t i = 0; i < tiles; ++i) {
    put_scale(rng, format.scale_dtype, out.scales.data() + i * bytes);
    out.zeros.push_back(static_cast<uint8_t>(rng() % 16));
  }
  out.part = {.data = out.values.data(), .format = format, .rows = rows, .cols = cols};
  out.part.scales = out.scales.data();
  out.part.zeros = format.has_zeros ? out.zeros.data() : nullptr;
  return out;
}

constexpr int64_t kAll = -1;
const DataFormat kFormats[] = {
    {.dtype = DType::kF8E4M3, .block_n = kAll, .block_k = kAll},
    {.dtype = DType::kF8E4M3, .block_n = 1, .block_k = kAll, .scale_dtype = DType::kBF16},
    {.dtype = DType::kF8E4M3, .block_n = 128, .block_k = 128},
    {.dtype = DType::kF8E4M3, .block_n = 24, .block_k = 32, .scale_dtype = DType::kF16},
    {.dtype = DType::kI8, .block_n = 1, .block_k = kAll, .scale_dtype = DType::kBF16},
    {.dtype = DType::kI8, .block_n = kAll, .block_k = kAll},
    {.dtype = DType::kI8, .block_n = 128, .block_k = 128},
    {.dtype = DType::kU4, .block_n = 1, .block_k = 32, .scale_dtype = DType::kBF16},
    {.dtype = DType::kU4, .block_n = 1, .block_k = 128, .scale_dtype = DType::kF16},
    {.dtype = DType::kU4,
     .block_n = 1,
     .block_k = 64,
     .scale_dtype = DType::kF16,
     .has_zeros = true},
    {.dtype = DType::kU4, .block_n = 1, .block_k = kAll, .has_zeros = true},
    {.dtype = DType::kF4E2M1, .block_n = 1, .block_k = 32, .scale_dtype = DType::kF8E8M0},
};

std::string text(const DataFormat& f) {
  return std::string(dtype_name(f.dtype)) + " [" + std::to_string(f.block_n) + ", " +
         std::to_string(f.block_k) + "] " + dtype_name(f.scale_dtype) +
         (f.has_zeros ? " with zeros" : "");
}

// x as 8-bit integers per token, the activations that kPanelsInt8 defines.
std::vector<float> rounded_per_token(const std::vector<float>& x, int64_t cols) {
  std::vector<float> out = x;
  for (size_t row = 0; row < x.size(); row += static_cast<size_t>(cols)) {
    float top = 0;
    for (int64_t i = 0; i < cols; ++i) top = std::max(top, std::fabs(x[row + size_t(i)]));
    for (int64_t i = 0; i < cols; ++i) {
      const float steps = std::nearbyint(x[row + size_t(i)] * (127.0F / top));
      out[row + size_t(i)] = steps * (top / 127.0F);
    }
  }
  return out;
}

// Parts stacked along rows, times x, by the definition.
std::vector<float> definition(const std::vector<WeightPart>& parts, const std::vector<float>& x) {
  const int64_t cols = parts.front().cols;
  std::vector<float> weight;
  for (const WeightPart& part : parts) {
    weight.resize(weight.size() + static_cast<size_t>(part.rows * cols));
    dequantize_rows(part, 0, part.rows, weight.data() + weight.size() - part.rows * cols);
  }
  const int64_t rows = static_cast<int64_t>(weight.size()) / cols;
  const int64_t tokens = static_cast<int64_t>(x.size()) / cols;
  std::vector<float> out(static_cast<size_t>(tokens * rows));
  for (int64_t m = 0; m < tokens; ++m) {
    for (int64_t n = 0; n < rows; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < cols; ++k) {
        sum += double{weight[size_t(n * cols + k)]} * double{x[size_t(m * cols + k)]};
      }
      out[size_t(m * rows + n)] = static_cast<float>(sum);
    }
  }
  return out;
}

LinearWeight pack(Context& ctx, const std::vector<WeightPart>& parts, ComputeType compute) {
  LinearWeight weight;
  const Status status = ctx->ops->pack_linear(*ctx, parts, compute, weight);
  EXPECT_TRUE(status) << (status ? "" : status.error().message);
  return weight;
}

std::vector<float> run(Context& ctx, const LinearWeight& weight, std::vector<float> x) {
  const int64_t tokens = static_cast<int64_t>(x.size()) / weight.in_features;
  std::vector<float> out(static_cast<size_t>(tokens * weight.out_features), NAN);
  ctx->ops->linear(*ctx, matrix(x, tokens, weight.in_features), weight,
                   matrix(out, tokens, weight.out_features));
  return out;
}

double tolerance(int32_t kernel) {
  return kernel == cpu::kPanelsF8 ? 3e-5 : kernel == cpu::kPanelsInt16 ? 2e-8 : 1e-10;
}

TEST(ScaledLinearConformance, MatchesDefinition) {
  for (const DataFormat& format : kFormats) {
    for (const int64_t rows : {1, 17, 67, 150}) {
      for (const int64_t cols : {2, 32, 136, 208, 384}) {
        Rng rng(static_cast<uint64_t>(rows * 1000 + cols));
        const Stored stored = make_stored(rng, format, rows, cols);
        for (const int64_t tokens : {1, 3, 8, 33}) {
          const std::vector<float> x = random_floats(rng, tokens * cols);
          const auto exact = definition({stored.part}, x);
          for (const auto& table : all_tables()) {
            Context ctx(*table, 2);
            for (const ComputeType compute : {ComputeType::kFloat32, ComputeType::kAuto}) {
              const LinearWeight weight = pack(ctx, {stored.part}, compute);
              const int32_t kernel = weight.segments.at(0).kernel;
              const double error = kernel == cpu::kPanelsInt8
                                       ? nmse(run(ctx, weight, x),
                                              definition({stored.part}, rounded_per_token(x, cols)))
                                       : nmse(run(ctx, weight, x), exact);
              // A handful of outputs may all be small differences of large sums.
              const double cancellation = tokens * rows < 64 ? 100.0 : 1.0;
              ASSERT_LE(error, cancellation * tolerance(kernel))
                  << table->name << " kernel " << kernel << " " << text(format) << " of [" << rows
                  << ", " << cols << "] x " << tokens;
            }
          }
        }
      }
    }
  }
}

TEST(ScaledLinearConformance, PackedSizeIsThatOfTheCheckpoint) {
  for (const auto& table : all_tables()) {
    Context ctx(*table);
    for (const DataFormat& format : kFormats) {
      Rng rng(1);
      const Stored stored = make_stored(rng, format, 256, 1024);
      const LinearWeight weight = pack(ctx, {stored.part}, ComputeType::kAuto);
      DataFormat per_row = format;
      per_row.block_n = 1;
      const int64_t scales = 256 * scales_per_row(per_row, 1024) *
                             (dtype_bytes(format.scale_dtype, 1) + (format.has_zeros ? 1 : 0));
      EXPECT_LE(weight.packed.size(), static_cast<int64_t>(stored.values.size()) + scales + 1024)
          << table->name << " " << text(format);
    }
  }
}

TEST(ScaledLinearConformance, SameBitsAtAnyBatchSizeAndThreadCount) {
  constexpr int64_t kRows = 150, kCols = 424, kTokens = 131;
  for (const auto& table : all_tables()) {
    Context one(*table, 1), three(*table, 3);
    for (const DataFormat& format : kFormats) {
      for (const ComputeType compute : {ComputeType::kFloat32, ComputeType::kAuto}) {
        Rng rng(3);
        const Stored stored = make_stored(rng, format, kRows, kCols);
        const LinearWeight weight = pack(one, {stored.part}, compute);
        const std::vector<float> x = random_floats(rng, kTokens * kCols);
        const auto whole = run(one, weight, x);
        EXPECT_EQ(0, memcmp(whole.data(), run(three, weight, x).data(), whole.size() * 4))
            << table->name << " " << text(format) << " threads";
        for (const int64_t size : {1, 2, 5, 16, 17, 33, 64}) {
          for (int64_t m = 0; m + size <= kTokens; m += std::max<int64_t>(size, 41)) {
            const std::vector<float> rows(x.begin() + m * kCols, x.begin() + (m + size) * kCols);
            const auto got = run(one, weight, rows);
            ASSERT_EQ(0, memcmp(whole.data() + m * kRows, got.data(), got.size() * 4))
                << table->name << " " << text(format) << " rows " << m << " + " << size;
          }
        }
      }
    }
  }
}

// q, k, v with scales of their own become one segment; rows of a stacked tensor are parts.
TEST(ScaledLinearConformance, FusedPartsAndRowsOfStackedTensors) {
  for (const DataFormat& format : kFormats) {
    Rng rng(5);
    constexpr int64_t kCols = 160;
    const Stored q = make_stored(rng, format, 48, kCols);
    const Stored k = make_stored(rng, format, 7, kCols);
    const std::vector<WeightPart> parts{q.part, part_rows(q.part, 33, 9), k.part,
                                        part_rows(q.part, 1, 24, 2),
                                        part_rows(part_rows(q.part, 8, 16, 2), 3, 5)};
    const std::vector<float> x = random_floats(rng, 3 * kCols);
    std::vector<float> row(kCols), same(kCols);
    dequantize_rows(parts[4], 2, 1, row.data());
    dequantize_rows(q.part, 8 + 2 * 5, 1, same.data());
    EXPECT_EQ(row, same) << text(format);
    for (const auto& table : all_tables()) {
      Context ctx(*table);
      const LinearWeight weight = pack(ctx, parts, ComputeType::kFloat32);
      EXPECT_EQ(weight.segments.size(), 1U);
      EXPECT_LE(nmse(run(ctx, weight, x), definition(parts, x)), 1e-10)
          << table->name << " " << text(format);
    }
  }
}

TEST(ScaledLinearConformance, NonFiniteInputStaysInItsRow) {
  for (const auto& table : all_tables()) {
    Context ctx(*table);
    for (const DataFormat& format : kFormats) {
      for (const float bad : {NAN, INFINITY}) {
        Rng rng(9);
        const Stored stored = make_stored(rng, format, 20, 256);
        const LinearWeight weight = pack(ctx, {stored.part}, ComputeType::kAuto);
        std::vector<float> x = random_floats(rng, 3 * 256);
        x[256 + 77] = bad;
        const auto out = run(ctx, weight, x);
        const auto finite = [](float value) { return std::isfinite(value); };
        EXPECT_TRUE(std::all_of(out.begin(), out.begin() + 20, finite));
        EXPECT_FALSE(std::all_of(out.begin() + 20, out.begin() + 40, finite)) << table->name;
        EXPECT_TRUE(std::all_of(out.begin() + 40, out.end(), finite));
      }
    }
  }
}

TEST(ScaledLinearConformance, RefusesWhatItCannotPack) {
  Rng rng(1);
  for (const auto& table : all_tables()) {
    Context ctx(*table);
    const auto refused = [&](const DataFormat& format, auto change) {
      Stored stored = make_stored(rng, format, 16, 96);
      change(stored.part);
      LinearWeight weight;
      return !ctx->ops->pack_linear(*ctx, {&stored.part, 1}, ComputeType::kAuto, weight) &&
             !weight.defined();
    };
    for (const DataFormat& format : kFormats) {
      EXPECT_FALSE(refused(format, [](WeightPart&) {})) << text(format);
      EXPECT_TRUE(refused(format, [](WeightPart& part) { part.scales = nullptr; }));
      EXPECT_TRUE(refused(format, [](WeightPart& part) { part.format.block_n = 0; }));
      EXPECT_TRUE(refused(format, [](WeightPart& part) { part.format.block_k = 24; }));
      EXPECT_TRUE(refused(format, [](WeightPart& part) { part.format.block_k = 0; }));
      EXPECT_TRUE(refused(format, [](WeightPart& part) { part.format.scale_dtype = DType::kI8; }));
    }
    EXPECT_TRUE(refused(kFormats[4], [](WeightPart& part) { part.format.has_zeros = true; }));
    EXPECT_TRUE(refused(kFormats[9], [](WeightPart& part) { part.zeros = nullptr; }));
  }
}

}  // namespace
}  // namespace atom::conformance
