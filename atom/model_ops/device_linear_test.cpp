// Quantised linear weights reach a device with the values that the CPU reads, in the layouts of
// kernels/gpu/linear_layout.h; what no kernel reads becomes bf16. On the fake device, whose memory
// is the host's.
#include "atom/model_ops/device_linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "atom/core/thread_pool.h"
#include "atom/model_ops/device_weights.h"
#include "kernels/common/convert.h"
#include "kernels/gpu/linear_layout.h"
#include "tests/support/fake_device.h"

namespace atom {
namespace {

constexpr DType kE4m3 = DType::kF8E4M3;
constexpr DataFormat kMxfp4{
    .dtype = DType::kF4E2M1, .block_n = 1, .block_k = 32, .scale_dtype = DType::kF8E8M0};

DataFormat int4(int64_t group, bool has_zeros, DType scale_dtype = DType::kBF16) {
  return {.dtype = DType::kU4,
          .block_n = 1,
          .block_k = group,
          .scale_dtype = scale_dtype,
          .has_zeros = has_zeros};
}

// What a kernel reads of (row, col), step by step as linear_layout.h says.
float value_on_device(const LinearWeight& weight, int64_t row, int64_t col) {
  const DataFormat& format = weight.segments[0].format;
  const auto* values = static_cast<const uint8_t*>(weight.packed.data());
  const auto* scales = static_cast<const uint8_t*>(weight.scales.data());
  const auto* floats = reinterpret_cast<const float*>(scales);
  const int64_t n = weight.out_features;
  const int64_t k = weight.in_features;
  const int64_t group = col / 128;
  if (!gpu::is_nibbles(format.dtype)) {
    const uint8_t byte = values[row * k + col];
    const float value =
        format.dtype == kE4m3 ? f8e4m3_to_f32(byte) : static_cast<float>(static_cast<int8_t>(byte));
    return value *
           (format.block_k > 0 ? floats[group * gpu::block_scale_pitch(n) + row / 8] : floats[row]);
  }
  const int64_t block = col % 128 / 32;  // p
  const int64_t quarter = col % 32 / 8;  // q
  uint32_t word = 0;
  std::memcpy(&word,
              values + row * gpu::packed_row_bytes(format.dtype, k) + group * 64 +
                  (quarter * 4 + block) * 4,
              4);
  const int64_t i = col % 8;
  const uint32_t nibble = word >> (i % 2 == 0 ? 2 * i : 14 + 2 * i) & 15U;
  if (format.dtype == DType::kF4E2M1) {
    return f4e2m1_to_f32(nibble) * f8e8m0_to_f32(scales[(group * n + row) * 4 + block]);
  }
  const int64_t each = 128 / format.block_k;
  const int64_t groups = (k + 127) / 128;
  const int64_t at = (group * n + row) * each + (each == 1 ? 0 : block);
  uint16_t half = 0;
  std::memcpy(&half, scales + n * 4 + at * 2, 2);
  const int zero = format.has_zeros ? scales[n * 4 + groups * n * each * 2 + at] : 8;
  return static_cast<float>(static_cast<int>(nibble) - zero) * f16_to_f32(half) * floats[row];
}

class DeviceLinearWeights : public testing::Test {
 protected:
  struct Stored {
    std::vector<uint8_t> values, scales, zeros;
    WeightPart part;
  };

  void SetUp() override {
    ctx_.ops = gpu_.backend->op_table(3);
    ctx_.runtime = gpu_.backend->runtime;
    ctx_.parallel = pool_.parallel_for();
    ASSERT_EQ(ctx_.runtime->create_stream(&ctx_.stream), nullptr);
    auto uploader = DeviceUploader::create(*ctx_.runtime, 0, ctx_.parallel);
    ASSERT_TRUE(uploader) << uploader.error().message;
    uploader_ = std::move(*uploader);
    ctx_.uploader = uploader_.get();
  }
  void TearDown() override { EXPECT_EQ(ctx_.runtime->destroy_stream(ctx_.stream), nullptr); }

  // Values and scales of any size but NaN, at an odd address: mapped files have those.
  Stored make(const DataFormat& format, int64_t rows, int64_t cols) {
    Stored out;
    out.values.resize(static_cast<size_t>(rows * row_bytes(format.dtype, cols)) + 1);
    for (uint8_t& byte : out.values) {
      byte = static_cast<uint8_t>(random_());
      byte = format.dtype == kE4m3 && (byte & 0x7f) == 0x7f ? uint8_t{0} : byte;
    }
    const int64_t tiles = format.block_n <= 0 ? 1 : (rows + format.block_n - 1) / format.block_n;
    const auto count = static_cast<size_t>(tiles * scales_per_row(format, cols));
    out.scales.resize(count * 4);
    for (size_t i = 0; i < count; ++i) {
      out.zeros.push_back(static_cast<uint8_t>(random_() % 17));
      const float scale = std::ldexp(1.0F + static_cast<float>(random_() % 128) / 128,
                                     static_cast<int>(random_() % 12) - 10);
      const auto half = format.scale_dtype == DType::kF16 ? f32_to_f16(scale) : f32_to_bf16(scale);
      if (format.scale_dtype == DType::kF8E8M0) {
        out.scales[i] = static_cast<uint8_t>(90 + random_() % 80);
      } else if (format.scale_dtype == DType::kF32) {
        std::memcpy(&out.scales[i * 4], &scale, 4);
      } else {
        std::memcpy(&out.scales[i * 2], &half, 2);
      }
    }
    out.part = {.data = out.values.data() + 1, .format = format, .rows = rows, .cols = cols};
    out.part.scales = out.scales.data();
    out.part.zeros = format.has_zeros ? out.zeros.data() : nullptr;
    return out;
  }

  LinearWeight pack(std::span<const WeightPart> parts, const DataFormat& format) {
    LinearWeight weight;
    const Status packed = pack_stored_linear(ctx_, parts, format, weight);
    EXPECT_TRUE(packed) << packed.error().message;
    EXPECT_TRUE(uploader_->finish());
    EXPECT_EQ(ctx_.runtime->synchronize(ctx_.stream), nullptr);
    return weight;
  }

  // Two parts stacked have the values of both, and the size that was foretold.
  void check(const DataFormat& stored, const DataFormat& kept, int64_t cols,
             int64_t rotary_heads = 0, int64_t rows = 48) {
    SCOPED_TRACE(std::string(dtype_name(stored.dtype)) + " " + std::to_string(cols));
    Stored first = make(stored, rows, cols);
    const Stored second = make(stored, 8, cols);
    first.part.rotary_heads = rotary_heads;
    const WeightPart parts[] = {first.part, second.part};
    const DataFormat format = device_linear_format(parts);
    ASSERT_EQ(format, kept);
    const LinearWeight weight = pack(parts, format);
    EXPECT_EQ(weight.out_features, rows + 8);
    EXPECT_EQ(device_linear_bytes(format, rows + 8, cols),
              weight.packed.size() + weight.scales.size());
    std::vector<float> want(static_cast<size_t>(cols));
    for (int64_t row = 0; row < rows + 8; ++row) {
      dequantize_rows(parts[row < rows ? 0 : 1], row < rows ? row : row - rows, 1, want.data());
      for (int64_t col = 0; col < cols; ++col) {
        ASSERT_EQ(value_on_device(weight, row, col), want[static_cast<size_t>(col)])
            << row << ", " << col;
      }
    }
  }

  GpuDevice gpu_ = *use_gpu(testing_support::fake_backend(), DeviceType::kCuda, 0);
  ThreadPool pool_{3};
  ExecContext ctx_;
  std::unique_ptr<DeviceUploader> uploader_;
  std::mt19937_64 random_{1};
};

TEST_F(DeviceLinearWeights, HaveTheValuesOfTheCpu) {
  const DataFormat rows{.dtype = kE4m3, .block_n = 1, .block_k = -1};
  const DataFormat blocks{.dtype = kE4m3, .block_n = 8, .block_k = 128};
  const DataFormat bytes{.dtype = DType::kI8, .block_n = 1, .block_k = -1};
  check({.dtype = kE4m3, .block_n = -1, .block_k = -1}, rows, 144);
  check({.dtype = kE4m3, .block_n = 1, .block_k = -1, .scale_dtype = DType::kBF16}, rows, 48);
  check({.dtype = kE4m3, .block_n = 1, .block_k = -1}, rows, 64, /*rotary_heads=*/2);
  check({.dtype = kE4m3, .block_n = 128, .block_k = 128}, blocks, 320);
  check({.dtype = kE4m3, .block_n = 24, .block_k = 128}, blocks, 144);
  check({.dtype = kE4m3, .block_n = 16, .block_k = 256}, blocks, 512);
  check({.dtype = kE4m3, .block_n = 16, .block_k = 128}, rows, 128);  // one block along a row
  check({.dtype = DType::kI8, .block_n = 1, .block_k = -1}, bytes, 80);
  check(kMxfp4, kMxfp4, 160);
}

// Several threads make the scales of a weight.
TEST_F(DeviceLinearWeights, OfManyRowsHaveTheValuesOfTheCpu) {
  check({.dtype = kE4m3, .block_n = 24, .block_k = 128},
        {.dtype = kE4m3, .block_n = 8, .block_k = 128}, 144, 0, 192);
  check({.dtype = kE4m3, .block_n = 1, .block_k = -1},
        {.dtype = kE4m3, .block_n = 1, .block_k = -1}, 48, 0, 200);
  check(int4(32, true), {.dtype = DType::kU4, .block_n = 1, .block_k = 32, .has_zeros = true}, 160,
        0, 264);
  check(kMxfp4, kMxfp4, 96, 0, 136);
}

TEST_F(DeviceLinearWeights, OfFourBitsHaveTheValuesOfTheCpu) {
  const auto kept = [](int64_t group, bool has_zeros) {
    return DataFormat{.dtype = DType::kU4, .block_n = 1, .block_k = group, .has_zeros = has_zeros};
  };
  check(int4(128, false), kept(128, false), 256);
  check(int4(128, true, DType::kF16), kept(128, true), 384);
  check(int4(256, true), kept(128, true), 512);
  check(int4(-1, true), kept(128, true), 160);
  check(int4(32, false, DType::kF16), kept(32, false), 96);
  check(int4(64, true), kept(32, true), 192);
  check(int4(32, true), kept(32, true), 160, /*rotary_heads=*/3);
}

TEST_F(DeviceLinearWeights, ZeroPointsOfTheMiddleAreNone) {
  Stored stored = make(int4(128, true), 16, 256);
  std::ranges::fill(stored.zeros, uint8_t{8});
  const LinearWeight weight = pack({&stored.part, 1}, device_linear_format({&stored.part, 1}));
  EXPECT_FALSE(weight.segments[0].format.has_zeros);
  std::vector<float> want(256);
  dequantize_rows(stored.part, 15, 1, want.data());
  EXPECT_EQ(value_on_device(weight, 15, 255), want[255]);
}

TEST_F(DeviceLinearWeights, PartsWithAndWithoutZeroPoints) {
  const Stored with = make(int4(128, true), 16, 128);
  const Stored without = make(int4(128, false), 8, 128);
  const WeightPart parts[] = {without.part, with.part};
  const LinearWeight weight = pack(parts, device_linear_format(parts));
  for (const int64_t row : {0, 7, 8, 23}) {
    std::vector<float> want(128);
    dequantize_rows(parts[row < 8 ? 0 : 1], row < 8 ? row : row - 8, 1, want.data());
    EXPECT_EQ(value_on_device(weight, row, 77), want[77]) << row;
  }
}

TEST_F(DeviceLinearWeights, WhatNoKernelReadsIsBf16) {
  const auto kept = [&](const DataFormat& format, int64_t rows, int64_t cols) {
    const Stored stored = make(format, rows, cols);
    return device_linear_format({&stored.part, 1}).dtype;
  };
  EXPECT_EQ(kept({.dtype = kE4m3, .block_n = 1, .block_k = -1}, 12, 64), DType::kBF16);   // rows
  EXPECT_EQ(kept({.dtype = kE4m3, .block_n = 1, .block_k = -1}, 16, 40), DType::kBF16);   // 16 B
  EXPECT_EQ(kept({.dtype = kE4m3, .block_n = 24, .block_k = 32}, 48, 64), DType::kBF16);  // blocks
  EXPECT_EQ(kept({.dtype = kE4m3, .block_n = 20, .block_k = 128}, 40, 256), DType::kBF16);
  EXPECT_EQ(kept(int4(16, false), 16, 64), DType::kBF16);
  EXPECT_EQ(kept(int4(-1, false), 16, 48), DType::kBF16);
  EXPECT_EQ(kept({.dtype = DType::kBF16}, 16, 64), DType::kBF16);

  Stored large = make(kMxfp4, 16, 64);
  EXPECT_EQ(device_linear_format({&large.part, 1}).dtype, DType::kF4E2M1);
  large.scales[5] = 201;
  EXPECT_EQ(device_linear_format({&large.part, 1}).dtype, DType::kBF16);

  const Stored one = make(int4(128, false), 16, 128);
  const Stored other = make({.dtype = DType::kI8, .block_n = 1, .block_k = -1}, 16, 128);
  const WeightPart mixed[] = {one.part, other.part};
  EXPECT_EQ(device_linear_format(mixed).dtype, DType::kBF16);
}

// The fake's ops read nothing but bf16, the real ones do; --quantization fp8 leaves what is
// quantised already.
TEST_F(DeviceLinearWeights, AreKeptWhereTheBackendReadsThem) {
  const Stored stored = make(int4(128, false), 16, 128);
  const auto packed_type = [&](bool reads_packed, DeviceLinear keep) {
    OpTable ops = *gpu_.backend->op_table(3);
    ops.reads_packed_linear = reads_packed;
    ExecContext ctx = ctx_;
    ctx.ops = &ops;
    LinearWeight weight;
    EXPECT_TRUE(pack_linear_device(ctx, {&stored.part, 1}, keep, weight));
    EXPECT_TRUE(uploader_->finish());
    return weight.segments[0].format.dtype;
  };
  EXPECT_EQ(packed_type(true, DeviceLinear::kAsStored), DType::kU4);
  EXPECT_EQ(packed_type(true, DeviceLinear::kE4m3), DType::kU4);
  EXPECT_EQ(packed_type(true, DeviceLinear::kBF16), DType::kBF16);
  EXPECT_EQ(packed_type(false, DeviceLinear::kAsStored), DType::kBF16);
}

TEST(HalfPrecision, RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7c00U; ++bits) {  // every value, and halfway to the next
    const auto half = static_cast<uint16_t>(bits);
    const float value = f16_to_f32(half);
    ASSERT_EQ(f32_to_f16(value), half);
    ASSERT_EQ(f32_to_f16(-value), half | 0x8000U);
    if (bits < 0x7bffU) {
      const float middle = (value + f16_to_f32(static_cast<uint16_t>(half + 1))) / 2;
      ASSERT_EQ(f32_to_f16(middle), half + half % 2);
      ASSERT_EQ(f32_to_f16(std::nextafter(middle, 1e9F)), half + 1);
    }
  }
  EXPECT_EQ(f32_to_f16(65519.9F), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0F), 0x7c00);
  EXPECT_EQ(f32_to_f16(std::nanf("")), 0x7e00);
}

}  // namespace
}  // namespace atom
