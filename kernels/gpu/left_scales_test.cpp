// Scales that a product leaves to the op that reads its result (OuterScales): the ops give bit for
// bit what they give for whole values. Runs where a device is; ends with 'N passed, N failed'.
#include "kernels/gpu/vector_ops.h"

#include <cmath>
#include <numeric>

#include "kernels/gpu/vector_ops_test.h"

namespace atom::gpu::device_test {
namespace {

// Values [rows, columns] whose scales (powers of two, so that nothing rounds) were left, and whole.
struct LeftScales {
  std::vector<uint16_t> whole;
  DeviceArray<uint16_t> left;
  DeviceArray<float> rows, columns;

  LeftScales(int64_t num_rows, int64_t num_columns)
      : whole(static_cast<size_t>(num_rows * num_columns)),
        left(whole.size()),
        rows(static_cast<size_t>(num_rows)),
        columns(static_cast<size_t>(num_columns)) {
    const std::vector<float> values = rounded(random_values(whole.size(), 31));
    std::vector<float> row_scales;
    std::vector<float> column_scales;
    for (int64_t i = 0; i < num_rows; ++i) row_scales.push_back(std::ldexp(1.0F, i % 3 - 1));
    for (int64_t i = 0; i < num_columns; ++i) column_scales.push_back(std::ldexp(1.0F, i % 5 - 2));
    for (size_t i = 0; i < whole.size(); ++i) {
      whole[i] = f32_to_bf16(values[i] * row_scales[i / columns.size()] *
                             column_scales[i % columns.size()]);
    }
    left.set(to_bf16(values));
    rows.set(row_scales);
    columns.set(column_scales);
  }
  OuterScales scales() const { return {.rows = rows.data(), .columns = columns.data()}; }
};

template <class T>
double differs(const DeviceArray<T>& a, const DeviceArray<T>& b) {
  return a.get() == b.get() ? 0 : 1;
}

void test_left_scales(int64_t tokens) {
  const std::string name = "left scales [" + std::to_string(tokens) + "] ";
  constexpr int64_t kSize = 576;
  const auto count = static_cast<size_t>(tokens * kSize);
  const auto rows = static_cast<size_t>(tokens);
  {
    const LeftScales x(tokens, 2 * kSize);
    const DeviceArray<uint16_t> whole(x.whole);
    DeviceArray<uint16_t> out[2] = {DeviceArray<uint16_t>(count), DeviceArray<uint16_t>(count)};
    DeviceArray<uint8_t> fp8[2] = {DeviceArray<uint8_t>(count), DeviceArray<uint8_t>(count)};
    DeviceArray<float> scales[2] = {DeviceArray<float>(rows), DeviceArray<float>(rows)};
    for (const bool quantized : {false, true}) {
      for (const int i : {0, 1}) {
        launched(silu_mul({.gate_up = i == 0 ? whole.data() : x.left.data(),
                           .gate_up_scales = i == 0 ? OuterScales{} : x.scales(),
                           .out = quantized ? nullptr : out[i].data(),
                           .out_fp8 = quantized ? fp8[i].data() : nullptr,
                           .out_scales = scales[i].data(),
                           .num_tokens = tokens,
                           .size = kSize},
                          stream()));
      }
    }
    report(name + "silu_mul", differs(out[0], out[1]) + differs(fp8[0], fp8[1]), 0);
  }
  {
    const LeftScales x(tokens, kSize);
    const DeviceArray<uint16_t> whole(x.whole);
    const DeviceArray<float> weight(random_values(kSize, 32));
    const std::vector<float> start = random_values(count, 33);
    DeviceArray<float> residual[2] = {DeviceArray<float>(start), DeviceArray<float>(start)};
    DeviceArray<uint16_t> out[2] = {DeviceArray<uint16_t>(count), DeviceArray<uint16_t>(count)};
    for (const int i : {0, 1}) {
      launched(rms_norm({.x = i == 0 ? whole.data() : x.left.data(),
                         .x_scales = i == 0 ? OuterScales{} : x.scales(),
                         .residual = residual[i].data(),
                         .weight = weight.data(),
                         .eps = 1e-5F,
                         .out = out[i].data(),
                         .num_tokens = tokens,
                         .hidden_size = kSize},
                        stream()));
    }
    report(name + "rms_norm", differs(out[0], out[1]) + differs(residual[0], residual[1]), 0);
  }
  const LeftScales x(tokens, 48 * 128);
  const DeviceArray<uint16_t> whole(x.whole);
  const DeviceArray<float> cos_sin(random_values(rows * 128, 34, 0.7F));
  std::vector<int64_t> slots(rows);
  std::iota(slots.begin(), slots.end(), 0);
  const DeviceArray<int64_t> device_slots(slots);
  const int64_t blocks = tokens / 16 + 1;
  const auto cached = static_cast<size_t>(blocks * 16 * 8 * 128);
  DeviceArray<uint16_t> k[2] = {DeviceArray<uint16_t>(cached), DeviceArray<uint16_t>(cached)};
  DeviceArray<uint16_t> v[2] = {DeviceArray<uint16_t>(cached), DeviceArray<uint16_t>(cached)};
  for (const int i : {0, 1}) {
    k[i].fill(0);
    v[i].fill(0);
    launched(qk_norm_rope_kv_write({.qkv = i == 0 ? whole.data() : x.left.data(),
                                    .qkv_scales = i == 0 ? OuterScales{} : x.scales(),
                                    .num_tokens = tokens,
                                    .num_heads = 32,
                                    .num_kv_heads = 8,
                                    .head_dim = 128,
                                    .rotary_dim = 128,
                                    .cos_sin = cos_sin.data(),
                                    .slot_mapping = device_slots.data(),
                                    .cache = {.k = k[i].data(),
                                              .v = v[i].data(),
                                              .num_blocks = blocks,
                                              .num_kv_heads = 8,
                                              .block_size = 16,
                                              .head_dim = 128}},
                                   stream()));
  }
  report(name + "k and v", differs(k[0], k[1]) + differs(v[0], v[1]), 0);
}

}  // namespace
}  // namespace atom::gpu::device_test

int main() {
  using namespace atom::gpu::device_test;
  for (const int64_t tokens : {1, 33, 1027}) {
    test_left_scales(tokens);
  }
  std::printf("left_scales: %d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
