// The vector ops on the device against the CPU reference over adversarial shapes; prints error and
// time per row, ends with 'N passed, N failed', exits with 1 after a failure. Runs where a device
// is.
#include "kernels/gpu/vector_ops.h"

#include <cmath>
#include <cstring>
#include <string>

#include "kernels/common/convert.h"
#include "kernels/common/dummy.h"
#include "kernels/cpu/kernels.h"
#include "kernels/gpu/vector_ops_test.h"

namespace atom::gpu::device_test {
namespace {

constexpr double kBf16Limit = 8e-6;  // rounding of the result: 2^-9 / sqrt(3), squared
constexpr double kF32Limit = 1e-11;

void test_norm(int64_t tokens, int64_t size, bool add, bool f32_residual) {
  const auto count = static_cast<size_t>(tokens * size);
  std::vector<float> residual = random_values(count, 1, 3.0F);
  if (!f32_residual) {
    residual = rounded(residual);
  }
  const std::vector<float> x = rounded(random_values(count, 2));
  const std::vector<float> weight = random_values(static_cast<size_t>(size), 3);
  const DeviceArray<float> device_f32(residual);
  const DeviceArray<uint16_t> device_bf16(to_bf16(residual));
  const DeviceArray<uint16_t> device_x(to_bf16(x));
  const DeviceArray<float> device_weight(weight);
  const DeviceArray<uint16_t> out(count);
  DeviceArray<uint8_t> out_fp8(count);
  DeviceArray<float> scales(static_cast<size_t>(tokens));
  const RmsNormArgs args{
      .x = add ? device_x.data() : nullptr,
      .residual = f32_residual ? static_cast<void*>(device_f32.data()) : device_bf16.data(),
      .residual_dtype = f32_residual ? DType::kF32 : DType::kBF16,
      .weight = device_weight.data(),
      .eps = 1e-5F,
      .out = out.data(),
      .out_fp8 = out_fp8.data(),
      .out_scales = scales.data(),
      .num_tokens = tokens,
      .hidden_size = size};
  launched(rms_norm(args, stream()));

  std::vector<float> expected(count);
  cpu::reference_kernels().rms_norm({.x = add ? x.data() : residual.data(),
                                     .residual = add ? residual.data() : nullptr,
                                     .weight = weight.data(),
                                     .eps = 1e-5F,
                                     .out = expected.data(),
                                     .hidden_size = size},
                                    {0, tokens});
  const std::string name = "rms_norm [" + std::to_string(tokens) + ", " + std::to_string(size) +
                           "]" + (add ? " add" : "") + (f32_residual ? " f32" : " bf16");
  report(name, error_of(to_f32(out.get()), expected), f32_residual ? kBf16Limit : 2 * kBf16Limit);
  if (add) {
    report(name + " residual",
           error_of(f32_residual ? device_f32.get() : to_f32(device_bf16.get()), residual),
           f32_residual ? kF32Limit : kBf16Limit);
  }
  const std::vector<uint8_t> bytes = out_fp8.get();
  const std::vector<float> row_scales = scales.get();
  std::vector<float> dequantized(count);
  for (size_t i = 0; i < count; ++i) {
    dequantized[i] = f8e4m3_to_f32(bytes[i]) * row_scales[i / static_cast<size_t>(size)];
  }
  report(name + " fp8", error_of(dequantized, expected), 1.5e-3);
}

void test_silu_mul(int64_t tokens, int64_t size) {
  const auto count = static_cast<size_t>(tokens * size);
  std::vector<float> gate_up = rounded(random_values(count * 2, 4, 4.0F));
  if (count > 0) {
    gate_up[0] = 88.0F;
    gate_up[1] = -100.0F;
  }
  const DeviceArray<uint16_t> device(to_bf16(gate_up));
  DeviceArray<uint16_t> out(count);
  out.fill(0xff);
  launched(silu_mul(
      {.gate_up = device.data(), .out = out.data(), .num_tokens = tokens, .size = size}, stream()));
  std::vector<float> expected(count);
  cpu::reference_kernels().silu_mul(gate_up.data(), expected.data(), size, {0, tokens});
  report("silu_mul [" + std::to_string(tokens) + ", " + std::to_string(size) + "]",
         error_of(to_f32(out.get()), expected), kBf16Limit);

  DeviceArray<uint8_t> quantized(count);
  DeviceArray<float> scales(static_cast<size_t>(tokens));
  out.fill(0xff);
  launched(silu_mul({.gate_up = device.data(),
                     .out = out.data(),
                     .out_fp8 = quantized.data(),
                     .out_scales = scales.data(),
                     .num_tokens = tokens,
                     .size = size},
                    stream()));
  const std::vector<uint8_t> bytes = quantized.get();
  const std::vector<float> row_scales = scales.get();
  std::vector<float> dequantized(count);
  for (size_t i = 0; i < count; ++i) {
    dequantized[i] = f8e4m3_to_f32(bytes[i]) * row_scales[i / static_cast<size_t>(size)];
  }
  report("silu_mul, quantised: bf16", error_of(to_f32(out.get()), expected), kBf16Limit);
  report("silu_mul, quantised: e4m3", error_of(dequantized, expected), 1.5e-3);
}

void test_scale_outer(int64_t rows, int64_t size, DType dtype) {
  const auto count = static_cast<size_t>(rows * size);
  const std::vector<float> x = rounded(random_values(count, 21, 2.0F));
  const std::vector<float> row_scales = random_values(static_cast<size_t>(rows), 22, 1.0F);
  const std::vector<float> column_scales = random_values(static_cast<size_t>(size), 23, 1.0F);
  const DeviceArray<float> device_rows(row_scales);
  const DeviceArray<float> device_columns(column_scales);
  const DeviceArray<uint16_t> out_bf16(to_bf16(x));
  const DeviceArray<float> out_f32(x);
  const bool f32 = dtype == DType::kF32;
  launched(scale_outer({.row_scales = device_rows.data(),
                        .column_scales = device_columns.data(),
                        .out = f32 ? static_cast<void*>(out_f32.data()) : out_bf16.data(),
                        .dtype = dtype,
                        .num_rows = rows,
                        .size = size},
                       stream()));
  std::vector<float> expected(count);
  for (size_t i = 0; i < count; ++i) {
    const size_t row = i / static_cast<size_t>(size);
    expected[i] = x[i] * row_scales[row] * column_scales[i % static_cast<size_t>(size)];
  }
  report("scale_outer [" + std::to_string(rows) + ", " + std::to_string(size) + "]",
         error_of(f32 ? out_f32.get() : to_f32(out_bf16.get()), expected),
         f32 ? kF32Limit : kBf16Limit);
}

void test_rope_cos_sin(int64_t tokens, int64_t half, int32_t last_position) {
  std::vector<int32_t> positions;
  for (int64_t m = 0; m < tokens; ++m) {
    positions.push_back(m == 0 ? last_position : static_cast<int32_t>(m * 7919 % last_position));
  }
  std::vector<float> inv_freq;
  for (int64_t i = 0; i < half; ++i) {
    inv_freq.push_back(std::pow(1e6F, -static_cast<float>(i) / static_cast<float>(half)));
  }
  const DeviceArray<int32_t> device_positions(positions);
  const DeviceArray<float> device_freq(inv_freq);
  DeviceArray<float> out(static_cast<size_t>(tokens * half * 2));
  out.fill(0xff);
  launched(rope_cos_sin({.positions = device_positions.data(),
                         .inv_freq = device_freq.data(),
                         .cos_sin = out.data(),
                         .num_tokens = tokens,
                         .half = half},
                        stream()));
  std::vector<float> expected;
  for (const int32_t position : positions) {
    for (const bool sine : {false, true}) {
      for (const float frequency : inv_freq) {
        const float angle = static_cast<float>(position) * frequency;
        expected.push_back(sine ? std::sin(angle) : std::cos(angle));
      }
    }
  }
  report("rope_cos_sin [" + std::to_string(tokens) + ", " + std::to_string(half) + "] to " +
             std::to_string(last_position),
         error_of(out.get(), expected), kF32Limit);
}

struct RopeCase {
  int64_t tokens;
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t rotary_dim;
  int64_t block_size;
  bool norm;
  DType cache;
};

void test_qk_norm_rope_kv_write(const RopeCase& c) {
  const int64_t heads = c.heads + 2 * c.kv_heads;
  const auto count = static_cast<size_t>(c.tokens * heads * c.head_dim);
  std::vector<float> qkv = rounded(random_values(count, 5));
  const auto dim = static_cast<size_t>(c.head_dim);
  const std::vector<float> q_norm = random_values(dim, 6);
  const std::vector<float> k_norm = random_values(dim, 7);
  const std::vector<float> cos_sin =
      random_values(static_cast<size_t>(c.tokens * c.rotary_dim), 8, 0.7F);
  const int64_t blocks = c.tokens / c.block_size + 2;
  std::vector<int64_t> slots;
  for (int64_t m = 0; m < c.tokens; ++m) {  // backwards, every fifth is padding
    slots.push_back(m % 5 == 4 ? -1 : blocks * c.block_size - 1 - m);
  }
  const auto cache_bytes =
      static_cast<size_t>(dtype_bytes(c.cache, blocks * c.kv_heads * c.block_size * c.head_dim));
  std::vector<uint8_t> k(cache_bytes, 0x11);
  std::vector<uint8_t> v(cache_bytes, 0x22);
  PagedKvCache cache{.dtype = c.cache,
                     .num_blocks = blocks,
                     .num_kv_heads = c.kv_heads,
                     .block_size = c.block_size,
                     .head_dim = c.head_dim,
                     .k_scale = c.cache == DType::kF8E4M3 ? 0.5F : 1.0F,
                     .v_scale = c.cache == DType::kF8E4M3 ? 0.25F : 1.0F};
  const DeviceArray<uint16_t> device_qkv(to_bf16(qkv));
  const DeviceArray<float> device_cos_sin(cos_sin);
  const DeviceArray<float> device_q_norm(q_norm);
  const DeviceArray<float> device_k_norm(k_norm);
  const DeviceArray<int64_t> device_slots(slots);
  const DeviceArray<uint8_t> device_k(k);
  const DeviceArray<uint8_t> device_v(v);
  QkNormRopeKvWriteArgs args{.qkv = device_qkv.data(),
                             .num_tokens = c.tokens,
                             .num_heads = c.heads,
                             .num_kv_heads = c.kv_heads,
                             .head_dim = c.head_dim,
                             .rotary_dim = c.rotary_dim,
                             .cos_sin = device_cos_sin.data(),
                             .q_norm = c.norm ? device_q_norm.data() : nullptr,
                             .k_norm = c.norm ? device_k_norm.data() : nullptr,
                             .slot_mapping = device_slots.data(),
                             .cache = cache};
  args.cache.k = device_k.data();
  args.cache.v = device_v.data();
  launched(qk_norm_rope_kv_write(args, stream()));

  cache.k = k.data();
  cache.v = v.data();
  cpu::reference_kernels().qk_norm_rope_kv_write({.qkv = qkv.data(),
                                                  .num_heads = c.heads,
                                                  .num_kv_heads = c.kv_heads,
                                                  .head_dim = c.head_dim,
                                                  .rotary_dim = c.rotary_dim,
                                                  .cos_sin = cos_sin.data(),
                                                  .q_norm = args.q_norm ? q_norm.data() : nullptr,
                                                  .k_norm = args.k_norm ? k_norm.data() : nullptr,
                                                  .norm_eps = args.norm_eps,
                                                  .slot_mapping = slots.data(),
                                                  .cache = cache},
                                                 {0, c.tokens});
  const auto decode = [&](const std::vector<uint8_t>& bytes) {
    std::vector<float> values;
    for (size_t i = 0; i < bytes.size(); i += c.cache == DType::kBF16 ? 2 : 1) {
      uint16_t word = 0;
      memcpy(&word, bytes.data() + i, c.cache == DType::kBF16 ? 2 : 1);
      values.push_back(c.cache == DType::kBF16 ? bf16_to_f32(word)
                                               : f8e4m3_to_f32(static_cast<uint8_t>(word)));
    }
    return values;
  };
  const std::vector<float> out = to_f32(device_qkv.get());
  std::vector<float> out_q;
  std::vector<float> expected_q;
  const auto row = static_cast<size_t>(heads * c.head_dim);
  const auto q_row = static_cast<size_t>(c.heads * c.head_dim);
  for (size_t m = 0; m < static_cast<size_t>(c.tokens); ++m) {
    out_q.insert(out_q.end(), out.begin() + static_cast<long>(m * row),
                 out.begin() + static_cast<long>(m * row + q_row));
    expected_q.insert(expected_q.end(), qkv.begin() + static_cast<long>(m * row),
                      qkv.begin() + static_cast<long>(m * row + q_row));
  }
  const std::string name = "qk_norm_rope_kv_write " + std::to_string(c.tokens) + " x " +
                           std::to_string(c.heads) + "/" + std::to_string(c.kv_heads) + " x " +
                           std::to_string(c.head_dim) + "/" + std::to_string(c.rotary_dim) + " " +
                           dtype_name(c.cache);
  // A result that lies between two stored values may round the other way: rarely, in e4m3 by 1/16.
  const double limit = c.cache == DType::kBF16 ? 1e-7 : 1e-5;
  report(name + " q", error_of(out_q, expected_q), kBf16Limit);
  report(name + " k", error_of(decode(device_k.get()), decode(k)), limit);
  report(name + " v", error_of(decode(device_v.get()), decode(v)), limit);
}

void test_rows(int64_t tokens, int64_t size) {
  const int64_t vocab = 1000;
  const std::vector<uint16_t> table = to_bf16(random_values(static_cast<size_t>(vocab * size), 9));
  std::vector<int32_t> ids;
  for (int64_t m = 0; m < tokens; ++m) {
    ids.push_back(static_cast<int32_t>(m == 0 ? vocab - 1 : m * 31 % vocab));
  }
  const DeviceArray<uint16_t> device_table(table);
  const DeviceArray<int32_t> device_ids(ids);
  const auto count = static_cast<size_t>(tokens * size);
  DeviceArray<float> out(count);
  DeviceArray<uint16_t> gathered(count);
  out.fill(0xff);
  gathered.fill(0xff);
  launched(embedding({.ids = device_ids.data(),
                      .table = device_table.data(),
                      .out = out.data(),
                      .num_tokens = tokens,
                      .vocab_size = vocab,
                      .hidden_size = size},
                     stream()));
  launched(gather_rows({.x = device_table.data(),
                        .rows = device_ids.data(),
                        .out = gathered.data(),
                        .num_tokens = vocab,
                        .num_rows = tokens,
                        .size = size},
                       stream()));
  std::vector<float> expected;
  for (const int32_t id : ids) {
    for (int64_t i = 0; i < size; ++i) {
      expected.push_back(bf16_to_f32(table[static_cast<size_t>(id * size + i)]));
    }
  }
  const std::string shape = " [" + std::to_string(tokens) + ", " + std::to_string(size) + "]";
  report("embedding" + shape, error_of(out.get(), expected), 0);
  report("gather_rows" + shape, error_of(to_f32(gathered.get()), expected), 0);
}

void test_quantize(int64_t rows, int64_t size) {
  const auto count = static_cast<size_t>(rows * size);
  std::vector<float> x = rounded(random_values(count, 10));
  std::fill_n(x.begin(), std::min<int64_t>(size, static_cast<int64_t>(count)), 0.0F);
  const DeviceArray<uint16_t> device(to_bf16(x));
  DeviceArray<uint8_t> out(count);
  DeviceArray<float> scales(static_cast<size_t>(rows));
  out.fill(0xff);
  launched(quantize_rows({.x = device.data(),
                          .out = out.data(),
                          .scales = scales.data(),
                          .num_rows = rows,
                          .size = size},
                         stream()));
  const std::vector<uint8_t> bytes = out.get();
  const std::vector<float> device_scales = scales.get();
  size_t different = 0;
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
    float largest = 0;
    const auto width = static_cast<size_t>(size);
    for (size_t i = 0; i < width; ++i) {
      largest = std::max(largest, std::fabs(x[r * width + i]));
    }
    const float scale = largest > 0 ? largest / 448.0F : 1.0F;
    different += scale != device_scales[r];
    for (size_t i = 0; i < width; ++i) {
      different += bytes[r * width + i] != f32_to_f8e4m3(x[r * width + i] / scale);
    }
  }
  report("quantize_rows [" + std::to_string(rows) + ", " + std::to_string(size) + "] bytes differ",
         static_cast<double>(different), 0);
}

void test_values(int64_t count) {
  const auto n = static_cast<size_t>(count);
  const std::vector<float> values = random_values(n, 11);
  const DeviceArray<float> device(values);
  DeviceArray<uint16_t> narrow(n);
  DeviceArray<float> wide(n);
  DeviceArray<uint16_t> dummy(n);
  launched(cast_f32_to_bf16(device.data(), narrow.data(), count, stream()));
  launched(cast_bf16_to_f32(narrow.data(), wide.data(), count, stream()));
  launched(fill_random(1234, 0.02F, dummy.data(), count, stream()));
  std::vector<float> expected(n);
  for (size_t i = 0; i < n; ++i) {
    expected[i] = bf16_to_f32(f32_to_bf16(dummy_value(1234, i) * 0.02F));
  }
  report("casts [" + std::to_string(count) + "]", error_of(wide.get(), rounded(values)), 0);
  report("fill_random [" + std::to_string(count) + "]", error_of(to_f32(dummy.get()), expected), 0);
}

void run_all() {
  for (const int64_t size : {8, 64, 576, 1024, 4096, 8192, 8200, 16384}) {
    for (const int64_t tokens : {0, 1, 3, 257}) {
      test_norm(tokens, size, tokens != 3, tokens != 257 || size == 4096);
    }
    test_silu_mul(size == 8 ? 0 : 5, size);
    test_rows(size == 64 ? 0 : 17, size);
    test_quantize(size == 64 ? 0 : 9, size);
  }
  for (const int64_t size : {8, 136, 576, 1024}) {  // a warp a row
    test_norm(1027, size, size != 136, size != 576);
  }
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    test_scale_outer(0, 8, dtype);
    test_scale_outer(1, 8, dtype);
    test_scale_outer(33, 4104, dtype);
  }
  test_rope_cos_sin(33, 64, 131071);
  test_rope_cos_sin(0, 64, 1);
  test_rope_cos_sin(1, 8, 1000000);
  for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
    test_qk_norm_rope_kv_write({1, 32, 8, 128, 128, 16, false, cache});
    test_qk_norm_rope_kv_write({17, 16, 8, 128, 128, 16, true, cache});
    test_qk_norm_rope_kv_write({33, 9, 3, 64, 64, 32, false, cache});
    test_qk_norm_rope_kv_write({15, 7, 7, 96, 96, 64, true, cache});
    test_qk_norm_rope_kv_write({16, 8, 1, 256, 256, 16, true, cache});
    test_qk_norm_rope_kv_write({31, 4, 2, 256, 64, 16, true, cache});
    test_qk_norm_rope_kv_write({0, 4, 2, 64, 64, 16, false, cache});
    test_qk_norm_rope_kv_write({19, 5, 1, 24, 24, 16, true, cache});
    test_qk_norm_rope_kv_write({7, 4, 2, 40, 20, 32, false, cache});
    test_qk_norm_rope_kv_write({3, 3, 3, 2, 2, 16, true, cache});
    test_qk_norm_rope_kv_write({513, 32, 8, 128, 128, 16, false, cache});
    test_qk_norm_rope_kv_write({515, 16, 8, 128, 128, 32, true, cache});
    test_qk_norm_rope_kv_write({514, 8, 4, 64, 64, 16, true, cache});
  }
  for (const int64_t count : {0, 1, 7, 8, 1000003}) {
    test_values(count);
  }
}

}  // namespace
}  // namespace atom::gpu::device_test

int main() {
  atom::gpu::device_test::run_all();
  std::printf("vector_ops: %d passed, %d failed\n", atom::gpu::device_test::passed,
              atom::gpu::device_test::failed);
  return atom::gpu::device_test::failed == 0 ? 0 : 1;
}
