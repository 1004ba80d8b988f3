// Products of weights in the device's packed formats (linear_layout.h) against sums in double over
// the values that the CPU reads from the same checkpoint tensors: every kernel, adversarial shapes.
// Argument: none, or 'quick'. Prints error per row, ends with 'N passed, N failed', exits with 1
// after a failure.
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>

#include "atom/model_ops/device_linear.h"
#include "kernels/common/convert.h"
#include "kernels/gpu/device_test.h"
#include "kernels/gpu/linear.h"
#include "kernels/gpu/linear/expand.h"
#include "kernels/gpu/linear/packed.h"
#include "kernels/gpu/linear/tiled_plan.h"
#include "kernels/gpu/linear_layout.h"

namespace atom::gpu::device_test {
namespace {

int passed = 0;
int failed = 0;
constexpr double kF32Limit = 1e-10;
constexpr double kBf16Limit = 1.6e-5;
constexpr double kNormLimit = 4e-5;  // x and the normed value are rounded to bf16
// x is rounded to e4m3 on both sides alike; the tensor cores' sums of 128 products are not of f32.
constexpr double kBlockLimit = 1e-6;
constexpr double kQuantizedLimit = 2e-3;  // x rounded to e4m3 on one side

void report(const std::string& name, double error, double limit) {
  const bool good = error <= limit;
  ++(good ? passed : failed);
  if (!good || passed % 32 == 1) {
    std::printf("%s %-72s error %.1e (limit %.0e)\n", good ? "ok  " : "FAIL", name.c_str(), error,
                limit);
    std::fflush(stdout);
  }
}

// A checkpoint tensor, made up: any values but NaN, scales of any size, zero points 0 to 16.
struct Tensor {
  std::vector<uint8_t> values, scales, zeros;
  WeightPart part;

  Tensor(const DataFormat& format, int64_t rows, int64_t cols, std::mt19937& random)
      : values(static_cast<size_t>(rows * row_bytes(format.dtype, cols))) {
    for (uint8_t& byte : values) {
      byte = static_cast<uint8_t>(random());
      if (format.dtype == DType::kF8E4M3 && (byte & 0x7f) == 0x7f) byte = 0;
    }
    const int64_t tiles = format.block_n <= 0 ? 1 : (rows + format.block_n - 1) / format.block_n;
    const auto count = static_cast<size_t>(tiles * scales_per_row(format, cols));
    scales.resize(count * 4);
    zeros.resize(count);
    for (size_t i = 0; i < count; ++i) {
      zeros[i] = static_cast<uint8_t>(random() % 17);
      const float scale = 0.01F * static_cast<float>(1 + random() % 50);
      const auto half = format.scale_dtype == DType::kF16 ? f32_to_f16(scale) : f32_to_bf16(scale);
      if (format.scale_dtype == DType::kF8E8M0) {
        scales[i] = static_cast<uint8_t>(110 + random() % 20);
      } else if (format.scale_dtype == DType::kF32) {
        std::memcpy(&scales[i * 4], &scale, 4);
      } else {
        std::memcpy(&scales[i * 2], &half, 2);
      }
    }
    part = {.data = values.data(), .format = format, .rows = rows, .cols = cols};
    part.scales = scales.data();
    part.zeros = format.has_zeros ? zeros.data() : nullptr;
  }
};

struct Problem {
  std::string name;
  int64_t n = 0;
  int64_t k = 0;
  DataFormat format;
  std::vector<float> weight;           // [n, k]
  std::vector<float> x, input, gamma;  // [max_tokens, k], the norm's, [k]
  std::vector<float> bias;             // [n]
  DeviceArray<uint8_t> device_weight, device_scales;
  DeviceArray<uint16_t> device_x;
  DeviceArray<float> device_input, device_gamma, device_bias;

  static std::vector<uint8_t> rows_of(const std::vector<WeightPart>& parts) {
    std::vector<uint8_t> bytes;
    for (const WeightPart& part : parts) {
      const int64_t size = packed_row_bytes(part.format.dtype, part.cols);
      for (int64_t row = 0; row < part.rows; ++row) {
        bytes.resize(bytes.size() + static_cast<size_t>(size));
        pack_device_row(part, row, bytes.data() + std::ssize(bytes) - size);
      }
    }
    return bytes;
  }

  Problem(const std::vector<WeightPart>& parts, int64_t max_tokens, std::mt19937& random)
      : k(parts.front().cols),
        format(device_linear_format(parts)),
        x(static_cast<size_t>(max_tokens * k)),
        input(x.size()),
        gamma(static_cast<size_t>(k)),
        device_weight(rows_of(parts)),
        device_scales(pack_device_scales(parts, format, {})),
        device_x(x.size()),
        device_input(x.size()),
        device_gamma(gamma.size()),
        device_bias(1 << 16) {
    for (const WeightPart& part : parts) {
      n += part.rows;
      weight.resize(static_cast<size_t>(n * k));
      dequantize_rows(part, 0, part.rows, weight.data() + (n - part.rows) * k);
    }
    name = std::string(dtype_name(format.dtype)) + " [" + std::to_string(format.block_n) + ", " +
           std::to_string(format.block_k) + (format.has_zeros ? "] zeros N" : "] N") +
           std::to_string(n) + " K" + std::to_string(k);
    std::normal_distribution<float> normal;
    std::vector<uint16_t> bits(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      bits[i] = f32_to_bf16(normal(random));
      x[i] = bf16_to_f32(bits[i]);
      input[i] = 2.0F * normal(random);
    }
    for (float& g : gamma) g = 1.0F + 0.1F * normal(random);
    bias.resize(static_cast<size_t>(n));
    for (float& b : bias) b = normal(random);
    device_x.set(bits);
    device_input.set(input);
    device_gamma.set(gamma);
    device_bias.set(bias);
  }

  LinearArgs args(int64_t num_tokens) const {
    return {.x = device_x.data(),
            .weight = device_weight.data(),
            .weight_dtype = format.dtype,
            .has_zeros = format.has_zeros,
            .scale_values = static_cast<int16_t>(std::max<int64_t>(0, format.block_k)),
            .scales = reinterpret_cast<const float*>(device_scales.data()),
            .num_tokens = num_tokens,
            .out_features = n,
            .in_features = k,
            .out_dtype = DType::kF32};
  }

  double dot(const float* from, size_t row) const {
    double sum = 0;
    const float* w = weight.data() + row * static_cast<size_t>(k);
    for (int64_t i = 0; i < k; ++i) sum += static_cast<double>(from[i]) * w[i];
    return sum;
  }
  double plain(size_t m, size_t row) const {
    return dot(x.data() + m * static_cast<size_t>(k), row);
  }
  double normed(size_t m, size_t row) const {
    std::vector<float> values(static_cast<size_t>(k));
    double squares = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const float value = input[m * values.size() + i];
      squares += static_cast<double>(value) * value;
      values[i] = value * gamma[i];
    }
    return dot(values.data(), row) / std::sqrt(squares / static_cast<double>(k) + 1e-5);
  }
  // x as block_linear quantises it.
  double quantized(size_t m, size_t row) const {
    std::vector<float> values(x.begin() + static_cast<int64_t>(m) * k,
                              x.begin() + static_cast<int64_t>(m + 1) * k);
    for (size_t first = 0; first < values.size(); first += 128) {
      const size_t end = std::min(values.size(), first + 128);
      float largest = 0;
      for (size_t i = first; i < end; ++i) largest = std::max(largest, std::abs(values[i]));
      const float scale = largest > 0 ? largest / 448.0F : 1.0F;
      for (size_t i = first; i < end; ++i) {
        values[i] = f8e4m3_to_f32(f32_to_f8e4m3(values[i] / scale)) * scale;
      }
    }
    return dot(values.data(), row);
  }
};

// Runs into NaN, then compares up to 2048 outputs, the last one always.
template <class Run, class Expect>
std::vector<float> check(const std::string& name, LinearArgs args, double limit, const Run& run,
                         const Expect& expect, const std::vector<float>* residual = nullptr) {
  const bool pair = args.epilogue == LinearEpilogue::kSiluMul;
  const int64_t width = pair ? args.out_features / 2 : args.out_features;
  const auto count = static_cast<size_t>(args.num_tokens * width);
  const bool wide = args.out_dtype == DType::kF32 || residual != nullptr;
  DeviceArray<float> out(count + 4);
  out.fill(0xff);
  if (residual != nullptr) out.set(*residual);
  args.out = out.data();
  const std::string full = name + " M" + std::to_string(args.num_tokens);
  if (const DeviceStatus refused = run(args)) {
    if (std::strstr(refused, "does not fit") == nullptr) report(full + ": " + refused, 1, 0);
    return {};
  }
  const std::vector<float> raw = out.get();
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) {
    uint16_t word = 0;
    std::memcpy(&word, reinterpret_cast<const uint8_t*>(raw.data()) + i * 2, 2);
    values[i] = wide ? raw[i] : bf16_to_f32(word);
  }
  double errors = std::isnan(raw[count + 3]) || residual != nullptr
                      ? 0
                      : std::numeric_limits<double>::infinity();  // past the end
  double squares = 1e-30;
  const size_t step = std::max<size_t>(1, count / 2048 | 1);
  for (size_t i = 0; i < count; i += step) {
    const size_t at = i + step >= count ? count - 1 : i;
    const double expected =
        expect(at / static_cast<size_t>(width), at % static_cast<size_t>(width));
    const double difference = values[at] - expected;
    errors += difference * difference;
    squares += expected * expected;
  }
  for (const float value : values) {
    if (!std::isfinite(value)) errors = std::numeric_limits<double>::infinity();
  }
  report(full, errors / squares, limit);
  return values;
}

void test_small(const Problem& p, int64_t m) {
  for (const int tiles : {1, 2}) {
    for (const bool shared : {true, false}) {
      if (tiles == 1 && (!shared || m > 8)) continue;
      const SmallLinearPlan plan{.row_tiles = tiles, .shared_x = shared, .chained = shared};
      const auto run = [&](const LinearArgs& a) { return linear_small(a, plan, stream()); };
      const auto plain = [&](size_t i, size_t n) { return p.plain(i, n); };
      const std::string name = p.name + (shared ? " shared " : " direct ") + std::to_string(tiles);
      LinearArgs args = p.args(m);
      check(name, args, kF32Limit, run, plain);
      args.epilogue = LinearEpilogue::kAddResidual;
      std::vector<float> residual(static_cast<size_t>(m * p.n) + 4);
      for (size_t i = 0; i < residual.size(); ++i) residual[i] = static_cast<float>(i % 13) - 6;
      check(
          name + " residual", args, kF32Limit, run,
          [&](size_t i, size_t n) {
            return p.plain(i, n) + residual[i * static_cast<size_t>(p.n) + n];
          },
          &residual);
      args = p.args(m);
      args.bias = p.device_bias.data();
      args.out_dtype = DType::kBF16;
      check(name + " bias", args, kBf16Limit, run,
            [&](size_t i, size_t n) { return p.plain(i, n) + p.bias[n]; });
      if (!shared || m > kNormTokens) continue;
      args = p.args(m);
      args.norm_input = p.device_input.data();
      args.norm_weight = p.device_gamma.data();
      args.norm_eps = 1e-5F;
      check(name + " norm", args, kNormLimit, run,
            [&](size_t i, size_t n) { return p.normed(i, n); });
      if (p.n % 16 != 0 || tiles == 1) continue;
      args.epilogue = LinearEpilogue::kSiluMul;
      args.out_dtype = DType::kBF16;
      check(name + " norm silu", args, 10 * kNormLimit, run, [&](size_t i, size_t n) {
        const double gate = p.normed(i, n);
        return gate / (1 + std::exp(-gate)) * p.normed(i, n + static_cast<size_t>(p.n) / 2);
      });
    }
  }
}

// `alone`: the first row's results with one token, which every number of tokens repeats bit for
// bit.
void test_tiled(const Problem& p, int64_t m, std::vector<float>& alone) {
  const auto plain = [&](size_t i, size_t n) { return p.plain(i, n); };
  for (const int splits : {1, 2, 3}) {
    if (splits > scale_groups(p.k)) continue;
    DeviceArray<float> partials(static_cast<size_t>(splits * m * p.n));
    partials.fill(0xff);
    const TiledPlan plan{.splits = splits, .partials = splits > 1 ? partials.data() : nullptr};
    const auto run = [&](const LinearArgs& a) { return linear_tiled(a, plan, stream()); };
    LinearArgs args = p.args(m);
    const std::string name = p.name + " tiled/" + std::to_string(splits);
    const std::vector<float> out = check(name, args, kF32Limit, run, plain);
    if (splits == 1 && !out.empty()) {
      const std::vector<float> first(out.begin(), out.begin() + p.n);
      if (alone.empty()) alone = first;
      report(name + " row 0 as alone",
             std::memcmp(alone.data(), first.data(), first.size() * 4) == 0 ? 0 : 1, 0);
    }
    args.bias = p.device_bias.data();
    args.out_dtype = DType::kBF16;
    check(name + " bias", args, kBf16Limit, run,
          [&](size_t i, size_t n) { return p.plain(i, n) + p.bias[n]; });
  }
}

void test_expand(const Problem& p) {
  DeviceArray<uint16_t> out(p.weight.size());
  out.fill(0xff);
  const int64_t half = p.n / 16 * 8;
  DeviceStatus refused = expand_rows(p.args(1), 0, half, out.data(), stream());
  if (refused == nullptr) {
    refused = expand_rows(p.args(1), half, p.n - half, out.data() + half * p.k, stream());
  }
  const std::vector<uint16_t> bits = out.get();
  int64_t wrong = refused == nullptr ? 0 : 1;
  for (size_t i = 0; i < bits.size(); ++i) {
    const float value = bf16_to_f32(bits[i]);
    // Of two roundings at most: of the scale's product and to bf16.
    wrong += std::abs(value - p.weight[i]) <= std::abs(p.weight[i]) * 0.0040F ? 0 : 1;
  }
  report(p.name + " expanded, values that differ", static_cast<double>(wrong), 0);
}

// What linear() does, and the ways of many tokens apart.
void test_large(LinearContext* context, const PackedScratch& scratch, const Problem& p, int64_t m) {
  const auto plain = [&](size_t i, size_t n) { return p.plain(i, n); };
  LinearArgs args = p.args(m);
  const bool blocks = p.format.dtype == DType::kF8E4M3;
  check(
      p.name + " linear()", args, blocks ? kQuantizedLimit : kBf16Limit,
      [&](const LinearArgs& a) { return linear(context, a, stream()); }, plain);
  if (blocks) {
    check(
        p.name + " blocks", args, kBlockLimit,
        [&](const LinearArgs& a) { return linear_blocks(scratch, a, stream()); },
        [&](size_t i, size_t n) { return p.quantized(i, n); });
    args.bias = p.device_bias.data();
    args.out_dtype = DType::kBF16;
    check(
        p.name + " blocks bias", args, kBf16Limit,
        [&](const LinearArgs& a) { return linear_blocks(scratch, a, stream()); },
        [&](size_t i, size_t n) { return p.quantized(i, n) + p.bias[n]; });
  }
}

std::vector<DataFormat> formats() {
  const DType e4m3 = DType::kF8E4M3;
  const DType u4 = DType::kU4;
  return {
      {.dtype = e4m3, .block_n = 128, .block_k = 128},
      {.dtype = e4m3, .block_n = 24, .block_k = 128, .scale_dtype = DType::kBF16},
      {.dtype = DType::kI8, .block_n = 1, .block_k = -1},
      {.dtype = u4, .block_n = 1, .block_k = 128, .scale_dtype = DType::kBF16},
      {.dtype = u4, .block_n = 1, .block_k = 128, .scale_dtype = DType::kF16, .has_zeros = true},
      {.dtype = u4, .block_n = 1, .block_k = 32, .scale_dtype = DType::kBF16},
      {.dtype = u4, .block_n = 1, .block_k = 64, .scale_dtype = DType::kF16, .has_zeros = true},
      {.dtype = DType::kF4E2M1, .block_n = 1, .block_k = 32, .scale_dtype = DType::kF8E8M0}};
}

void run_shape(LinearContext* context, const PackedScratch& scratch, const DataFormat& format,
               const std::vector<int64_t>& rows, int64_t cols, const std::vector<int64_t>& tokens) {
  if (format.block_k > 0 && format.dtype != DType::kF8E4M3 && cols % format.block_k != 0) return;
  std::mt19937 random(static_cast<uint32_t>(cols * 31 + rows.front()));
  std::vector<Tensor> tensors;
  tensors.reserve(rows.size());
  std::vector<WeightPart> parts;
  for (const int64_t count : rows) {
    parts.push_back(tensors.emplace_back(format, count, cols, random).part);
  }
  const Problem p(parts, *std::max_element(tokens.begin(), tokens.end()), random);
  if (!is_packed(p.args(1))) return;  // one block: rows with a scale each, see gpu_linear_test
  std::vector<float> alone;
  test_expand(p);
  for (const int64_t m : tokens) {
    if (m <= 35) test_small(p, m);
    if (m <= 130) test_tiled(p, m, alone);
    if (m > 16) test_large(context, scratch, p, m);
  }
}

void run_all(bool quick) {
  LinearContext* context = nullptr;
  const LinearOptions options{.packed = true, .max_tokens = 2048, .max_in_features = 16384};
  DeviceArray<uint8_t> memory(size_t{192} << 20);
  DeviceArray<float> x_scales(size_t{2048} * 128);
  const PackedScratch scratch{.partials = memory.data() + (size_t{64} << 20),
                              .partials_bytes = int64_t{64} << 20,
                              .quantized_x = memory.data(),
                              .x_scales = x_scales.data(),
                              .max_tokens = 2048,
                              .max_in_features = 16384};
  if (create_linear_context(options, &context) != nullptr) {
    std::printf("FAIL context\n");
    ++failed;
    return;
  }
  std::printf("library: %s\n", library_status(context) == nullptr ? "ok" : library_status(context));
  for (const DataFormat& format : formats()) {
    for (const int64_t cols : {32, 48, 128, 160, 320, 1184}) {
      if (format.dtype != DType::kF8E4M3 && format.dtype != DType::kI8 && cols % 32 != 0) continue;
      run_shape(context, scratch, format, {8}, cols, {1, 7, 17, 65});
      run_shape(context, scratch, format, {136, 24, 24}, cols, {1, 3, 8, 9, 16, 33, 64, 129});
    }
    run_shape(context, scratch, format, {512, 512}, 1024, {1, 8, 16, 64, 130, 300});
    if (quick) continue;
    run_shape(context, scratch, format, {4096, 1024, 1024}, 4096, {1, 2, 32, 100, 257, 513});
    run_shape(context, scratch, format, {1536}, 14336, {1, 8, 31, 128, 700});
  }
  destroy_linear_context(context);
}

}  // namespace
}  // namespace atom::gpu::device_test

int main(int argc, char** argv) {
  atom::gpu::device_test::run_all(argc > 1 && std::strcmp(argv[1], "quick") == 0);
  std::printf("packed_linear: %d passed, %d failed\n", atom::gpu::device_test::passed,
              atom::gpu::device_test::failed);
  return atom::gpu::device_test::failed == 0 ? 0 : 1;
}
