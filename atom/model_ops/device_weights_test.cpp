// Weights reach a device as the CPU reads them: every type, GGUF's rotary order, stacked parts. On
// the fake device, which runs copies as late as it may.
#include "atom/model_ops/device_weights.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "atom/core/thread_pool.h"
#include "kernels/common/convert.h"
#include "kernels/cpu/kernels.h"
#include "tests/support/fake_device.h"

namespace atom {
namespace {

class DeviceWeights : public testing::Test {
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

  // Random stored values whose every bit pattern is finite.
  std::vector<uint8_t> stored(DType dtype, int64_t rows, int64_t cols) {
    std::vector<uint8_t> bytes(static_cast<size_t>(dtype_bytes(dtype, rows * cols)));
    for (size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<uint8_t>(random_() % 0x3c);
    }
    return bytes;
  }
  static std::vector<uint16_t> expected(const WeightPart& part) {
    std::vector<float> row(static_cast<size_t>(part.cols));
    std::vector<uint16_t> values;
    for (int64_t r = 0; r < part.rows; ++r) {
      dequantize_rows(part, r, 1, row.data());
      for (const float value : row) {
        values.push_back(f32_to_bf16(value));
      }
    }
    return values;
  }

  GpuDevice gpu_ = *use_gpu(testing_support::fake_backend(), DeviceType::kCuda, 0);
  ThreadPool pool_{3};
  ExecContext ctx_;
  std::unique_ptr<DeviceUploader> uploader_;
  std::mt19937_64 random_{1};
};

TEST_F(DeviceWeights, PartsAreStackedAsTheCpuReadsThem) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32, DType::kQ8_0, DType::kQ4_K}) {
    for (const int64_t rotary_heads : {0, 2}) {
      SCOPED_TRACE(std::string(dtype_name(dtype)) + (rotary_heads > 0 ? " rotary" : ""));
      const auto q = stored(dtype, 8, 256);
      const auto k = stored(dtype, 4, 256);
      const auto part = [&](const std::vector<uint8_t>& bytes, int64_t rows) {
        return WeightPart{.data = bytes.data(),
                          .format = {.dtype = dtype},
                          .rows = rows,
                          .cols = 256,
                          .rotary_heads = rotary_heads};
      };
      const WeightPart parts[] = {part(q, 8), part(k, 4)};
      LinearWeight weight;
      ASSERT_TRUE(pack_linear_device(ctx_, parts, DeviceLinear::kAsStored, weight));
      ASSERT_TRUE(uploader_->finish());
      ASSERT_EQ(ctx_.runtime->synchronize(ctx_.stream), nullptr);
      EXPECT_EQ(weight.out_features, 16);  // 12 rows, padded
      std::vector<uint16_t> want = expected(parts[0]);
      const auto second = expected(parts[1]);
      want.insert(want.end(), second.begin(), second.end());
      want.resize(16 * 256, 0);
      EXPECT_EQ(0, std::memcmp(weight.packed.data(), want.data(), want.size() * 2));
    }
  }
}

TEST_F(DeviceWeights, ManyPiecesGoThroughASmallRing) {
  const int64_t rows = 3000, cols = 8192;  // 48 MiB through 6 pieces of 2 MiB
  std::vector<uint16_t> values(static_cast<size_t>(rows * cols));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<uint16_t>(i * 2654435761U >> 16);
  }
  auto table = upload_table(ctx_, {.data = values.data(), .rows = rows, .cols = cols});
  ASSERT_TRUE(table) << table.error().message;
  ASSERT_TRUE(uploader_->finish());
  EXPECT_EQ(0, std::memcmp(table->data(), values.data(), values.size() * 2));
}

TEST_F(DeviceWeights, AFailedCopyIsReported) {
  const std::vector<uint16_t> values(1 << 16);
  const Buffer to = std::move(*Buffer::allocate_device(*ctx_.runtime, 1 << 17));
  testing_support::fail_fake_device_after(2);
  (void)uploader_->bytes(values.data(), 1 << 17, to.data());
  testing_support::reset_fake_device();
  const Status status = uploader_->finish();
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message.find("planted failure"), std::string::npos);
}

}  // namespace
}  // namespace atom
