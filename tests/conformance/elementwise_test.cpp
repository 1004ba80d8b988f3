// Norms, activation, embedding, row gather and the scalar conversions.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/common/convert.h"
#include "tests/conformance/conformance.h"

namespace atom::conformance {
namespace {

constexpr int64_t kSizes[] = {1, 7, 15, 16, 17, 31, 32, 33, 80, 96, 576, 1000};

TEST(ElementwiseConformance, RmsNorm) {
  for (const auto& table : all_tables()) {
    Context reference(reference_table()), ctx(*table, 2);
    for (const int64_t size : kSizes) {
      for (const int64_t tokens : {1, 3, 200}) {
        Rng rng(static_cast<uint64_t>(size));
        auto x = random_floats(rng, tokens * size);
        auto residual = random_floats(rng, tokens * size);
        auto weight = random_floats(rng, size);
        std::vector<float> want(x.size(), NAN), got(x.size(), NAN);
        reference->ops->rms_norm(*reference, matrix(x, tokens, size), weight.data(), 1e-5F,
                                 matrix(want, tokens, size));
        ctx->ops->rms_norm(*ctx, matrix(x, tokens, size), weight.data(), 1e-5F,
                           matrix(got, tokens, size));
        EXPECT_LE(nmse(got, want), 1e-12) << table->name << " " << size;

        auto want_residual = residual;
        auto in_place = x;  // out may be x
        reference->ops->add_rms_norm(*reference, matrix(x, tokens, size),
                                     matrix(want_residual, tokens, size), weight.data(), 1e-5F,
                                     matrix(want, tokens, size));
        ctx->ops->add_rms_norm(*ctx, matrix(in_place, tokens, size), matrix(residual, tokens, size),
                               weight.data(), 1e-5F, matrix(in_place, tokens, size));
        EXPECT_LE(nmse(in_place, want), 1e-12) << table->name << " " << size;
        EXPECT_EQ(0, memcmp(residual.data(), want_residual.data(), residual.size() * 4));
      }
    }
  }
}

TEST(ElementwiseConformance, SiluMul) {
  for (const auto& table : all_tables()) {
    Context reference(reference_table()), ctx(*table, 2);
    for (const int64_t n : kSizes) {
      Rng rng(static_cast<uint64_t>(n));
      auto gate_up = random_floats(rng, 3 * 2 * n, 3.0F);
      gate_up[0] = -200.0F;  // the exponential must neither overflow nor lose the sign
      std::vector<float> want(static_cast<size_t>(3 * n), NAN), got(want);
      reference->ops->silu_mul(*reference, matrix(gate_up, 3, 2 * n), matrix(want, 3, n));
      ctx->ops->silu_mul(*ctx, matrix(gate_up, 3, 2 * n), matrix(got, 3, n));
      EXPECT_LE(nmse(got, want), 1e-12) << table->name << " " << n;
      EXPECT_NEAR(got[0], 0.0F, 1e-30F);
    }
  }
}

TEST(ElementwiseConformance, EmbeddingAndGather) {
  for (const auto& table : all_tables()) {
    Context ctx(*table, 2);
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0,
                              DType::kQ4_1, DType::kQ4_K, DType::kQ6_K}) {
      Rng rng(41);
      const int64_t size = dtype_info(dtype).block_size == 1 ? 33 : 512;
      const auto stored = random_weight(rng, dtype, 10, size);
      std::vector<uint8_t> unaligned(stored.size() + 1);
      memcpy(unaligned.data() + 1, stored.data(), stored.size());
      std::vector<int32_t> ids{9, 0, 0, 5};
      std::vector<float> out(static_cast<size_t>(4 * size), NAN), want(static_cast<size_t>(size));
      ctx->ops->embedding(*ctx, Tensor(ids.data(), DType::kI32, {4}),
                          Tensor(unaligned.data() + 1, dtype, {10, size}), matrix(out, 4, size));
      for (size_t i = 0; i < ids.size(); ++i) {
        cpu::dequantize(dtype, stored.data() + ids[i] * dtype_bytes(dtype, size), 0, size,
                        want.data());
        EXPECT_EQ(
            0, memcmp(want.data(), out.data() + static_cast<int64_t>(i) * size, want.size() * 4));
      }
      std::vector<float> picked(static_cast<size_t>(2 * size));
      std::vector<int32_t> rows{3, 1};
      ctx->ops->gather_rows(*ctx, matrix(out, 4, size), Tensor(rows.data(), DType::kI32, {2}),
                            matrix(picked, 2, size));
      EXPECT_EQ(0, memcmp(picked.data(), out.data() + 3 * size, static_cast<size_t>(size) * 4));
      EXPECT_EQ(0, memcmp(picked.data() + size, out.data() + size, static_cast<size_t>(size) * 4));
    }
  }
}

// Every e4m3 value is its own nearest; between neighbours the nearer wins and ties go to the even
// one.
TEST(Conversions, Float8RoundsToNearestEven) {
  for (int bits = 0; bits < 256; ++bits) {
    const auto byte = static_cast<uint8_t>(bits);
    const float value = f8e4m3_to_f32(byte);
    if ((bits & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value));
      EXPECT_EQ(f32_to_f8e4m3(value) & 0x7f, 0x7f);
      continue;
    }
    EXPECT_EQ(f32_to_f8e4m3(value), byte);
    if ((bits & 0x7f) < 0x7e) {
      const float next = f8e4m3_to_f32(static_cast<uint8_t>(bits + 1));
      const float middle = 0.5F * (value + next);
      EXPECT_EQ(f32_to_f8e4m3(middle), bits % 2 == 0 ? byte : bits + 1) << value;
      EXPECT_EQ(f32_to_f8e4m3(std::nextafter(middle, value)), byte) << value;
      EXPECT_EQ(f32_to_f8e4m3(std::nextafter(middle, next)), bits + 1) << value;
    }
  }
  EXPECT_EQ(f8e4m3_to_f32(0x7e), 448.0F);
  EXPECT_EQ(f32_to_f8e4m3(1e9F), 0x7e);
  EXPECT_EQ(f32_to_f8e4m3(-INFINITY), 0xfe);
}

TEST(Conversions, Float16AndBFloat16) {
  EXPECT_EQ(f16_to_f32(0x3c00), 1.0F);
  EXPECT_EQ(f16_to_f32(0xc500), -5.0F);
  EXPECT_EQ(f16_to_f32(0x0001), 0x1p-24F);
  EXPECT_EQ(f16_to_f32(0x7bff), 65504.0F);
  EXPECT_TRUE(std::isinf(f16_to_f32(0x7c00)) && std::isnan(f16_to_f32(0x7e00)));
  EXPECT_EQ(f32_to_bf16(1.0F), 0x3f80);
  EXPECT_EQ(f32_to_bf16(bits_float(0x3f808000)), 0x3f80);  // tie to even
  EXPECT_EQ(f32_to_bf16(bits_float(0x3f818000)), 0x3f82);
  EXPECT_EQ(f32_to_bf16(bits_float(0x3f808001)), 0x3f81);
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(bits_float(0x7fffffff)))));
}

}  // namespace
}  // namespace atom::conformance
