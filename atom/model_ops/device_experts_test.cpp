// Experts reach a device with the values that the CPU reads: in bf16, or as stored with the scales
// that the kernels take. On the fake device, whose memory is the host's.
#include "atom/model_ops/device_experts.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "atom/core/thread_pool.h"
#include "atom/model_ops/device_weights.h"
#include "kernels/common/convert.h"
#include "tests/support/fake_device.h"

namespace atom {
namespace {

constexpr int64_t kRows = 32;  // of a part
constexpr int64_t kCols = 256;
constexpr int64_t kExperts = 3;

class DeviceExperts : public testing::Test {
 protected:
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

  // All experts' rows of gate and up in one stored tensor.
  WeightPart random_tensor(const DataFormat& format) {
    const int64_t rows = kExperts * 2 * kRows;
    bytes_.resize(static_cast<size_t>(rows * row_bytes(format.dtype, kCols)));
    for (uint8_t& byte : bytes_) byte = static_cast<uint8_t>(random_() % 0x3c);
    const int64_t tiles = format.block_n <= 0 ? 1 : (rows + format.block_n - 1) / format.block_n;
    const int64_t count = tiles * scales_per_row(format, kCols);
    scales_.resize(static_cast<size_t>(count * 4));
    for (int64_t i = 0; i < count; ++i) {
      const float value = 0.5F + static_cast<float>(random_() % 64) / 16;
      format.scale_dtype == DType::kF8E8M0
          ? void(scales_[static_cast<size_t>(i)] = static_cast<uint8_t>(110 + random_() % 19))
          : void(std::memcpy(scales_.data() + i * 4, &value, 4));
    }
    return {.data = bytes_.data(),
            .format = format,
            .rows = rows,
            .cols = kCols,
            .scales = has_scales(format) ? scales_.data() : nullptr};
  }

  // A value on the "device", as the kernels read it (ExpertMatrix in kernels/gpu/moe.h).
  static float value(const StackedExperts& experts, int64_t row, int64_t col) {
    const auto* bytes = static_cast<const uint8_t*>(experts.values.data());
    const auto* scales = static_cast<const uint8_t*>(experts.scales.data());
    const int64_t at = row * experts.cols + col;
    if (experts.format.dtype == DType::kF8E4M3) {
      const int64_t scale =
          row / experts.scale_rows * experts.scale_cols + (experts.scale_cols > 1 ? col / 128 : 0);
      return f8e4m3_to_f32(bytes[at]) * static_cast<const float*>(experts.scales.data())[scale];
    }
    if (experts.format.dtype == DType::kF4E2M1) {
      static constexpr float kValues[] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
      uint32_t word = 0;
      std::memcpy(&word, bytes + at / 8 * 4, 4);
      const int64_t i = col % 8;
      const uint32_t nibble = word >> (i % 2 == 0 ? 2 * i : 14 + 2 * i) & 15U;
      const float size = std::ldexp(kValues[nibble % 8], scales[at / 32] - 127);
      return nibble > 7 ? -size : size;
    }
    return bf16_to_f32(static_cast<const uint16_t*>(experts.values.data())[at]);
  }

  void check(const DataFormat& format, DType kept, int64_t step) {
    const WeightPart tensor = random_tensor(format);
    StackedExperts experts;
    std::vector<float> want;
    for (int64_t e = 0; e < kExperts; ++e) {
      const int64_t first = e * 2 * kRows;
      const WeightPart parts[] = {part_rows(tensor, first, kRows, step),
                                  part_rows(tensor, first + (step == 1 ? kRows : 1), kRows, step)};
      if (e == 0) {
        ASSERT_TRUE(allocate_experts(ctx_, device_expert_format(parts), kExperts, 2 * kRows, kCols,
                                     experts));
      }
      const Status placed = place_expert(ctx_, parts, e, experts);
      ASSERT_TRUE(placed) << placed.error().message;
      for (const WeightPart& part : parts) {
        want.resize(want.size() + static_cast<size_t>(kRows * kCols));
        dequantize_rows(part, 0, kRows, want.data() + want.size() - kRows * kCols);
      }
    }
    ASSERT_TRUE(uploader_->finish());
    ASSERT_EQ(ctx_.runtime->synchronize(ctx_.stream), nullptr);
    EXPECT_EQ(experts.format.dtype, kept);
    for (size_t i = 0; i < want.size(); ++i) {
      const auto at = static_cast<int64_t>(i);
      const float expected = kept == DType::kBF16 ? bf16_to_f32(f32_to_bf16(want[i])) : want[i];
      ASSERT_EQ(value(experts, at / kCols, at % kCols), expected) << "value " << i;
    }
  }

  GpuDevice gpu_ = *use_gpu(testing_support::fake_backend(), DeviceType::kCuda, 0);
  ThreadPool pool_{3};
  ExecContext ctx_;
  std::unique_ptr<DeviceUploader> uploader_;
  std::mt19937_64 random_{1};
  std::vector<uint8_t> bytes_, scales_;
};

TEST_F(DeviceExperts, HaveTheValuesOfTheCpu) {
  const DType e4m3 = DType::kF8E4M3;
  check({.dtype = DType::kBF16}, DType::kBF16, 1);
  check({.dtype = DType::kBF16}, DType::kBF16, 2);
  check({.dtype = DType::kQ8_0}, DType::kBF16, 1);
  check({.dtype = e4m3, .block_n = 8, .block_k = 128}, e4m3, 1);
  check({.dtype = e4m3, .block_n = 32, .block_k = 128}, e4m3, 1);
  check({.dtype = e4m3, .block_n = 1, .block_k = -1}, e4m3, 1);
  check({.dtype = e4m3, .block_n = -1, .block_k = -1}, e4m3, 1);
  check({.dtype = e4m3, .block_n = 32, .block_k = 64}, DType::kBF16, 1);  // no kernel's form
  check({.dtype = e4m3, .block_n = 1, .block_k = -1}, DType::kBF16, 2);
  const DataFormat mx{
      .dtype = DType::kF4E2M1, .block_n = 1, .block_k = 32, .scale_dtype = DType::kF8E8M0};
  check(mx, DType::kF4E2M1, 1);
  check(mx, DType::kF4E2M1, 2);
}

TEST_F(DeviceExperts, RefuseWhatTheKernelsCannotRead) {
  const DataFormat mx{
      .dtype = DType::kF4E2M1, .block_n = 1, .block_k = 32, .scale_dtype = DType::kF8E8M0};
  const WeightPart tensor = random_tensor(mx);
  const WeightPart parts[] = {part_rows(tensor, 0, kRows), part_rows(tensor, kRows, kRows)};
  StackedExperts experts;
  ASSERT_TRUE(allocate_experts(ctx_, mx, kExperts, 2 * kRows, kCols, experts));
  ASSERT_TRUE(place_expert(ctx_, parts, 0, experts));
  scales_[7] = 129;
  const Status large = place_expert(ctx_, parts, 1, experts);
  ASSERT_FALSE(large);
  EXPECT_NE(large.error().message.find("scales above 2"), std::string::npos);
  WeightPart other = parts[0];
  other.format = {.dtype = DType::kBF16};
  EXPECT_FALSE(place_expert(ctx_, {&other, 1}, 2, experts));
}

}  // namespace
}  // namespace atom
