// Which kernels the experts of a step go to, and where their intermediate rows lie.
#include "kernels/gpu/moe/experts.h"

namespace atom::gpu {
namespace {

constexpr int64_t kAlignment = 256;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Weights of other types than bf16 are read as they are up to here: reading a row of weights for
// every 16 pairs again costs less than expanding all of them.
bool expands(DType dtype, int64_t num_pairs, int64_t num_experts) {
  return dtype != DType::kBF16 && num_pairs > 48 * num_experts;
}

// The scratch of many tokens. `sorted` is x in the order of the pairs, later the rows to combine.
struct Scratch {
  ExpertPlan plan;
  uint16_t* inside = nullptr;    // [num_pairs, intermediate_size]
  uint16_t* sorted = nullptr;    // [num_pairs, hidden_size]
  uint16_t* expanded = nullptr;  // all experts of one kind, where weights are not bf16
  int64_t bytes = 0;

  Scratch(void* memory, int64_t num_pairs, int64_t num_experts, int64_t hidden, int64_t inner,
          DType dtype) {
    auto* base = static_cast<uint8_t*>(memory);
    const auto take = [&](int64_t size) {
      uint8_t* at = base + bytes;
      bytes += aligned(size);
      return static_cast<void*>(at);
    };
    inside = static_cast<uint16_t*>(take(num_pairs * inner * 2));
    sorted = static_cast<uint16_t*>(take(num_pairs * hidden * 2));
    plan.row_of = static_cast<int32_t*>(take(num_pairs * 4));
    plan.pair_of = static_cast<int32_t*>(take(num_pairs * 4));
    plan.tasks = static_cast<ExpertTask*>(take(most_tasks(num_pairs, num_experts, kPlannedTokens) *
                                               static_cast<int64_t>(sizeof(ExpertTask))));
    plan.num_tasks = static_cast<int32_t*>(take(4));
    if (expands(dtype, num_pairs, num_experts)) {
      expanded = static_cast<uint16_t*>(take(num_experts * 2 * inner * hidden * 2));
    }
  }
};

ExpertRowsArgs rows_arguments(const FusedExpertsArgs& args, const ExpertPlan& plan, bool is_first,
                              const uint16_t* x, uint16_t* out) {
  return {.weight = is_first ? args.gate_up : args.down,
          .x = x,
          .out = out,
          .ids = args.ids,
          .num_pairs = static_cast<int32_t>(args.num_tokens * args.top_k),
          .top_k = static_cast<int32_t>(args.top_k),
          .plan = plan,
          .is_first = is_first,
          .activation = args.activation,
          .swiglu_limit = args.swiglu_limit};
}

DeviceStatus few_tokens(const FusedExpertsArgs& args, DeviceStream stream) {
  auto* inside = static_cast<uint16_t*>(args.scratch);
  if (const DeviceStatus failed =
          expert_rows(rows_arguments(args, {}, true, args.x, inside), stream)) {
    return failed;
  }
  return expert_sums(args, inside, stream);
}

// Where the copy engine feeds grouped products, these win from 5 tokens on: their speed does not
// depend on what the first cache level holds beside other kernels.
int64_t few_limit([[maybe_unused]] const FusedExpertsArgs& args) {
#if defined(ATOM_GPU_SM90A)
  if (args.down.dtype == DType::kBF16 && grouped_tokens_of_task(args) != 0) {
    return kFewTokens / 2;
  }
#endif
  return kFewTokens;
}

DeviceStatus portable(const FusedExpertsArgs& args, const Scratch& scratch, DeviceStream stream) {
  if (const DeviceStatus failed = plan_experts(args, scratch.plan, kPlannedTokens, stream)) {
    return failed;
  }
  if (const DeviceStatus failed =
          expert_rows(rows_arguments(args, scratch.plan, true, args.x, scratch.inside), stream)) {
    return failed;
  }
  if (const DeviceStatus failed = expert_rows(
          rows_arguments(args, scratch.plan, false, scratch.inside, scratch.sorted), stream)) {
    return failed;
  }
  return combine_rows(args, scratch.plan, scratch.sorted, stream);
}

#if defined(ATOM_GPU_SM90A)
DeviceStatus expand(const FusedExpertsArgs& args, const Scratch& scratch, ExpertMatrix& weight,
                    DeviceStream stream) {
  if (weight.dtype == DType::kBF16) {
    return nullptr;
  }
  const DeviceStatus failed = expand_experts(weight, args.num_experts, scratch.expanded, stream);
  weight.values = scratch.expanded;
  weight.dtype = DType::kBF16;
  return failed;
}

DeviceStatus grouped(const FusedExpertsArgs& args, const Scratch& scratch, int tokens_of_task,
                     DeviceStream stream) {
  if (const DeviceStatus failed = plan_experts(args, scratch.plan, tokens_of_task, stream)) {
    return failed;
  }
  if (const DeviceStatus failed = spread_rows(args, scratch.plan, scratch.sorted, stream)) {
    return failed;
  }
  GroupedProductArgs product{.weight = args.gate_up,
                             .num_experts = args.num_experts,
                             .x = scratch.sorted,
                             .num_pairs = args.num_tokens * args.top_k,
                             .plan = scratch.plan,
                             .tokens_of_task = tokens_of_task,
                             .is_first = true,
                             .activation = args.activation,
                             .swiglu_limit = args.swiglu_limit,
                             .out = scratch.inside};
  if (const DeviceStatus failed = expand(args, scratch, product.weight, stream)) {
    return failed;
  }
  if (const DeviceStatus failed = grouped_product(product, stream)) {
    return failed;
  }
  product.weight = args.down;
  if (const DeviceStatus failed = expand(args, scratch, product.weight, stream)) {
    return failed;
  }
  product.x = scratch.inside;
  product.is_first = false;
  product.out = scratch.sorted;
  if (const DeviceStatus failed = grouped_product(product, stream)) {
    return failed;
  }
  return combine_rows(args, scratch.plan, scratch.sorted, stream);
}
#endif

DeviceStatus check(const FusedExpertsArgs& args) {
  if (args.num_experts > kMaxExperts || args.top_k > kMaxExpertsPerToken) {
    return "fused_experts: too many experts";
  }
  if (args.gate_up.cols % 8 != 0 || args.down.cols % 8 != 0) {
    return "fused_experts: sizes are no multiples of 8";
  }
  for (const ExpertMatrix& weight : {args.gate_up, args.down}) {
    const bool known =
        weight.dtype == DType::kBF16 ||
        (weight.dtype == DType::kF8E4M3 && weight.cols % 16 == 0 && weight.rows % 16 == 0) ||
        (weight.dtype == DType::kF4E2M1 && weight.cols % 32 == 0);
    if (!known || weight.dtype != args.down.dtype) {
      return "fused_experts: weights of this type and size";
    }
  }
  return nullptr;
}

}  // namespace

int64_t experts_scratch_bytes(int64_t num_tokens, int64_t top_k, int64_t num_experts,
                              int64_t hidden_size, int64_t intermediate_size, DType dtype) {
  return Scratch(nullptr, num_tokens * top_k, num_experts, hidden_size, intermediate_size, dtype)
      .bytes;
}

DeviceStatus fused_experts(const FusedExpertsArgs& args, DeviceStream stream) {
  if (const DeviceStatus refused = check(args); refused != nullptr || args.num_tokens == 0) {
    return refused;
  }
  if (args.num_tokens <= few_limit(args) && !args.invariant) {
    return few_tokens(args, stream);
  }
  const Scratch scratch(args.scratch, args.num_tokens * args.top_k, args.num_experts,
                        args.down.rows, args.down.cols, args.down.dtype);
#if defined(ATOM_GPU_SM90A)
  const bool can = args.down.dtype == DType::kBF16 || scratch.expanded != nullptr;
  if (const int tokens_of_task = can ? grouped_tokens_of_task(args) : 0) {
    return grouped(args, scratch, tokens_of_task, stream);
  }
#endif
  return portable(args, scratch, stream);
}

}  // namespace atom::gpu
