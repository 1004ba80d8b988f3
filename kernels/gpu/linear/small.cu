// Which shapes the small-M kernel takes, and how it spreads them.
#include "kernels/gpu/linear/small_launch.h"

namespace atom::gpu {
namespace {

// Two blocks of neighbouring products fit on a multiprocessor with it.
constexpr int64_t kSharedXLimit = ATOM_GPU_HIP ? 24 << 10 : 96 << 10;

DeviceStatus check(const LinearArgs& args) {
  const bool e4m3 = args.weight_dtype == DType::kF8E4M3;
  if (!e4m3 && args.weight_dtype != DType::kBF16) {
    return "linear: the weight is neither bf16 nor e4m3";
  }
  if (args.in_features % (e4m3 ? 16 : 8) != 0) {
    return "linear: in_features is not a multiple of 16 bytes";
  }
  if (args.norm_input != nullptr && args.num_tokens > kNormTokens) {
    return "linear: too many tokens for a norm before the product";
  }
  if (args.epilogue == LinearEpilogue::kSiluMul && args.out_features % 2 != 0) {
    return "linear: gate and up are of different sizes";
  }
  return nullptr;
}

}  // namespace

SmallLinearPlan choose_small_plan(const LinearArgs& args) {
  SmallLinearPlan plan;
  // Two blocks a multiprocessor, each with 64 KB of loads in flight, were best for all shapes
  // (H200).
  plan.blocks_per_multiprocessor = 2;
  // One row tile has the longer runs of a row in flight, two read x half as often, which pays where
  // rows are short or weights small. Never at the price of more rows for the busiest block.
  const int64_t blocks = int64_t{2} * multiprocessor_count();
  const auto rows_of_busiest = [&](int64_t tiles) {
    const int64_t pass = tiles * ProductTile::kRows;
    return ((args.out_features + pass - 1) / pass + blocks - 1) / blocks * pass;
  };
  const int64_t x_bytes = args.num_tokens * (args.in_features * 2 + 64);
  plan.shared_x = args.norm_input != nullptr || x_bytes <= kSharedXLimit;
  const bool short_rows = args.weight_dtype == DType::kF8E4M3 || args.in_features < 2048;
  const bool two = (short_rows || !plan.shared_x) && rows_of_busiest(2) <= rows_of_busiest(1);
  plan.row_tiles = two || args.epilogue == LinearEpilogue::kSiluMul ? 2 : 1;
  return plan;
}

DeviceStatus linear_small(const LinearArgs& args, const SmallLinearPlan& plan,
                          DeviceStream stream) {
  if (const DeviceStatus refused = check(args)) {
    return refused;
  }
  if (args.num_tokens == 0 || args.out_features == 0) {
    return nullptr;
  }
  return args.weight_dtype == DType::kF8E4M3 ? launch_small_e4m3(args, plan, stream)
                                             : launch_small_bf16(args, plan, stream);
}

}  // namespace atom::gpu
