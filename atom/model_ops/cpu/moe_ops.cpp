// Experts on the CPU: pairs (token, expert) are sorted by expert, and each expert's rows go through
// the linear kernels of its weights; all experts' work is one parallel loop, so that a step with
// one row an expert (decode) and one with hundreds (prompts) are the same code.
#include "kernels/cpu/moe.h"

#include <algorithm>
#include <cstring>

#include "atom/model_ops/cpu/cpu_ops.h"

namespace atom {
namespace {

constexpr int64_t kTokensPerItem = 64;
constexpr int64_t kPanelsPerItem = 4;
constexpr int64_t kPanelsOfFewTokens = 8;  // that kernels read at once

int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of the pairs in the order of their experts.
struct Grouping {
  std::span<int64_t> begin;     // [num_experts + 1] first row of each expert
  std::span<int32_t> row_of;    // [num_pairs]
  std::span<int32_t> token_of;  // [num_pairs] by row

  int64_t rows(int64_t expert) const {
    return begin[static_cast<size_t>(expert) + 1] - begin[static_cast<size_t>(expert)];
  }
};

template <class T>
std::span<T> scratch_span(const ExecContext& ctx, DType dtype, int64_t count) {
  return {ctx.arena->allocate(dtype, {std::max<int64_t>(count, 1)}).template data_as<T>(),
          static_cast<size_t>(count)};
}

Grouping group_pairs(const ExecContext& ctx, const int32_t* ids, int64_t num_tokens, int64_t top_k,
                     int64_t num_experts) {
  const int64_t pairs = num_tokens * top_k;
  Grouping out{.begin = scratch_span<int64_t>(ctx, DType::kI64, num_experts + 1),
               .row_of = scratch_span<int32_t>(ctx, DType::kI32, pairs),
               .token_of = scratch_span<int32_t>(ctx, DType::kI32, pairs)};
  std::ranges::fill(out.begin, 0);
  for (int64_t i = 0; i < pairs; ++i) {
    ATOM_CHECK(ids[i] >= 0 && ids[i] < num_experts) << "expert " << ids[i];
    ++out.begin[static_cast<size_t>(ids[i]) + 1];
  }
  for (size_t e = 1; e < out.begin.size(); ++e) out.begin[e] += out.begin[e - 1];
  const std::span<int64_t> next = scratch_span<int64_t>(ctx, DType::kI64, num_experts);
  std::copy_n(out.begin.begin(), num_experts, next.begin());
  for (int64_t i = 0; i < pairs; ++i) {
    const auto row = static_cast<int32_t>(next[static_cast<size_t>(ids[i])]++);
    out.row_of[static_cast<size_t>(i)] = row;
    out.token_of[static_cast<size_t>(row)] = static_cast<int32_t>(i / top_k);
  }
  return out;
}

// One product of every expert that has rows: x [num_pairs, cols] -> out [num_pairs, features].
class ExpertLinear {
 public:
  ExpertLinear(const ExecContext& ctx, std::span<const LinearWeight> weights,
               std::span<const LinearWeight> next, const Grouping& grouping, const float* x,
               float* out)
      : ctx_(ctx),
        kernels_(kernels_of(ctx)),
        weights_(weights),
        next_(next),
        grouping_(grouping),
        x_(x),
        out_(out) {}

  void run() {
    size_t segments = 0;
    for (const LinearWeight& weight : weights_)
      segments = std::max(segments, weight.segments.size());
    for (size_t s = 0; s < segments; ++s) run_segment(s);
  }

 private:
  struct Job {
    int64_t expert = 0;
    int64_t first_item = 0;
    int64_t panel_step = 0;
    int64_t panel_tiles = 0;
    cpu::LinearArgs args;
    uint8_t* input = nullptr;
    int32_t kernel = 0;
  };

  void run_segment(size_t s) {
    const int64_t scratch = ctx_.arena->mark();
    const int64_t num_experts = static_cast<int64_t>(weights_.size());
    const Tensor memory =
        ctx_.arena->allocate(DType::kU8, {num_experts * static_cast<int64_t>(sizeof(Job))});
    const std::span<Job> jobs(new (memory.data_as<uint8_t>()) Job[static_cast<size_t>(num_experts)],
                              static_cast<size_t>(num_experts));
    const size_t count = make_jobs(s, jobs);
    prepare(jobs.first(count));
    compute(jobs.first(count));
    ctx_.arena->rewind(scratch);
  }

  // After the last job: the first of the next product. Without one, what is in the cache already:
  // nothing is known of what follows.
  const uint8_t* first_read_next(const Job& first) const {
    return next_.empty() ? first.args.weight
                         : static_cast<const uint8_t*>(
                               next_[static_cast<size_t>(first.expert)].packed.data());
  }

  size_t make_jobs(size_t s, std::span<Job> jobs) {
    size_t count = 0;
    for (size_t e = 0; e < weights_.size(); ++e) {
      const auto expert = static_cast<int64_t>(e);
      const LinearWeight& weight = weights_[e];
      if (grouping_.rows(expert) == 0 || s >= weight.segments.size()) continue;
      const LinearSegment& segment = weight.segments[s];
      const auto* bias = static_cast<const float*>(weight.bias.data());
      const int64_t row = grouping_.begin[e];
      Job& job = jobs[count++];
      job.expert = expert;
      job.kernel = segment.kernel;
      job.args = {.x = x_ + row * weight.in_features,
                  .num_tokens = grouping_.rows(expert),
                  .weight = static_cast<const uint8_t*>(weight.packed.data()) + segment.offset,
                  .format = segment.format,
                  .rows = segment.rows,
                  .cols = weight.in_features,
                  .bias = bias == nullptr ? nullptr : bias + segment.row_begin,
                  .out = out_ + row * weight.out_features + segment.row_begin,
                  .out_stride = weight.out_features};
      const int64_t bytes = kernels_.input_bytes(job.kernel, job.args.num_tokens, job.args.cols);
      if (bytes > 0) {
        job.input = ctx_.arena->allocate(DType::kU8, {bytes}).data_as<uint8_t>();
        job.args.input = job.input;
      }
    }
    for (size_t i = 0; i < count; ++i) {
      jobs[i].args.next = i + 1 < count ? jobs[i + 1].args.weight : first_read_next(jobs[0]);
    }
    return count;
  }

  // Item `index` of jobs numbered by first_item.
  static const Job& job_of(std::span<const Job> jobs, int64_t index) {
    return *(std::ranges::upper_bound(jobs, index, {}, &Job::first_item) - 1);
  }

  void prepare(std::span<Job> jobs) {
    int64_t items = 0;
    for (Job& job : jobs) {
      job.first_item = items;
      items += job.input == nullptr ? 0 : div_up(job.args.num_tokens, kTokensPerItem);
    }
    if (items == 0) return;
    ctx_.parallel(items, [&](int64_t i) {
      const Job& job = job_of(jobs, i);
      const int64_t token = (i - job.first_item) * kTokensPerItem;
      kernels_.prepare_input(job.kernel, job.args, job.input,
                             {token, std::min(token + kTokensPerItem, job.args.num_tokens)});
    });
  }

  void compute(std::span<Job> jobs) {
    int64_t work = 0;
    for (const Job& job : jobs) {
      work += div_up(job.args.num_tokens, kTokensPerItem) * div_up(job.args.rows, cpu::kPanelRows);
    }
    const int64_t wanted = int64_t{ctx_.parallel.num_threads} * 8;
    const int64_t share = std::max<int64_t>(1, div_up(work, wanted));
    const int64_t unit = ctx_.parallel.num_threads == 1 || share > kPanelsPerItem
                             ? kPanelsOfFewTokens
                             : kPanelsPerItem;
    const int64_t step = div_up(share, unit) * unit;
    int64_t items = 0;
    for (Job& job : jobs) {
      const int64_t panels = div_up(job.args.rows, cpu::kPanelRows);
      job.first_item = items;
      job.panel_step = std::min(step, panels);
      job.panel_tiles = div_up(panels, job.panel_step);
      items += div_up(job.args.num_tokens, kTokensPerItem) * job.panel_tiles;
    }
    ctx_.parallel(items, [&](int64_t i) {
      const Job& job = job_of(jobs, i);
      const int64_t within = i - job.first_item;
      const int64_t token = within / job.panel_tiles * kTokensPerItem;
      const int64_t panel = within % job.panel_tiles * job.panel_step;
      const int64_t panels = div_up(job.args.rows, cpu::kPanelRows);
      kernels_.linear(job.kernel, job.args,
                      {token, std::min(token + kTokensPerItem, job.args.num_tokens)},
                      {panel, std::min(panel + job.panel_step, panels)});
    });
  }

  const ExecContext& ctx_;
  const cpu::Kernels& kernels_;
  std::span<const LinearWeight> weights_;
  std::span<const LinearWeight> next_;  // of the product that follows, to be fetched ahead
  const Grouping& grouping_;
  const float* x_;
  float* out_;
};

void activate(const ExecContext& ctx, const ExpertsWeight& experts, const float* gate_up,
              float* out, int64_t n, int64_t num_rows) {
  parallel_ranges(ctx, num_rows, min_rows(n), [&](cpu::Range rows) {
    if (experts.activation == ExpertsWeight::Activation::kClampedSwiglu) {
      cpu::clamped_swiglu(gate_up, out, n, experts.swiglu_limit, rows);
    } else {
      kernels_of(ctx).silu_mul(gate_up, out, n, rows);
    }
  });
}

// Tokens [first, first + num_tokens) of the step.
void run_tokens(const ExecContext& ctx, const ExpertsWeight& experts,
                const FusedExpertsParams& params, int64_t first, int64_t num_tokens) {
  const int64_t scratch = ctx.arena->mark();
  const int64_t top_k = params.ids.dim(1);
  const int64_t hidden = params.x.dim(1);
  const int64_t inner = experts.down.front().in_features;
  const int64_t pairs = num_tokens * top_k;
  const Grouping grouping = group_pairs(ctx, params.ids.data_as<int32_t>() + first * top_k,
                                        num_tokens, top_k, experts.num_experts());
  const auto floats = [&](int64_t rows, int64_t cols) {
    return ctx.arena->allocate(DType::kF32, {rows, cols}).data_as<float>();
  };
  float* rows = floats(pairs, hidden);  // of x, then of the experts' answers
  float* gate_up = floats(pairs, 2 * inner);
  float* inside = floats(pairs, inner);
  const float* x = params.x.data_as<float>() + first * hidden;
  parallel_ranges(ctx, pairs, min_rows(hidden), [&](cpu::Range range) {
    for (int64_t row = range.begin; row < range.end; ++row) {
      std::memcpy(rows + row * hidden, x + grouping.token_of[static_cast<size_t>(row)] * hidden,
                  static_cast<size_t>(hidden) * sizeof(float));
    }
  });
  ExpertLinear(ctx, experts.gate_up, experts.down, grouping, rows, gate_up).run();
  activate(ctx, experts, gate_up, inside, inner, pairs);
  ExpertLinear(ctx, experts.down, {}, grouping, inside, rows).run();
  const cpu::CombineArgs combine{.rows = rows,
                                 .row_of = grouping.row_of.data(),
                                 .weights = params.weights.data_as<float>() + first * top_k,
                                 .top_k = top_k,
                                 .size = hidden,
                                 .add = params.add,
                                 .out = params.out.data_as<float>() + first * hidden};
  parallel_ranges(ctx, num_tokens, min_rows(hidden * top_k),
                  [&](cpu::Range tokens) { cpu::combine_experts(combine, tokens); });
  ctx.arena->rewind(scratch);
}

}  // namespace

void route_cpu(const ExecContext& ctx, const RouterParams& params) {
  const int64_t num_experts = params.num_experts;
  ATOM_CHECK(num_experts <= cpu::kMaxExperts && params.rule.top_k <= cpu::kMaxExpertsPerToken &&
             params.rule.top_k <= num_experts && num_experts % params.rule.num_groups == 0 &&
             num_experts == params.logits.dim(1))
      << params.rule.top_k << " of " << num_experts;
  const cpu::RouterArgs args{.logits = params.logits.data_as<float>(),
                             .num_experts = num_experts,
                             .rule = params.rule,
                             .correction_bias = params.correction_bias,
                             .ids = params.ids.data_as<int32_t>(),
                             .weights = params.weights.data_as<float>()};
  parallel_ranges(ctx, params.logits.dim(0), min_rows(num_experts * 8),
                  [&](cpu::Range tokens) { cpu::route(args, tokens); });
}

void fused_experts_cpu(const ExecContext& ctx, const ExpertsWeight& experts,
                       const FusedExpertsParams& params) {
  ATOM_CHECK(params.x.dim(1) == experts.gate_up.front().in_features &&
             params.out.dim(1) == experts.down.front().out_features)
      << params.x.dim(1);
  const int64_t step = std::max<int64_t>(1, kExpertPairs / params.ids.dim(1));
  for (int64_t token = 0; token < params.x.dim(0); token += step) {
    run_tokens(ctx, experts, params, token, std::min(step, params.x.dim(0) - token));
  }
}

}  // namespace atom
