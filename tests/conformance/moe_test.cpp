// Mixture of experts: choosing experts, and the experts' products. Every table against definitions
// written out here, over awkward shapes, and bitwise equality for any batch and number of threads.
#include "kernels/cpu/moe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "tests/conformance/conformance.h"

namespace atom::conformance {
namespace {

struct Choice {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Choice route(const ExecContext& ctx, const RouterRule& rule, std::vector<float> logits,
             int64_t num_experts, const float* bias) {
  const auto num_tokens = static_cast<int64_t>(logits.size()) / num_experts;
  Choice out{.ids = std::vector<int32_t>(static_cast<size_t>(num_tokens * rule.top_k), -1),
             .weights = std::vector<float>(static_cast<size_t>(num_tokens * rule.top_k), -1.0F)};
  ctx.ops->route(ctx, {.rule = rule,
                       .num_experts = num_experts,
                       .correction_bias = bias,
                       .logits = matrix(logits, num_tokens, num_experts),
                       .ids = Tensor(out.ids.data(), DType::kI32, {num_tokens, rule.top_k}),
                       .weights = matrix(out.weights, num_tokens, rule.top_k)});
  return out;
}

// The rule as its documentation says it, in doubles, by sorting.
void check_choice(const RouterRule& rule, const std::vector<float>& logits, int64_t n,
                  const std::vector<float>& bias, const Choice& got) {
  const auto tokens = static_cast<int64_t>(logits.size()) / n;
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<double> score(logits.begin() + t * n, logits.begin() + (t + 1) * n);
    if (rule.scoring == ExpertScoring::kSigmoid) {
      for (double& s : score) s = 1.0 / (1.0 + std::exp(-s));
    } else if (rule.scoring == ExpertScoring::kSoftmax) {
      double sum = 0;
      for (double& s : score) sum += s = std::exp(s);
      for (double& s : score) s /= sum;
    }
    std::vector<double> choice = score;
    for (size_t e = 0; e < choice.size() && !bias.empty(); ++e) choice[e] += bias[e];
    const int64_t size = n / rule.num_groups;
    std::vector<std::pair<double, int64_t>> groups;
    for (int64_t g = 0; g < rule.num_groups; ++g) {
      std::vector<double> members(choice.begin() + g * size, choice.begin() + (g + 1) * size);
      std::ranges::sort(members, std::greater<>());
      const bool two = rule.groups_by_two_best && size > 1;
      groups.emplace_back(-(members[0] + (two ? members[1] : 0.0)), g);
    }
    std::ranges::sort(groups);
    std::vector<std::pair<double, int64_t>> order;
    for (int64_t i = 0; i < rule.top_groups; ++i) {
      const int64_t g = groups[static_cast<size_t>(i)].second;
      for (int64_t e = g * size; e < (g + 1) * size; ++e)
        order.emplace_back(-choice[static_cast<size_t>(e)], e);
    }
    std::ranges::sort(order);
    std::vector<double> weights;
    double sum = 0;
    for (int64_t k = 0; k < rule.top_k; ++k) {
      const int64_t e = order[static_cast<size_t>(k)].second;
      ASSERT_EQ(got.ids[static_cast<size_t>(t * rule.top_k + k)], e) << "token " << t;
      const double s = score[static_cast<size_t>(e)];
      weights.push_back(rule.scoring == ExpertScoring::kSoftmaxTopK ? std::exp(s) : s);
      sum += weights.back();
    }
    const bool normed = rule.renormalize || rule.scoring == ExpertScoring::kSoftmaxTopK;
    for (int64_t k = 0; k < rule.top_k; ++k) {
      const double want = weights[static_cast<size_t>(k)] / (normed ? sum : 1.0) * rule.scale;
      ASSERT_NEAR(got.weights[static_cast<size_t>(t * rule.top_k + k)], want, 1e-5 * want + 1e-9);
    }
  }
}

TEST(MoeConformance, RouterFollowsEveryRule) {
  Rng rng(5);
  const RouterRule rules[] = {
      {.top_k = 1},
      {.top_k = 8, .renormalize = true},
      {.top_k = 3, .scoring = ExpertScoring::kSigmoid, .renormalize = true, .scale = 2.5F},
      {.top_k = 4, .scoring = ExpertScoring::kSoftmaxTopK},
      {.top_k = 4, .num_groups = 6, .top_groups = 2, .scale = 16.0F},
      {.top_k = 6,
       .scoring = ExpertScoring::kSigmoid,
       .renormalize = true,
       .num_groups = 6,
       .top_groups = 3,
       .groups_by_two_best = true},
      {.top_k = 24, .num_groups = 24, .top_groups = 24, .groups_by_two_best = true}};
  constexpr int64_t kExperts = 24;
  for (const auto& table : all_tables()) {
    Context ctx(*table, 3);
    for (const RouterRule& rule : rules) {
      for (const int64_t tokens : {1, 7, 300}) {
        // On a grid: what differs does so by more than rounding, and equals are equal.
        std::vector<float> logits = random_floats(rng, tokens * kExperts);
        for (float& value : logits) value = std::round(std::clamp(value, -4.0F, 4.0F) * 64) / 64;
        const bool biased = rule.scoring == ExpertScoring::kSigmoid;
        const std::vector<float> bias =
            biased ? random_floats(rng, kExperts, 0.01F) : std::vector<float>();
        check_choice(rule, logits, kExperts, bias,
                     route(*ctx, rule, logits, kExperts, biased ? bias.data() : nullptr));
      }
    }
  }
}

TEST(MoeConformance, EqualScoresAndNanChooseTheLowerExpert) {
  Context ctx(reference_table());
  const Choice even = route(*ctx, {.top_k = 3}, std::vector<float>(8, 1.0F), 8, nullptr);
  EXPECT_EQ(even.ids, (std::vector<int32_t>{0, 1, 2}));
  const Choice broken = route(*ctx, {.top_k = 2}, std::vector<float>(8, NAN), 8, nullptr);
  EXPECT_EQ(broken.ids, (std::vector<int32_t>{0, 1}));
}

// A layer of experts with weights of one type, and what it must give by plain linear products.
struct Layer {
  ExpertsWeight experts;
  int64_t hidden, inner, top_k;

  Layer(const ExecContext& ctx, DType dtype, int64_t count, int64_t hidden_size, int64_t inner_size,
        int64_t per_token)
      : hidden(hidden_size), inner(inner_size), top_k(per_token) {
    Rng rng(17);
    for (int64_t e = 0; e < count; ++e) {
      experts.gate_up.push_back(pack(ctx, rng, dtype, 2 * inner, hidden));
      experts.down.push_back(pack(ctx, rng, dtype, hidden, inner));
    }
  }

  static LinearWeight pack(const ExecContext& ctx, Rng& rng, DType dtype, int64_t rows,
                           int64_t cols) {
    const std::vector<uint8_t> stored = random_weight(rng, dtype, rows, cols);
    const WeightPart part{
        .data = stored.data(), .format = {.dtype = dtype}, .rows = rows, .cols = cols};
    LinearWeight out;
    EXPECT_TRUE(ctx.ops->pack_linear(ctx, {&part, 1}, ComputeType::kAuto, out));
    return out;
  }

  std::vector<float> run(const ExecContext& ctx, std::vector<float> x, std::vector<int32_t> ids,
                         std::vector<float> weights, std::vector<float> out, bool add) const {
    const auto tokens = static_cast<int64_t>(ids.size()) / top_k;
    ctx.ops->fused_experts(ctx, experts,
                           {.x = matrix(x, tokens, hidden),
                            .ids = Tensor(ids.data(), DType::kI32, {tokens, top_k}),
                            .weights = matrix(weights, tokens, top_k),
                            .out = matrix(out, tokens, hidden),
                            .add = add});
    return out;
  }

  // One token at a time through linear and silu_mul, summed in the order of the chosen experts.
  std::vector<float> plain(const ExecContext& ctx, std::vector<float> x,
                           const std::vector<int32_t>& ids,
                           const std::vector<float>& weights) const {
    std::vector<float> out(x.size(), 0.0F);
    for (size_t pair = 0; pair < ids.size(); ++pair) {
      const auto token = static_cast<int64_t>(pair) / top_k;
      const auto e = static_cast<size_t>(ids[pair]);
      std::vector<float> row(x.begin() + token * hidden, x.begin() + (token + 1) * hidden);
      std::vector<float> gate_up(static_cast<size_t>(2 * inner)),
          inside(static_cast<size_t>(inner)), answer(static_cast<size_t>(hidden));
      ctx.ops->linear(ctx, matrix(row, 1, hidden), experts.gate_up[e],
                      matrix(gate_up, 1, 2 * inner));
      ctx.ops->silu_mul(ctx, matrix(gate_up, 1, 2 * inner), matrix(inside, 1, inner));
      ctx.ops->linear(ctx, matrix(inside, 1, inner), experts.down[e], matrix(answer, 1, hidden));
      for (int64_t i = 0; i < hidden; ++i)
        out[static_cast<size_t>(token * hidden + i)] +=
            weights[pair] * answer[static_cast<size_t>(i)];
    }
    return out;
  }
};

// `skew`: everybody asks the same experts.
std::vector<int32_t> choose(Rng& rng, int64_t tokens, int64_t top_k, int64_t count, bool skew) {
  std::vector<int32_t> ids, order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  for (int64_t t = 0; t < tokens; ++t) {
    if (!skew) std::shuffle(order.begin(), order.end(), rng);
    ids.insert(ids.end(), order.begin(), order.begin() + top_k);
  }
  return ids;
}

TEST(MoeConformance, ExpertsEqualPlainProductsAtAnyBatch) {
  Rng rng(23);
  for (const auto& table : all_tables()) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kQ8_0}) {
      Context one(*table, 1), many(*table, 5);
      const Layer layer(*one, dtype, 9, 64, 32, 3);
      for (const int64_t tokens : {1, 2, 65, 1400}) {  // 1400 x 3 pairs are two passes
        if (tokens == 1400 && table->kernels == &cpu::reference_kernels()) continue;
        const std::vector<float> x = random_floats(rng, tokens * layer.hidden);
        const std::vector<int32_t> ids = choose(rng, tokens, 3, 9, tokens == 65);
        const std::vector<float> weights = random_floats(rng, tokens * 3, 0.01F);
        const std::vector<float> want = layer.plain(*one, x, ids, weights);
        const std::vector<float> stale(x.size(), NAN);
        const std::vector<float> got = layer.run(*one, x, ids, weights, stale, false);
        EXPECT_LT(nmse(got, want), 1e-10)
            << table->name << " " << dtype_name(dtype) << " " << tokens;
        EXPECT_EQ(got, layer.run(*many, x, ids, weights, stale, false)) << table->name;
        // The last token alone has the same bits.
        const std::vector<float> last(x.end() - layer.hidden, x.end());
        const std::vector<float> alone =
            layer.run(*one, last, {ids.end() - 3, ids.end()}, {weights.end() - 3, weights.end()},
                      std::vector<float>(last.size()), false);
        EXPECT_TRUE(std::equal(alone.begin(), alone.end(), got.end() - layer.hidden));
        std::vector<float> total = x;
        for (size_t i = 0; i < total.size(); ++i) total[i] += want[i];
        EXPECT_LT(nmse(layer.run(*one, x, ids, weights, x, true), total), 1e-10) << table->name;
      }
    }
  }
}

TEST(MoeConformance, ClampedSwiglu) {
  const std::vector<float> gate_up = {1.0F, 9.0F, -9.0F, 0.5F, -8.0F, 20.0F};
  std::vector<float> out(3);
  cpu::clamped_swiglu(gate_up.data(), out.data(), 3, 7.0F, {0, 1});
  const auto want = [](double gate, double up) {
    return (up + 1) * gate / (1 + std::exp(-1.702 * gate));
  };
  EXPECT_NEAR(out[0], want(1.0, 0.5), 1e-5);
  EXPECT_NEAR(out[1], want(7.0, -7.0), 1e-4);
  EXPECT_NEAR(out[2], want(-9.0, 7.0), 1e-5);
}

}  // namespace
}  // namespace atom::conformance
