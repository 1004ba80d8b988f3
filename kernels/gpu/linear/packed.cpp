#include "kernels/gpu/linear/packed.h"

#include <algorithm>

#include "kernels/gpu/linear/expand.h"
#include "kernels/gpu/linear/tiled_plan.h"
#include "kernels/gpu/linear_layout.h"
#if defined(ATOM_GPU_SM90A)
#include "kernels/gpu/sm90/block_linear.h"
#endif

namespace atom::gpu {
namespace {

// Expanding a weight costs nine times its bytes: it pays where products are bound by arithmetic
// (docs/gpu_kernels.md).
constexpr int64_t kMostTiledTokens = 64;
// Rows that are expanded at a time: whole tiles of the library's products.
constexpr int64_t kExpandedRowMultiple = 256;

}  // namespace

DeviceStatus linear_expanded(const PackedScratch& scratch, const LinearArgs& args,
                             DeviceStream stream) {
  if (scratch.library == nullptr || scratch.library->status() != nullptr) {
    return "linear: no library";
  }
  const int64_t rows =
      scratch.expanded_values / args.in_features / kExpandedRowMultiple * kExpandedRowMultiple;
  if (rows == 0) {
    return "linear: no room for expanded weights";
  }
  const int64_t out_bytes = args.out_dtype == DType::kF32 ? 4 : 2;
  for (int64_t first = 0; first < args.out_features; first += rows) {
    const int64_t count = std::min(rows, args.out_features - first);
    if (const DeviceStatus failed = expand_rows(args, first, count, scratch.expanded, stream)) {
      return failed;
    }
    bool has_scales = true;
    const DeviceStatus failed =
        scratch.library->multiply({.x = args.x,
                                   .weight = scratch.expanded,
                                   .dtype = DType::kBF16,
                                   .out = static_cast<uint8_t*>(args.out) + first * out_bytes,
                                   .out_dtype = args.out_dtype,
                                   .num_tokens = args.num_tokens,
                                   .out_features = count,
                                   .in_features = args.in_features,
                                   .out_stride = args.out_features},
                                  stream, has_scales);
    if (failed != nullptr) {
      return failed;
    }
  }
  if (args.bias == nullptr) {
    return nullptr;
  }
  return add_bias({.bias = args.bias,
                   .out = args.out,
                   .dtype = args.out_dtype,
                   .num_rows = args.num_tokens,
                   .size = args.out_features},
                  stream);
}

DeviceStatus linear_blocks([[maybe_unused]] const PackedScratch& scratch,
                           [[maybe_unused]] const LinearArgs& args,
                           [[maybe_unused]] DeviceStream stream) {
#if defined(ATOM_GPU_SM90A)
  const bool fits = scratch.quantized_x != nullptr && args.num_tokens <= scratch.max_tokens &&
                    args.in_features <= scratch.max_in_features;
  if (args.weight_dtype == DType::kF8E4M3 && fits && takes_block_linear(args)) {
    return block_linear(args,
                        {.x = scratch.quantized_x,
                         .x_scales = scratch.x_scales,
                         .partials = static_cast<float*>(scratch.partials),
                         .partials_bytes = scratch.partials_bytes},
                        stream);
  }
#endif
  return "linear: no block product";
}

DeviceStatus linear_packed(const PackedScratch& scratch, const LinearArgs& args, bool invariant,
                           DeviceStream stream) {
  if (args.num_tokens == 0 || args.out_features == 0) {
    return nullptr;
  }
  if (invariant) {
    return linear_tiled(args, {}, stream);
  }
  if (linear_blocks(scratch, args, stream) == nullptr) {
    return nullptr;
  }
  if (args.num_tokens > kMostTiledTokens && linear_expanded(scratch, args, stream) == nullptr) {
    return nullptr;
  }
  return linear_tiled(args, choose_tiled_plan(args, scratch.partials, scratch.partials_bytes),
                      stream);
}

}  // namespace atom::gpu
