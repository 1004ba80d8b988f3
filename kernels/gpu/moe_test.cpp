// Mixture of experts on the device against the CPU's router and against sums in double, over
// adversarial shapes: no token, one, odd sizes, everybody to the same experts, experts without a
// token. Repeats are compared bit by bit. Ends with 'N passed, N failed'; exits with 1 after a
// failure. Runs where a device is.
#include "kernels/gpu/moe.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>

#include "kernels/common/convert.h"
#include "kernels/cpu/moe.h"
#include "kernels/gpu/device_test.h"

namespace atom::gpu::device_test {
namespace {

int passed = 0;
int failed = 0;

void report(const std::string& name, double error, double limit) {
  const bool good = error <= limit;
  ++(good ? passed : failed);
  if (!good) {
    std::printf("FAIL %-60s error %.1e (limit %.0e)\n", name.c_str(), error, limit);
  }
}

void launched(DeviceStatus status) {
  if (status != nullptr) {
    report(std::string("launch: ") + status, 1, 0);
  }
}

std::vector<float> random_values(size_t count, uint32_t seed, float scale = 1.0F) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, scale);
  std::vector<float> values(count);
  std::generate(values.begin(), values.end(), [&] { return normal(random); });
  return values;
}

std::vector<uint16_t> to_bf16(const std::vector<float>& from) {
  std::vector<uint16_t> to(from.size());
  std::transform(from.begin(), from.end(), to.begin(), f32_to_bf16);
  return to;
}

std::vector<float> to_f32(const std::vector<uint16_t>& from) {
  std::vector<float> to(from.size());
  std::transform(from.begin(), from.end(), to.begin(), bf16_to_f32);
  return to;
}

// Squared error over squared reference; infinite for a value that was not written (NaN).
double error_of(const std::vector<float>& out, const std::vector<float>& expected) {
  double errors = 0;
  double squares = 1e-30;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = static_cast<double>(out[i]) - static_cast<double>(expected[i]);
    errors += difference * difference;
    squares += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  return std::isnan(errors) ? std::numeric_limits<double>::infinity() : errors / squares;
}

struct Choice {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Choice expected_choice(const RouterRule& rule, const std::vector<float>& logits, int64_t tokens,
                       int64_t experts, const float* bias) {
  const auto pairs = static_cast<size_t>(tokens * rule.top_k);
  Choice out{.ids = std::vector<int32_t>(pairs), .weights = std::vector<float>(pairs)};
  cpu::route({.logits = logits.data(),
              .num_experts = experts,
              .rule = rule,
              .correction_bias = bias,
              .ids = out.ids.data(),
              .weights = out.weights.data()},
             {0, tokens});
  return out;
}

// Ids equal, weights nearly.
double difference(const Choice& got, const Choice& want) {
  double worst = 0;
  for (size_t i = 0; i < want.ids.size(); ++i) {
    if (got.ids[i] != want.ids[i]) {
      return std::numeric_limits<double>::infinity();
    }
    const double error = std::abs(static_cast<double>(got.weights[i]) - want.weights[i]);
    worst = std::isnan(error) && !std::isnan(want.weights[i])
                ? std::numeric_limits<double>::infinity()
                : std::max(worst, error / (std::abs(static_cast<double>(want.weights[i])) + 1e-6));
  }
  return worst;
}

void test_route(const RouterRule& rule, int64_t tokens, int64_t experts, bool biased,
                const char* name) {
  const int64_t stride = (experts + 7) / 8 * 8;
  std::vector<float> logits = random_values(static_cast<size_t>(tokens * experts), 7);
  for (float& value : logits) {  // on a grid: what differs does so by more than rounding
    value = std::round(std::clamp(value, -4.0F, 4.0F) * 64) / 64;
  }
  if (tokens > 3) {
    std::fill_n(logits.begin() + 2 * experts, experts, 1.0F);  // everything is a tie
    if (rule.num_groups == 1) {
      std::fill_n(logits.begin() + 3 * experts, experts, std::numeric_limits<float>::quiet_NaN());
    }
  }
  std::vector<float> padded(static_cast<size_t>(tokens * stride), 1e30F);
  for (int64_t t = 0; t < tokens; ++t) {
    std::copy_n(logits.begin() + t * experts, experts, padded.begin() + t * stride);
  }
  const std::vector<float> bias = random_values(static_cast<size_t>(experts), 9, 0.01F);
  const Choice want =
      expected_choice(rule, logits, tokens, experts, biased ? bias.data() : nullptr);
  DeviceArray<float> d_logits(padded), d_bias(bias);
  DeviceArray<int32_t> ids(want.ids.size());
  DeviceArray<float> weights(want.weights.size());
  ids.fill(0xff);
  weights.fill(0xff);
  launched(route({.logits = d_logits.data(),
                  .logits_stride = stride,
                  .num_tokens = tokens,
                  .num_experts = experts,
                  .rule = rule,
                  .correction_bias = biased ? d_bias.data() : nullptr,
                  .ids = ids.data(),
                  .weights = weights.data()},
                 stream()));
  report(std::string("route ") + name + " " + std::to_string(tokens) + " of " +
             std::to_string(experts),
         difference({ids.get(), weights.get()}, want), 1e-4);
}

void test_routes() {
  const RouterRule sigmoid{.top_k = 8,
                           .scoring = ExpertScoring::kSigmoid,
                           .renormalize = true,
                           .num_groups = 8,
                           .top_groups = 4,
                           .groups_by_two_best = true,
                           .scale = 2.5F};
  for (const int64_t tokens : {0, 1, 9, 257}) {
    test_route({.top_k = 8, .renormalize = true}, tokens, 128, false, "qwen3");
    test_route({.top_k = 2, .renormalize = true}, tokens, 8, false, "mixtral");
    test_route({.top_k = 1}, tokens, 3, false, "one of three");
    test_route({.top_k = 4, .scoring = ExpertScoring::kSoftmaxTopK}, tokens, 32, false, "gpt-oss");
    test_route(sigmoid, tokens, 256, true, "deepseek v3");
    test_route({.top_k = 6, .num_groups = 8, .top_groups = 3, .scale = 16.0F}, tokens, 160, false,
               "deepseek v2");
    test_route({.top_k = 8, .scoring = ExpertScoring::kSigmoid, .renormalize = true}, tokens, 160,
               true, "glm");
    test_route({.top_k = 24, .num_groups = 24, .top_groups = 24, .groups_by_two_best = true},
               tokens, 24, false, "all of 24");
    test_route({.top_k = 32}, tokens, 1000, false, "32 of 1000");
  }
}

void test_norm_route(int64_t tokens, int64_t experts, int64_t hidden, bool with_bias) {
  const std::vector<float> residual = random_values(static_cast<size_t>(tokens * hidden), 1);
  const std::vector<float> norm = random_values(static_cast<size_t>(hidden), 2);
  const std::vector<uint16_t> router =
      to_bf16(random_values(static_cast<size_t>(experts * hidden), 3, 0.05F));
  const std::vector<float> bias = random_values(static_cast<size_t>(experts), 4);
  const std::vector<float> router_values = to_f32(router);
  std::vector<float> x(residual.size()), logits(static_cast<size_t>(tokens * experts));
  for (int64_t t = 0; t < tokens; ++t) {
    double squares = 0;
    for (int64_t i = 0; i < hidden; ++i) {
      squares += std::pow(static_cast<double>(residual[static_cast<size_t>(t * hidden + i)]), 2);
    }
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(hidden) + 1e-6);
    for (int64_t i = 0; i < hidden; ++i) {
      const auto at = static_cast<size_t>(t * hidden + i);
      x[at] = static_cast<float>(residual[at] * scale * norm[static_cast<size_t>(i)]);
    }
  }
  DeviceArray<float> d_residual(residual), d_norm(norm), d_bias(bias), d_logits(logits.size());
  DeviceArray<uint16_t> d_router(router), d_x(x.size());
  DeviceArray<int32_t> counter(1);
  counter.fill(0);
  d_x.fill(0xff);
  const RouterRule rule{.top_k = std::min<int64_t>(8, experts), .renormalize = true};
  DeviceArray<int32_t> ids(static_cast<size_t>(tokens * rule.top_k));
  DeviceArray<float> weights(static_cast<size_t>(tokens * rule.top_k));
  const std::string name = "norm_route " + std::to_string(tokens) + " of " +
                           std::to_string(experts) + " x " + std::to_string(hidden);
  for (int repeat = 0; repeat < 3; ++repeat) {
    launched(norm_route({.residual = d_residual.data(),
                         .norm_weight = d_norm.data(),
                         .eps = 1e-6F,
                         .hidden_size = hidden,
                         .router = d_router.data(),
                         .bias = with_bias ? d_bias.data() : nullptr,
                         .x = d_x.data(),
                         .logits = d_logits.data(),
                         .counter = counter.data(),
                         .route = {.logits = d_logits.data(),
                                   .logits_stride = experts,
                                   .num_tokens = tokens,
                                   .num_experts = experts,
                                   .rule = rule,
                                   .ids = ids.data(),
                                   .weights = weights.data()}},
                        stream()));
  }
  const std::vector<float> got_x = to_f32(d_x.get());
  report(name + " x", error_of(got_x, x), 8e-6);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t e = 0; e < experts; ++e) {
      double sum = with_bias ? bias[static_cast<size_t>(e)] : 0.0F;
      for (int64_t i = 0; i < hidden; ++i) {
        sum += static_cast<double>(got_x[static_cast<size_t>(t * hidden + i)]) *
               router_values[static_cast<size_t>(e * hidden + i)];
      }
      logits[static_cast<size_t>(t * experts + e)] = static_cast<float>(sum);
    }
  }
  const std::vector<float> got_logits = d_logits.get();
  report(name + " logits", error_of(got_logits, logits), 1e-10);
  report(name + " choice",
         difference({ids.get(), weights.get()},
                    expected_choice(rule, got_logits, tokens, experts, nullptr)),
         1e-4);
}

enum class Spread { kEven, kSame, kHalf };

struct Case {
  int64_t tokens, experts, top_k, hidden, inner;
  Spread spread = Spread::kEven;
  bool bias = false;
  bool clamped = false;
  bool add = false;
  bool wide = false;
  bool invariant = false;
  DType dtype = DType::kBF16;
  int32_t scale_rows = 8;  // of e4m3: 8, with 128 columns each, or 1
};

std::vector<int32_t> choose(const Case& c) {
  std::mt19937 random(11);
  std::vector<int32_t> order(static_cast<size_t>(c.experts)), ids;
  std::iota(order.begin(), order.end(), 0);
  for (int64_t t = 0; t < c.tokens; ++t) {
    if (c.spread == Spread::kEven) {
      std::shuffle(order.begin(), order.end(), random);
    } else if (c.spread == Spread::kHalf) {  // odd experts have no token, if enough are even
      std::shuffle(order.begin(), order.end(), random);
      if (c.experts >= 2 * c.top_k) {
        std::stable_partition(order.begin(), order.end(), [](int32_t e) { return e % 2 == 0; });
      }
    }
    ids.insert(ids.end(), order.begin(), order.begin() + c.top_k);
  }
  return ids;
}

// A matrix of all experts: as stored, and what it means.
struct Weight {
  DType dtype = DType::kBF16;
  int64_t rows = 0, cols = 0;
  int32_t scale_rows = 1, scale_cols = 1;
  std::vector<uint8_t> stored, scales;
  std::vector<float> values;
};

void encode_e4m3(Weight& w, int64_t experts, uint32_t seed) {
  std::vector<float> scales = random_values(
      static_cast<size_t>(experts * w.rows / w.scale_rows * w.scale_cols), seed, 0.01F);
  for (size_t i = 0; i < w.values.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const int64_t scale =
        at / w.cols / w.scale_rows * w.scale_cols + (w.scale_cols > 1 ? at % w.cols / 128 : 0);
    w.stored.push_back(f32_to_f8e4m3(w.values[i] * 100));
    w.values[i] = f8e4m3_to_f32(w.stored.back()) * scales[static_cast<size_t>(scale)];
  }
  w.scales.resize(scales.size() * 4);
  std::memcpy(w.scales.data(), scales.data(), w.scales.size());
}

void encode_mxfp4(Weight& w, uint32_t seed) {
  static constexpr float kValues[] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
  std::mt19937 random(seed);
  w.scales.resize(w.values.size() / 32);
  for (uint8_t& scale : w.scales) scale = static_cast<uint8_t>(118 + random() % 11);
  w.stored.resize(w.values.size() / 2);
  for (size_t i = 0; i < w.values.size(); i += 8) {
    const auto word = static_cast<uint32_t>(random());
    const float scale = std::ldexp(1.0F, w.scales[i / 32] - 127);
    for (size_t j = 0; j < 8; ++j) {
      const uint32_t nibble = word >> (4 * j) & 15U;
      w.values[i + j] = (nibble > 7 ? -scale : scale) * kValues[nibble % 8];
    }
    const uint32_t packed = pack_expert_word(word);
    std::memcpy(w.stored.data() + i / 2, &packed, 4);
  }
}

Weight random_weight(const Case& c, int64_t rows, int64_t cols, uint32_t seed) {
  Weight w{.dtype = c.dtype, .rows = rows, .cols = cols};
  w.values = random_values(static_cast<size_t>(c.experts * rows * cols), seed, 0.1F);
  if (c.dtype == DType::kF8E4M3) {
    w.scale_rows = c.scale_rows;
    w.scale_cols = c.scale_rows == 8 ? static_cast<int32_t>((cols + 127) / 128) : 1;
    encode_e4m3(w, c.experts, seed + 10);
  } else if (c.dtype == DType::kF4E2M1) {
    encode_mxfp4(w, seed);
  } else {
    const std::vector<uint16_t> bits = to_bf16(w.values);
    w.stored.resize(bits.size() * 2);
    std::memcpy(w.stored.data(), bits.data(), w.stored.size());
    w.values = to_f32(bits);
  }
  return w;
}

struct Model {
  Weight gate_up, down;
  std::vector<float> gate_up_bias, down_bias;
};

double act(const Case& c, double gate, double up) {
  if (!c.clamped) {
    return gate / (1 + std::exp(-gate)) * up;
  }
  gate = std::min(gate, 1.5);
  up = std::clamp(up, -1.5, 1.5);
  return (up + 1) * gate / (1 + std::exp(-1.702 * gate));
}

// What a token's expert gives.
void expert_of(const Case& c, const Model& m, int64_t e, const float* x, std::vector<double>& out) {
  std::vector<float> inside(static_cast<size_t>(c.inner));
  const auto dot = [&](const Weight& weight, int64_t row, int64_t cols, const float* values) {
    const float* from = weight.values.data() + row * cols;
    double sum = 0;
    for (int64_t i = 0; i < cols; ++i) {
      sum += static_cast<double>(values[i]) * from[i];
    }
    return sum;
  };
  for (int64_t i = 0; i < c.inner; ++i) {
    const int64_t gate = e * 2 * c.inner + i;
    const int64_t up = gate + c.inner;
    const double g = dot(m.gate_up, gate, c.hidden, x) +
                     (c.bias ? m.gate_up_bias[static_cast<size_t>(gate)] : 0.0F);
    const double u =
        dot(m.gate_up, up, c.hidden, x) + (c.bias ? m.gate_up_bias[static_cast<size_t>(up)] : 0.0F);
    inside[static_cast<size_t>(i)] = static_cast<float>(act(c, g, u));
  }
  out.resize(static_cast<size_t>(c.hidden));
  for (int64_t i = 0; i < c.hidden; ++i) {
    out[static_cast<size_t>(i)] =
        dot(m.down, e * c.hidden + i, c.inner, inside.data()) +
        (c.bias ? m.down_bias[static_cast<size_t>(e * c.hidden + i)] : 0.0F);
  }
}

ExpertMatrix matrix(const Weight& weight, const DeviceArray<uint8_t>& stored,
                    const DeviceArray<uint8_t>& scales, const DeviceArray<float>* bias) {
  return {.values = stored.data(),
          .dtype = weight.dtype,
          .scales = scales.data(),
          .scale_rows = weight.scale_rows,
          .scale_cols = weight.scale_cols,
          .bias = bias == nullptr ? nullptr : bias->data(),
          .rows = weight.rows,
          .cols = weight.cols};
}

void test_experts(const Case& c) {
  const Model m{.gate_up = random_weight(c, 2 * c.inner, c.hidden, 3),
                .down = random_weight(c, c.hidden, c.inner, 4),
                .gate_up_bias = random_values(static_cast<size_t>(c.experts * 2 * c.inner), 5),
                .down_bias = random_values(static_cast<size_t>(c.experts * c.hidden), 6)};
  const std::vector<uint16_t> x =
      to_bf16(random_values(static_cast<size_t>(c.tokens * c.hidden), 1));
  const std::vector<float> values = to_f32(x);
  const std::vector<int32_t> ids = choose(c);
  const std::vector<float> weights = random_values(ids.size(), 2);
  const std::vector<float> before = to_f32(to_bf16(random_values(x.size(), 8)));
  std::vector<float> want(x.size());
  std::vector<double> row;
  for (int64_t t = 0; t < c.tokens; ++t) {
    std::vector<double> sum(static_cast<size_t>(c.hidden));
    for (int64_t k = 0; k < c.top_k; ++k) {
      const auto pair = static_cast<size_t>(t * c.top_k + k);
      expert_of(c, m, ids[pair], values.data() + t * c.hidden, row);
      for (size_t i = 0; i < row.size(); ++i) {
        sum[i] += weights[pair] * row[i];
      }
    }
    for (size_t i = 0; i < sum.size(); ++i) {
      const size_t at = static_cast<size_t>(t * c.hidden) + i;
      want[at] = static_cast<float>(sum[i] + (c.add ? before[at] : 0.0F));
    }
  }
  DeviceArray<uint8_t> gate_up(m.gate_up.stored), down(m.down.stored);
  DeviceArray<uint8_t> gate_up_scales(m.gate_up.scales), down_scales(m.down.scales);
  DeviceArray<uint16_t> d_x(x), out(x.size());
  DeviceArray<float> gate_up_bias(m.gate_up_bias), down_bias(m.down_bias), d_weights(weights);
  DeviceArray<float> wide(x.size());
  DeviceArray<int32_t> d_ids(ids);
  DeviceArray<uint8_t> scratch(static_cast<size_t>(
      experts_scratch_bytes(c.tokens, c.top_k, c.experts, c.hidden, c.inner, c.dtype)));
  const FusedExpertsArgs args{
      .gate_up = matrix(m.gate_up, gate_up, gate_up_scales, c.bias ? &gate_up_bias : nullptr),
      .down = matrix(m.down, down, down_scales, c.bias ? &down_bias : nullptr),
      .num_experts = c.experts,
      .activation = c.clamped ? ExpertActivation::kClampedSwiglu : ExpertActivation::kSiluMul,
      .swiglu_limit = 1.5F,
      .x = d_x.data(),
      .ids = d_ids.data(),
      .weights = d_weights.data(),
      .num_tokens = c.tokens,
      .top_k = c.top_k,
      .out = c.wide ? static_cast<void*>(wide.data()) : out.data(),
      .out_dtype = c.wide ? DType::kF32 : DType::kBF16,
      .add = c.add,
      .invariant = c.invariant,
      .scratch = scratch.data()};
  std::vector<float> first;
  bool repeats = true;
  for (int run = 0; run < 3; ++run) {
    scratch.fill(0xff);
    if (c.add) {
      c.wide ? wide.set(before) : out.set(to_bf16(before));
    } else {
      c.wide ? wide.fill(0xff) : out.fill(0xff);
    }
    launched(fused_experts(args, stream()));
    const std::vector<float> got = c.wide ? wide.get() : to_f32(out.get());
    repeats = repeats && (run == 0 || std::memcmp(got.data(), first.data(), got.size() * 4) == 0);
    first = got;
  }
  static constexpr const char* kSpreads[] = {"even", "same", "half"};
  char name[128];
  std::snprintf(name, sizeof name, "experts %s %ld tokens, %ld of %ld, %ld x %ld %s%s%s%s%s%s",
                dtype_info(c.dtype).name, static_cast<long>(c.tokens), static_cast<long>(c.top_k),
                static_cast<long>(c.experts), static_cast<long>(c.hidden),
                static_cast<long>(c.inner), kSpreads[static_cast<int>(c.spread)],
                c.bias ? " bias" : "", c.clamped ? " clamped" : "", c.add ? " add" : "",
                c.wide ? " f32" : "", c.invariant ? " invariant" : "");
  // Inner rows are rounded to bf16, rows of choices too with many tokens, and the result.
  report(name, error_of(first, want), 2e-5);
  report(std::string(name) + " repeats", repeats ? 0 : 1, 0);
}

void test_all_experts() {
  for (const Spread spread : {Spread::kEven, Spread::kSame, Spread::kHalf}) {
    for (const int64_t tokens : {0, 1, 2, 7, 8, 9, 17, 65, 150}) {
      test_experts({tokens, 12, 3, 256, 136, spread});
    }
  }
  for (const int64_t tokens : {1, 8, 40}) {
    test_experts({tokens, 6, 2, 72, 24, Spread::kEven, true, true});
    test_experts({tokens, 6, 2, 72, 24, Spread::kSame, true, false, true, true});
    test_experts({tokens, 4, 1, 2048, 16, Spread::kEven, true, true, true});
    test_experts({tokens, 5, 4, 64, 1288, Spread::kEven, true, true, false, true});
    test_experts({tokens, 3, 2, 64, 5000, Spread::kEven, false, false, true, true});
    test_experts({tokens, 40, 32, 64, 32, Spread::kEven, false, false, true, true});
    test_experts({tokens, 1, 1, 8, 8});
    test_experts({tokens, 128, 8, 320, 200, Spread::kEven, false, false, false, false, true});
  }
  test_experts({300, 4, 2, 192, 320, Spread::kEven, true, true});
  test_experts({300, 4, 2, 192, 320, Spread::kSame, false, false, true, true});
  test_experts({700, 16, 8, 128, 64});
  test_experts({160, 3, 2, 128, 264, Spread::kSame});
  test_experts({161, 3, 2, 128, 264, Spread::kSame});
  for (const auto& [dtype, scale_rows] :
       {std::pair{DType::kF8E4M3, 8}, {DType::kF8E4M3, 1}, {DType::kF4E2M1, 0}}) {
    for (const int64_t tokens : {1, 5, 8, 40, 130}) {  // the last: expanded first
      Case c{tokens, 4, 2, 256, 160, Spread::kEven, true, true};
      c.dtype = dtype;
      c.scale_rows = scale_rows;
      test_experts(c);
      c.spread = Spread::kSame;
      c.bias = c.clamped = false;
      c.wide = c.add = true;
      test_experts(c);
      c.hidden = 2880;
      c.inner = 96;
      test_experts(c);
    }
  }
  test_experts({8, 64, 8, 2880, 104, Spread::kEven, true, true, true, true});
}

}  // namespace
}  // namespace atom::gpu::device_test

int main() {
  using namespace atom::gpu::device_test;
  test_routes();
  for (const int64_t tokens : {1, 3, 8}) {
    test_norm_route(tokens, 128, 2048, false);
    test_norm_route(tokens, 32, 2880, true);
    test_norm_route(tokens, 8, 72, false);
    test_norm_route(tokens, 257, 7168, true);
  }
  test_all_experts();
  std::printf("moe: %d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
