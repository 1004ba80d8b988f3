// Linear layers on the device: out = x . weight^T, for every number of tokens. Up to
// small_linear_limit the own streaming kernel (linear/small_body.h), which reads row-major weights
// once at the memory's rate and fuses what surrounds the product; above, the vendor's library
// behind linear/library.h, with the algorithm chosen by timing. Without the library, and where
// `invariant` is asked for, the own kernel does all sizes.
//
// Equal results: with the own kernel every output element is summed in an order that depends on
// in_features and the weight's type only, so a row's result is bitwise equal at any number of
// tokens. The library chooses another order per size: rows of a large batch equal those of a small
// one within rounding only, unless `invariant`. An e4m3 product above small_linear_limit quantises
// x per token, as checkpoints of that kind expect; the own kernel takes x as it is. C++20.
//
// Weights of other formats (linear_layout.h) go the same ways: few tokens through the own kernel;
// more through linear/tiled.h, which widens tiles of them in registers, or sm90/block_linear.cu
// (e4m3 in blocks, x quantised per token and group); very many through the library after they were
// expanded to bf16, some rows at a time.
#pragma once

#include <cstdint>

#include "kernels/common/device_runtime.h"
#include "kernels/common/dtype.h"
#include "kernels/gpu/vector_ops.h"

namespace atom::gpu {

enum class LinearEpilogue : uint8_t {
  kStore,        // out = y, bf16 or f32
  kAddResidual,  // out += y, f32
  kSiluMul,      // out[:, i] = silu(y[:, i]) * y[:, out_features / 2 + i], bf16
};

struct LinearArgs {
  const uint16_t* x = nullptr;        // bf16 [num_tokens, in_features]
  const void* weight = nullptr;       // [out_features, in_features], 16-byte aligned
  DType weight_dtype = DType::kBF16;  // bf16, e4m3, i8, u4 or e2m1
  bool has_zeros = false;             // u4
  int16_t scale_values = 0;           // of k that share a scale: 0 (all), 32 or 128
  const float* scales = nullptr;      // [out_features] of e4m3; others: linear_layout.h
  const float* bias = nullptr;        // [out_features] or none
  int64_t num_tokens = 0;
  int64_t out_features = 0;
  int64_t in_features = 0;  // a multiple of 8 (bf16), 16 (e4m3, i8) or 32 (u4, e2m1)
  LinearEpilogue epilogue = LinearEpilogue::kStore;
  void* out = nullptr;  // [num_tokens, out_features], half as wide for kSiluMul
  DType out_dtype = DType::kBF16;
  // Where given, the product of an e4m3 weight may leave its scales to whoever reads `out`: they
  // are set here, or to none. The rows' scales last until x of another product is quantised.
  OuterScales* left_scales = nullptr;

  // RMSNorm before the product: x is none, and what is multiplied is norm_input / rms *
  // norm_weight. Up to kNormTokens only. Rounds norm_input * norm_weight to bf16 instead of the
  // normed value.
  const float* norm_input = nullptr;   // [num_tokens, in_features]
  const float* norm_weight = nullptr;  // [in_features]
  float norm_eps = 0.0F;
};
// Kernels take it by value; past 128 bytes nvcc 13 computes more of it anew in every pass.
static_assert(sizeof(LinearArgs) <= 128);

// Whether the weight is neither bf16 nor e4m3 with a scale per row.
constexpr bool is_packed(const LinearArgs& args) {
  return args.scale_values > 0 || args.weight_dtype == DType::kI8;
}

inline constexpr int64_t kNormTokens = 8;

// What the products keep between calls. One per stream: its workspace is used by every call.
struct LinearContext;

struct LinearOptions {
  bool invariant = false;
  bool use_library = true;
  // Device memory that the context owns: the library's, and quantised activations for e4m3 weights.
  int64_t workspace_bytes = int64_t{64} << 20;
  bool e4m3 = false;
  bool packed = false;  // weights that is_packed() says: memory to expand them, and scales of x
  int64_t max_tokens = 8192;
  int64_t max_in_features = 32768;
};

// Fails when the workspace cannot be had. A missing library is no failure: see library_status.
DeviceStatus create_linear_context(const LinearOptions& options, LinearContext** out);
void destroy_linear_context(LinearContext* context);
// Why the vendor's library is not used, or nullptr.
DeviceStatus library_status(const LinearContext* context);

// Chooses the library's algorithms for every product that linear() has been given above
// small_linear_limit, for every number of tokens up to the most it was given: before the first
// request, so that none of them waits for it. `scratch` takes inputs and results; what does not fit
// is chosen at its first use. Waits for the stream.
DeviceStatus tune_linear(LinearContext* context, void* scratch, int64_t scratch_bytes,
                         DeviceStream stream);

// For whoever is about to write x: where linear() wants it quantised as well (values [num_tokens,
// in_features] e4m3, a scale per row as in quantize_rows), or nothing. If the next product has this
// x, it takes those values instead of quantising x itself. The caller enqueues the kernel that
// writes both before that.
struct QuantizedInput {
  uint8_t* values = nullptr;
  float* scales = nullptr;
};
QuantizedInput quantized_input(LinearContext* context, const uint16_t* x, int64_t num_tokens,
                               int64_t in_features);

// Enqueues the product. What is fused with it (norm, kAddResidual, kSiluMul) is for sizes that the
// own kernel takes; with more tokens it works, slowly. Outside of a capture, the first call for a
// shape above small_linear_limit times the library's proposals, which takes some milliseconds and
// waits for the stream; inside, it takes the library's first. So every shape that is captured is
// run once before.
DeviceStatus linear(LinearContext* context, const LinearArgs& args, DeviceStream stream);

// How the own kernel spreads a product over the device; chosen by linear() from the shape.
struct SmallLinearPlan {
  int row_tiles = 1;  // 8-row tiles of a warp at a time (CUDA; 16 on HIP): 1 or 2
  int blocks_per_multiprocessor = 1;
  bool shared_x = true;  // x lies in shared memory, else every warp reads it through the caches
  bool chained = true;   // may start before the kernel before it has ended
  // Weights by the copy engine through shared memory (sm90/ring_linear.h): up to 16 tokens whose x
  // fits beside it, one block a multiprocessor.
  bool ring = false;
};
// Whether the kernels take a weight of this type and size.
DeviceStatus check_linear_weight(const LinearArgs& args);
SmallLinearPlan choose_small_plan(const LinearArgs& args);
// Tokens up to which the own kernel is faster than the library, for this weight.
int64_t small_linear_limit(const LinearArgs& args);
// Any number of tokens; 64 at a time.
DeviceStatus linear_small(const LinearArgs& args, const SmallLinearPlan& plan, DeviceStream stream);

}  // namespace atom::gpu
