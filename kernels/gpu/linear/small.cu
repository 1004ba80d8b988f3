// Which shapes the small-M kernel takes, and how it spreads them.
#include "kernels/gpu/linear/small_launch.h"
#if defined(ATOM_GPU_SM90A)
#include "kernels/gpu/sm90/ring_linear.h"
#endif

namespace atom::gpu {
namespace {

// Two blocks of neighbouring products fit on a multiprocessor with it.
constexpr int64_t kSharedXLimit = ATOM_GPU_HIP ? 24 << 10 : 96 << 10;

// One block of TurnedTile's products: nibbles are slower any other way.
constexpr int64_t kTurnedXLimit = 200 << 10;

DeviceStatus check(const LinearArgs& args) {
  if (const DeviceStatus refused = check_linear_weight(args)) {
    return refused;
  }
  if (args.norm_input != nullptr && args.num_tokens > kNormTokens) {
    return "linear: too many tokens for a norm before the product";
  }
  if (args.epilogue == LinearEpilogue::kSiluMul && args.out_features % 2 != 0) {
    return "linear: gate and up are of different sizes";
  }
  return nullptr;
}

#if defined(ATOM_GPU_SM90A)
bool ring_fits(const LinearArgs& args, int row_tiles) {
  return device_is_hopper() && (args.weight_dtype == DType::kF8E4M3
                                    ? ring_stages<E4m3Format>(args, row_tiles)
                                    : ring_stages<Bf16Format>(args, row_tiles)) >= kRingMinStages;
}
#else
bool ring_fits(const LinearArgs&, int) { return false; }
#endif

// linear/tiled.h is for more; not measured.
constexpr int64_t kMostSmallPacked = 16;

DeviceStatus launch_packed(const LinearArgs& args, const SmallLinearPlan& plan,
                           DeviceStream stream) {
  switch (args.weight_dtype) {
    case DType::kF8E4M3:
      return launch_small_e4m3_blocks(args, plan, stream);
    case DType::kI8:
      return launch_small_i8(args, plan, stream);
    case DType::kU4:
      return args.scale_values == 32 ? launch_small_u4_short(args, plan, stream)
                                     : launch_small_u4(args, plan, stream);
    default:
      return launch_small_e2m1(args, plan, stream);
  }
}

// A norm's x must lie in shared memory. Where that of all tokens does not fit (hidden sizes of
// 16384 and more), the tokens go one half after the other.
constexpr int64_t kNormedXLimit = ATOM_GPU_HIP ? 24 << 10 : 160 << 10;

DeviceStatus halves(const LinearArgs& args, DeviceStream stream) {
  LinearArgs half = args;
  half.num_tokens = args.num_tokens / 2;
  const DeviceStatus failed = linear_small(half, choose_small_plan(half), stream);
  if (failed != nullptr) {
    return failed;
  }
  const bool pair = args.epilogue == LinearEpilogue::kSiluMul;
  const bool wide = args.out_dtype == DType::kF32 || args.epilogue == LinearEpilogue::kAddResidual;
  const int64_t row = (pair ? args.out_features / 2 : args.out_features) * (wide ? 4 : 2);
  half.norm_input = args.norm_input + half.num_tokens * args.in_features;
  half.out = static_cast<uint8_t*>(args.out) + half.num_tokens * row;
  half.num_tokens = args.num_tokens - half.num_tokens;
  return linear_small(half, choose_small_plan(half), stream);
}

}  // namespace

// From docs/gpu_kernels.md (one H200): the table of single products and, because readers that take
// turns cost each other their head start, the chains of a layer. Layers of small models: registers
// for one token, the ring for more; of large ones the ring, two tiles at a time, up to 4 tokens
// (bf16) and registers, which leave x room, up to 8; from 9 on the ring for all but small bf16
// weights.
SmallLinearPlan choose_small_plan(const LinearArgs& args) {
  const bool e4m3 = args.weight_dtype != DType::kBF16;  // or narrower still
  const bool pair = args.epilogue == LinearEpilogue::kSiluMul;
  const bool few_rows = args.out_features <= 2048;
  const bool is_head = args.out_features >= 65536;
  const bool short_rows = args.in_features < 2048;
  const bool small = args.out_features * args.in_features < 12 << 20;
  const int64_t m = args.num_tokens;
  SmallLinearPlan plan{.blocks_per_multiprocessor = 2};

  const bool ring_is_best = is_head ? !e4m3 && !short_rows
                            : small ? m >= (e4m3 ? 3 : 2) && m <= 8
                                    : !e4m3 && (m <= 4 || m > 8);
  plan.row_tiles = pair || short_rows || few_rows || (m <= 4 && !is_head) ? 2 : 1;
  if (m <= 16 && ring_is_best && !is_packed(args) && ring_fits(args, plan.row_tiles)) {
    plan.ring = true;
    return plan;
  }
  const int64_t x_bytes = args.num_tokens * (args.in_features * 2 + 64);
  // Else through the caches, which leaves room for a second block.
  const bool turned = is_nibbles(args.weight_dtype) && !ATOM_GPU_HIP;
  const int64_t most_shared = args.num_tokens <= 8 ? (turned ? kTurnedXLimit : kSharedXLimit)
                              : is_head            ? kSharedXLimit / 2
                                                   : 0;
  // Staging x as f16 costs more than it saves where a block has little to read.
  const bool staged = turned ? true : e4m3 ? m == 1 || is_head || small : short_rows || few_rows;
  plan.shared_x = args.norm_input != nullptr || (staged && x_bytes <= most_shared);
  // Two row tiles read x half as often.
  const bool two =
      e4m3 ? !few_rows || args.num_tokens > 8 : (short_rows && !is_head) || !plan.shared_x;
  plan.row_tiles = pair || two || turned ? 2 : 1;
  if (plan.shared_x && x_bytes > kSharedXLimit) {
    plan.blocks_per_multiprocessor = 1;
  }
  return plan;
}

int64_t small_linear_limit(const LinearArgs& args) {
  if (is_packed(args)) {
    return kMostSmallPacked;
  }
  if (args.out_features <= 2048) {
    return 32;
  }
  LinearArgs most = args;
  most.num_tokens = 16;
  // Without the ring the library is faster from here on, for bf16.
  return args.weight_dtype == DType::kF8E4M3 || ring_fits(most, 1) ? 16 : 8;
}

DeviceStatus linear_small(const LinearArgs& args, const SmallLinearPlan& plan,
                          DeviceStream stream) {
  if (const DeviceStatus refused = check(args)) {
    return refused;
  }
  if (args.num_tokens == 0 || args.out_features == 0) {
    return nullptr;
  }
  if (args.norm_input != nullptr && args.num_tokens > 1 &&
      args.num_tokens * (args.in_features * 2 + 64) > kNormedXLimit) {
    return halves(args, stream);
  }
  if (is_packed(args)) {
    return launch_packed(args, plan, stream);
  }
#if defined(ATOM_GPU_SM90A)
  if (plan.ring) {
    return args.weight_dtype == DType::kF8E4M3 ? launch_ring_e4m3(args, plan, stream)
                                               : launch_ring_bf16(args, plan, stream);
  }
#endif
  return args.weight_dtype == DType::kF8E4M3 ? launch_small_e4m3(args, plan, stream)
                                             : launch_small_bf16(args, plan, stream);
}

}  // namespace atom::gpu
