// Linear layers on the device against sums in double on the host, over adversarial shapes, every
// variant of the own kernel and the library; and that a row's result does not depend on the batch.
// Argument: none, or 'quick'. Prints error per row, ends with 'N passed, N failed', exits with 1
// after a failure.
#include "kernels/gpu/linear.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>

#include "kernels/common/convert.h"
#include "kernels/gpu/device_test.h"

namespace atom::gpu::device_test {
namespace {

int passed = 0;
int failed = 0;
constexpr double kF32Limit = 1e-10;
constexpr double kBf16Limit = 1.6e-5;  // a rounding of each value: 2^-9, squared, or less

struct Shape {
  int64_t n;
  int64_t k;
};

// Weights and activations of one shape, for up to max_tokens.
struct Problem {
  Shape shape;
  bool e4m3;
  std::vector<float> x;       // [max_tokens, k]
  std::vector<float> weight;  // [n, k] as multiplied, scales included
  std::vector<float> bias;    // [n]
  std::vector<float> input;   // [max_tokens, k] of the norm
  std::vector<float> gamma;   // [k]
  DeviceArray<uint16_t> device_x;
  DeviceArray<uint8_t> device_weight;
  DeviceArray<float> device_scales;
  DeviceArray<float> device_bias;
  DeviceArray<float> device_input;
  DeviceArray<float> device_gamma;

  Problem(Shape s, bool is_e4m3, int64_t max_tokens)
      : shape(s),
        e4m3(is_e4m3),
        x(static_cast<size_t>(max_tokens * s.k)),
        weight(static_cast<size_t>(s.n * s.k)),
        bias(static_cast<size_t>(s.n)),
        input(x.size()),
        gamma(static_cast<size_t>(s.k)),
        device_x(x.size()),
        device_weight(weight.size() * (is_e4m3 ? 1 : 2)),
        device_scales(bias.size()),
        device_bias(bias.size()),
        device_input(x.size()),
        device_gamma(gamma.size()) {
    std::mt19937 random(static_cast<uint32_t>(s.n * 31 + s.k));
    std::normal_distribution<float> normal;
    std::vector<uint16_t> bits(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      bits[i] = f32_to_bf16(normal(random));
      x[i] = bf16_to_f32(bits[i]);
      input[i] = 2.0F * normal(random);
    }
    device_x.set(bits);
    device_input.set(input);
    std::vector<float> scales(bias.size());
    for (size_t i = 0; i < bias.size(); ++i) {
      bias[i] = normal(random);
      scales[i] = 0.01F * (1.0F + static_cast<float>(i % 7));
    }
    device_bias.set(bias);
    device_scales.set(scales);
    for (float& g : gamma) {
      g = 1.0F + 0.1F * normal(random);
    }
    device_gamma.set(gamma);
    std::vector<uint8_t> bytes(device_weight.size());
    for (size_t i = 0; i < weight.size(); ++i) {
      if (e4m3) {  // every finite code, subnormals and both zeros included
        const auto code = static_cast<uint8_t>(random());
        bytes[i] = (code & 0x7fU) == 0x7fU ? uint8_t{0} : code;
        weight[i] = f8e4m3_to_f32(bytes[i]) * scales[i / static_cast<size_t>(s.k)];
      } else {
        const uint16_t word = f32_to_bf16(normal(random));
        memcpy(&bytes[i * 2], &word, 2);
        weight[i] = bf16_to_f32(word);
      }
    }
    device_weight.set(bytes);
  }

  // y[m, n], from x or from the normed input.
  double expect(size_t m, size_t n, bool norm, bool with_bias) const {
    const auto k = static_cast<size_t>(shape.k);
    double sum = 0;
    double squares = 0;
    for (size_t i = 0; i < k; ++i) {
      const double value = norm ? static_cast<double>(input[m * k + i]) : x[m * k + i];
      squares += value * value;
      sum += value * (norm ? gamma[i] : 1.0F) * weight[n * k + i];
    }
    if (norm) {
      sum /= std::sqrt(squares / static_cast<double>(k) + 1e-5);
    }
    return sum + (with_bias ? static_cast<double>(bias[n]) : 0.0);
  }

  LinearArgs args(int64_t num_tokens) const {
    return {.x = device_x.data(),
            .weight = device_weight.data(),
            .weight_dtype = e4m3 ? DType::kF8E4M3 : DType::kBF16,
            .scales = e4m3 ? device_scales.data() : nullptr,
            .num_tokens = num_tokens,
            .out_features = shape.n,
            .in_features = shape.k};
  }
};

void report(const std::string& name, double error, double limit) {
  const bool good = error <= limit;
  ++(good ? passed : failed);
  if (!good || passed % 16 == 1) {  // all would be thousands of lines
    std::printf("%s %-64s error %.1e (limit %.0e)\n", good ? "ok  " : "FAIL", name.c_str(), error,
                limit);
  }
}

std::string name_of(const Problem& p, const LinearArgs& a, const std::string& variant) {
  return std::string(p.e4m3 ? "e4m3" : "bf16") + " M" + std::to_string(a.num_tokens) + " N" +
         std::to_string(p.shape.n) + " K" + std::to_string(p.shape.k) + " " + variant;
}

// Error of up to 2048 outputs spread over [num_tokens, width]; NaN counts as infinite.
template <class Expect>
double sampled_error(const std::vector<float>& out, int64_t num_tokens, int64_t width,
                     const Expect& expect) {
  const auto count = static_cast<size_t>(num_tokens * width);
  const size_t step = std::max<size_t>(1, count / 2048 | 1);
  double errors = 0;
  double squares = 1e-30;
  for (size_t i = 0; i < count; i += step) {
    const size_t at = i + step >= count ? count - 1 : i;  // the last one always
    const double expected =
        expect(at / static_cast<size_t>(width), at % static_cast<size_t>(width));
    const double difference = static_cast<double>(out[at]) - expected;
    errors += difference * difference;
    squares += expected * expected;
  }
  for (const float value : out) {
    if (std::isnan(value)) return std::numeric_limits<double>::infinity();
  }
  return errors / squares;
}

// Runs the product into `out` (NaN before) and returns it as f32.
template <class Run>
std::vector<float> outputs(const LinearArgs& given, const std::vector<float>* residual,
                           const Run& run, std::string& refused) {
  LinearArgs args = given;
  const int64_t width =
      args.epilogue == LinearEpilogue::kSiluMul ? args.out_features / 2 : args.out_features;
  const auto count = static_cast<size_t>(args.num_tokens * width);
  DeviceArray<float> out(count + 1);
  out.fill(0xff);
  if (residual != nullptr) out.set(*residual);
  args.out = out.data();
  const DeviceStatus status = run(args);
  refused = status == nullptr ? "" : status;
  std::vector<float> wide = out.get();
  if (args.out_dtype == DType::kBF16 && args.epilogue != LinearEpilogue::kAddResidual) {
    std::vector<float> narrow(count);
    for (size_t i = 0; i < count; ++i) {
      uint16_t word = 0;
      memcpy(&word, reinterpret_cast<const uint8_t*>(wide.data()) + i * 2, 2);
      narrow[i] = bf16_to_f32(word);
    }
    return narrow;
  }
  if (!std::isnan(wide.back()) && residual == nullptr) refused = "wrote past the end";
  wide.resize(count);
  return wide;
}

void check_stored(const Problem& p, const LinearArgs& args, const SmallLinearPlan& plan,
                  const std::string& variant, std::vector<float>* first_row) {
  std::string refused;
  const std::vector<float> out = outputs(
      args, nullptr, [&](const LinearArgs& a) { return linear_small(a, plan, stream()); }, refused);
  if (refused == "linear_small: x does not fit into shared memory") return;
  if (!refused.empty()) {
    report(name_of(p, args, variant) + ": " + refused, 1, 0);
    return;
  }
  if (args.num_tokens == 0) return;
  const bool norm = args.norm_input != nullptr;
  const double limit = norm || args.out_dtype == DType::kBF16 ? kBf16Limit : kF32Limit;
  report(
      name_of(p, args, variant),
      sampled_error(out, args.num_tokens, p.shape.n,
                    [&](size_t m, size_t n) { return p.expect(m, n, norm, args.bias != nullptr); }),
      limit);
  if (first_row == nullptr) return;
  if (first_row->empty()) {
    first_row->assign(out.begin(), out.begin() + p.shape.n);
  } else {
    report(name_of(p, args, variant) + " row 0 as alone",
           memcmp(first_row->data(), out.data(), first_row->size() * 4) == 0 ? 0 : 1, 0);
  }
}

void test_variants(const Problem& p, const std::vector<int64_t>& tokens) {
  std::vector<float> first_row;
  for (const int64_t m : tokens) {
    for (const int tiles : {1, 2}) {
      for (const char* reader : {"direct", "shared", "ring"}) {
        const bool shared_x = reader[0] != 'd';
        const SmallLinearPlan plan{.row_tiles = tiles,
                                   .blocks_per_multiprocessor = tiles == 1 ? 2 : 1,
                                   .shared_x = shared_x,
                                   .chained = shared_x,
                                   .ring = reader[0] == 'r'};
        if (plan.ring && m > 16) continue;
        LinearArgs args = p.args(m);
        args.out_dtype = DType::kF32;
        const std::string variant = "tiles " + std::to_string(tiles) + " " + reader;
        check_stored(p, args, plan, variant, &first_row);
        args.bias = p.device_bias.data();
        args.out_dtype = DType::kBF16;
        check_stored(p, args, plan, variant + " bias bf16", nullptr);
        if (shared_x && m <= kNormTokens) {
          args.norm_input = p.device_input.data();
          args.norm_weight = p.device_gamma.data();
          args.norm_eps = 1e-5F;
          args.out_dtype = DType::kF32;
          check_stored(p, args, plan, variant + " norm", nullptr);
        }
      }
    }
  }
}

void test_epilogues(const Problem& p, int64_t m, bool ring) {
  LinearArgs args = p.args(m);
  const auto count = static_cast<size_t>(m * p.shape.n);
  std::vector<float> residual(count + 1);
  for (size_t i = 0; i <= count; ++i) residual[i] = static_cast<float>(i % 13) - 6.0F;
  args.epilogue = LinearEpilogue::kAddResidual;
  std::string refused;
  const auto run = [&](const LinearArgs& a) {
    SmallLinearPlan plan = choose_small_plan(a);
    plan.ring = ring;
    return linear_small(a, plan, stream());
  };
  std::vector<float> out = outputs(args, &residual, run, refused);
  const auto width = static_cast<size_t>(p.shape.n);
  report(name_of(p, args, "add residual " + refused),
         sampled_error(out, m, p.shape.n,
                       [&](size_t i, size_t n) {
                         return p.expect(i, n, false, false) +
                                static_cast<double>(residual[i * width + n]);
                       }),
         kF32Limit);
  if (p.shape.n % 2 != 0) return;
  args.epilogue = LinearEpilogue::kSiluMul;
  out = outputs(args, nullptr, run, refused);
  report(name_of(p, args, "silu mul " + refused),
         sampled_error(out, m, p.shape.n / 2,
                       [&](size_t i, size_t n) {
                         const double gate = p.expect(i, n, false, false);
                         const double up = p.expect(i, n + width / 2, false, false);
                         return gate / (1 + std::exp(-gate)) * up;
                       }),
         2 * kBf16Limit);
}

void test_library(LinearContext* context, const Problem& p, int64_t m) {
  LinearArgs args = p.args(m);
  for (const bool with_bias : {false, true}) {
    args.bias = with_bias ? p.device_bias.data() : nullptr;
    args.out_dtype = with_bias ? DType::kBF16 : DType::kF32;
    std::string refused;
    const std::vector<float> out = outputs(
        args, nullptr, [&](const LinearArgs& a) { return linear(context, a, stream()); }, refused);
    // An e4m3 product of the library rounds x to e4m3.
    report(name_of(p, args, "linear() " + refused),
           sampled_error(out, m, p.shape.n,
                         [&](size_t i, size_t n) { return p.expect(i, n, false, with_bias); }),
           p.e4m3      ? 2e-3
           : with_bias ? 2 * kBf16Limit
                       : 1e-9);
  }
}

// What the caller quantised is taken, once, and only for the x that it was made from.
void test_quantized_input(LinearContext* context, const Problem& p, int64_t m) {
  LinearArgs args = p.args(m);
  const auto run = [&](const LinearArgs& a) { return linear(context, a, stream()); };
  std::string refused;
  const std::vector<float> expected = outputs(args, nullptr, run, refused);
  const QuantizedInput input = quantized_input(context, args.x, m, p.shape.k);
  if (input.values == nullptr) {
    report(name_of(p, args, "quantised input: none"), 1.0, 0.0);
    return;
  }
  const auto bytes = static_cast<size_t>(m * p.shape.k);
  ATOM_DEVICE(cudaMemsetAsync(input.values, 0, bytes, stream()));
  double sum = 0;
  for (const float value : outputs(args, nullptr, run, refused)) sum += std::abs(value);
  report(name_of(p, args, "quantised input is taken " + refused), sum, 0.0);
  report(name_of(p, args, "quantised input is taken once"),
         outputs(args, nullptr, run, refused) == expected ? 0 : 1, 0.0);
  (void)quantized_input(context, args.x + 8, m, p.shape.k);
  report(name_of(p, args, "quantised input of another x"),
         outputs(args, nullptr, run, refused) == expected ? 0 : 1, 0.0);
}

// Choosing all algorithms at once leaves the results right.
void test_tune(const Problem& p) {
  LinearContext* context = nullptr;
  if (create_linear_context({.e4m3 = true, .max_tokens = 300, .max_in_features = 16384},
                            &context) != nullptr) {
    report("tune_linear: context", 1.0, 0.0);
    return;
  }
  test_library(context, p, 300);
  DeviceArray<uint8_t> scratch(size_t{64} << 20);
  scratch.fill(0);
  const DeviceStatus tuned =
      tune_linear(context, scratch.data(), static_cast<int64_t>(scratch.size()), stream());
  report(std::string("tune_linear ") + (tuned == nullptr ? "" : tuned), tuned == nullptr ? 0 : 1,
         0.0);
  for (const int64_t m : {33, 96, 129}) test_library(context, p, m);
  destroy_linear_context(context);
}

// quick: small shapes only, for tools that slow a program down a hundred times.
void run_all(bool quick) {
  LinearContext* context = nullptr;
  const DeviceStatus created =
      create_linear_context({.e4m3 = true, .max_tokens = 2048, .max_in_features = 16384}, &context);
  if (created != nullptr) {
    std::printf("FAIL context: %s\n", created);
    ++failed;
    return;
  }
  std::printf("library: %s\n", library_status(context) == nullptr ? "ok" : library_status(context));
  const std::vector<int64_t> few = {0, 1, 2, 7, 8, 9, 16};
  const std::vector<int64_t> many = {1, 8, 15, 16, 17, 31, 33, 64, 65};
  for (const bool e4m3 : {false, true}) {
    for (const Shape shape : {Shape{1, 16}, Shape{7, 32}, Shape{8, 128}, Shape{9, 1040},
                              Shape{17, 576}, Shape{1000, 896}, Shape{1026, 2064}}) {
      const Problem p(shape, e4m3, 65);
      test_variants(p, many);
      for (const bool ring : {false, true}) {
        test_epilogues(p, 3, ring);
        test_epilogues(p, 16, ring);
      }
    }
    if (quick) continue;
    for (const Shape shape :
         {Shape{4096, 1024}, Shape{1024, 3072}, Shape{4096, 4096}, Shape{1536, 14336}}) {
      const Problem p(shape, e4m3, 300);
      test_variants(p, few);
      for (const bool ring : {false, true}) {
        test_epilogues(p, 1, ring);
        test_epilogues(p, 4, ring);
      }
      for (const int64_t m : {17, 64, 200, 300}) test_library(context, p, m);
      if (e4m3 && shape.n == 1536) test_quantized_input(context, p, 300);
      if (shape.n == 1536) test_tune(p);
    }
  }
  destroy_linear_context(context);
}

}  // namespace
}  // namespace atom::gpu::device_test

int main(int argc, char** argv) {
  atom::gpu::device_test::run_all(argc > 1 && std::strcmp(argv[1], "quick") == 0);
  std::printf("linear: %d passed, %d failed\n", atom::gpu::device_test::passed,
              atom::gpu::device_test::failed);
  return atom::gpu::device_test::failed == 0 ? 0 : 1;
}
