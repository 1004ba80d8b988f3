#include "tests/conformance/conformance.h"

#include <cmath>
#include <cstring>

#include "kernels/common/convert.h"

namespace atom::conformance {
namespace {

uint16_t random_scale(Rng& rng) {  // f16 in about +-[0.004, 0.06]
  const auto bits = static_cast<uint16_t>(0x1c00 + rng() % 0x1000);
  return static_cast<uint16_t>(bits | (rng() % 2 == 0 ? 0x8000U : 0U));
}

void put_u16(uint8_t* p, uint16_t value) { memcpy(p, &value, sizeof(value)); }

void fix_scales(Rng& rng, DType dtype, uint8_t* block) {
  switch (dtype) {
    case DType::kQ4_1:
    case DType::kQ4_K:
      put_u16(block + 2, random_scale(rng));
      [[fallthrough]];
    case DType::kQ8_0:
    case DType::kQ4_0:
      put_u16(block, random_scale(rng));
      break;
    case DType::kQ6_K:
      put_u16(block + 208, random_scale(rng));
      break;
    default:
      break;
  }
}

uint16_t to_f16(float value) {  // normal range only
  const uint32_t bits = float_bits(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000U);
  const uint32_t magnitude = bits & 0x7fffffffU;
  return magnitude < 0x38800000U ? sign
                                 : static_cast<uint16_t>(sign | ((magnitude - 0x38000000U) >> 13));
}

}  // namespace

const std::vector<std::unique_ptr<CpuOpTable>>& all_tables() {
  static const auto tables = [] {
    std::vector<std::unique_ptr<CpuOpTable>> made;
    const cpu::KernelTables found = cpu::available_kernels();
    for (int i = 0; i < found.count; ++i) {
      made.push_back(std::make_unique<CpuOpTable>(make_cpu_op_table(*found.tables[i])));
    }
    return made;
  }();
  return tables;
}

const CpuOpTable& reference_table() { return *all_tables().front(); }

Context::Context(const CpuOpTable& table, int num_threads)
    : pool_(std::make_unique<ThreadPool>(num_threads)),
      arena_(std::move(*Buffer::allocate(int64_t{256} << 20))) {
  ctx_.ops = &table;
  ctx_.parallel = pool_->parallel_for();
  ctx_.arena = &arena_;
}

std::vector<float> random_floats(Rng& rng, int64_t count, float spread) {
  std::normal_distribution<float> normal(0.0F, spread);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) {
    value = normal(rng) * (rng() % 97 == 0 ? 100.0F : 1.0F);
  }
  return values;
}

std::vector<uint8_t> random_weight(Rng& rng, DType dtype, int64_t rows, int64_t cols) {
  std::vector<uint8_t> bytes(static_cast<size_t>(dtype_bytes(dtype, rows * cols)));
  const DTypeInfo info = dtype_info(dtype);
  if (info.block_size > 1) {
    for (uint8_t& byte : bytes) {
      byte = static_cast<uint8_t>(rng());
    }
    for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(info.block_bytes)) {
      fix_scales(rng, dtype, bytes.data() + at);
    }
    return bytes;
  }
  std::normal_distribution<float> normal(0.0F, 0.05F);
  for (int64_t i = 0; i < rows * cols; ++i) {
    const float value = normal(rng);
    uint8_t* p = bytes.data() + i * info.block_bytes;
    switch (dtype) {
      case DType::kF16:
        put_u16(p, to_f16(value));
        break;
      case DType::kBF16:
        put_u16(p, f32_to_bf16(value));
        break;
      default:
        memcpy(p, &value, sizeof(value));
        break;
    }
  }
  return bytes;
}

double nmse(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0;
  double power = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double difference = static_cast<double>(got[i]) - static_cast<double>(want[i]);
    error += difference * difference;
    power += static_cast<double>(want[i]) * static_cast<double>(want[i]);
  }
  const double result = power > 0 ? error / power : error;
  return std::isfinite(result) ? result : INFINITY;
}

}  // namespace atom::conformance
