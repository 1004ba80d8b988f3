// Which kernel a product goes to.
#include "kernels/gpu/linear.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <utility>

#include "kernels/gpu/linear/library.h"
#include "kernels/gpu/linear/packed.h"
#include "kernels/gpu/linear_layout.h"
#include "kernels/gpu/vector_ops.h"

namespace atom::gpu {

struct LinearContext {
  LinearOptions options;
  void* workspace = nullptr;
  uint8_t* quantized_x = nullptr;  // e4m3 [max_tokens, max_in_features]
  float* x_scales = nullptr;       // [max_tokens]
  PackedScratch packed;            // where there may be weights of that kind
  std::unique_ptr<MatrixLibrary> library;
  const uint16_t* quantized_from = nullptr;  // whose values quantized_x holds, for the next product
  // Products that went to the library: one of each shape, with the most tokens it had.
  std::map<std::array<int64_t, 4>, LinearArgs> seen;
};

namespace {

// Reading a column's scale with every value costs longer products more than the library's own
// scales do.
constexpr int64_t kMostUnscaledTokens = 512;

bool leaves_scales(const LinearArgs& args) {
  return args.left_scales != nullptr && args.bias == nullptr &&
         args.num_tokens <= kMostUnscaledTokens;
}

DeviceStatus multiply_bf16(LinearContext& context, const LinearArgs& args, DeviceStream stream) {
  bool has_scales = true;
  return context.library->multiply({.x = args.x,
                                    .weight = args.weight,
                                    .dtype = DType::kBF16,
                                    .out = args.out,
                                    .out_dtype = args.out_dtype,
                                    .num_tokens = args.num_tokens,
                                    .out_features = args.out_features,
                                    .in_features = args.in_features},
                                   stream, has_scales);
}

// x as e4m3 in quantized_x, where the kernel before has not left it there.
DeviceStatus quantize_x(LinearContext& context, const LinearArgs& args, DeviceStream stream) {
  if (args.num_tokens > context.options.max_tokens ||
      args.in_features > context.options.max_in_features || context.quantized_x == nullptr) {
    return "linear: the workspace has no room for quantised activations";
  }
  if (std::exchange(context.quantized_from, nullptr) == args.x) {
    return nullptr;
  }
  return quantize_rows({.x = args.x,
                        .out = context.quantized_x,
                        .scales = context.x_scales,
                        .num_rows = args.num_tokens,
                        .size = args.in_features},
                       stream);
}

DeviceStatus multiply_e4m3(LinearContext& context, const LinearArgs& args, DeviceStream stream) {
  if (const DeviceStatus failed = quantize_x(context, args, stream)) {
    return failed;
  }
  bool has_scales = true;
  const DeviceStatus failed = context.library->multiply({.x = context.quantized_x,
                                                         .weight = args.weight,
                                                         .dtype = DType::kF8E4M3,
                                                         .x_scales = context.x_scales,
                                                         .weight_scales = args.scales,
                                                         .out = args.out,
                                                         .out_dtype = args.out_dtype,
                                                         .num_tokens = args.num_tokens,
                                                         .out_features = args.out_features,
                                                         .in_features = args.in_features,
                                                         .leaves_scales = leaves_scales(args)},
                                                        stream, has_scales);
  if (failed == nullptr && !has_scales) {
    *args.left_scales = {.rows = context.x_scales, .columns = args.scales};
  }
  return failed;
}

void remember(LinearContext& context, const LinearArgs& args) {
  const std::array key{args.out_features, args.in_features, static_cast<int64_t>(args.weight_dtype),
                       static_cast<int64_t>(args.out_dtype)};
  const auto [known, is_new] = context.seen.try_emplace(key, args);
  known->second.num_tokens = std::max(known->second.num_tokens, args.num_tokens);
}

bool is_fused(const LinearArgs& args) {
  return args.epilogue != LinearEpilogue::kStore || args.norm_input != nullptr;
}

// The streaming kernel's limit, above which other ways begin, unless one way is wanted for all.
DeviceStatus multiply_packed(LinearContext& context, const LinearArgs& args, DeviceStream stream) {
  const bool invariant = context.options.invariant;
  const bool few = args.num_tokens <= small_linear_limit(args) && !invariant;
  if (few || is_fused(args)) {
    return linear_small(args, choose_small_plan(args), stream);
  }
  if (const DeviceStatus refused = check_linear_weight(args)) {
    return refused;
  }
  remember(context, args);
  return linear_packed(context.packed, args, invariant, stream);
}

DeviceStatus multiply_large(LinearContext& context, const LinearArgs& args, DeviceStream stream) {
  remember(context, args);
  if (args.weight_dtype == DType::kBF16) {
    context.quantized_from = nullptr;
  }
  const DeviceStatus failed = args.weight_dtype == DType::kF8E4M3
                                  ? multiply_e4m3(context, args, stream)
                                  : multiply_bf16(context, args, stream);
  if (failed != nullptr || args.bias == nullptr) {
    return failed;
  }
  return add_bias({.bias = args.bias,
                   .out = args.out,
                   .dtype = args.out_dtype,
                   .num_rows = args.num_tokens,
                   .size = args.out_features},
                  stream);
}

constexpr int64_t kAlignment = 256;
// Of expanded weights: enough rows for a product to fill the device, not much more than its caches.
constexpr int64_t kExpandedBytes = int64_t{64} << 20;

// Products of fewer tokens take x as it is.
constexpr int64_t kMostSmallTokens = 32;

}  // namespace

DeviceStatus create_linear_context(const LinearOptions& options, LinearContext** out) {
  auto context = std::make_unique<LinearContext>(LinearContext{.options = options});
  int64_t bytes = options.workspace_bytes;
  const auto reserve = [&](bool wanted, int64_t size) {
    const int64_t at = bytes;
    bytes += wanted ? (size + kAlignment - 1) / kAlignment * kAlignment : 0;
    return at;
  };
  const bool x = options.e4m3 || options.packed;
  const int64_t groups = options.packed ? scale_groups(options.max_in_features) : 1;
  const int64_t x_scales = reserve(x, options.max_tokens * groups * 4);
  const int64_t quantized_x = reserve(x, options.max_tokens * options.max_in_features);
  const int64_t expanded = reserve(options.packed, kExpandedBytes);
  const cudaError_t failed = cudaMalloc(&context->workspace, static_cast<size_t>(bytes));
  if (failed != cudaSuccess) {
    (void)cudaGetLastError();
    return cudaGetErrorString(failed);
  }
  if (options.use_library && !options.invariant) {
    context->library = std::make_unique<MatrixLibrary>(context->workspace, options.workspace_bytes);
  }
  auto* memory = static_cast<uint8_t*>(context->workspace);
  if (options.e4m3) {
    context->x_scales = reinterpret_cast<float*>(memory + x_scales);
    context->quantized_x = memory + quantized_x;
  }
  if (options.packed) {
    context->packed = {.library = context->library.get(),
                       .partials = memory,
                       .partials_bytes = options.workspace_bytes,
                       .expanded = reinterpret_cast<uint16_t*>(memory + expanded),
                       .expanded_values = kExpandedBytes / 2,
                       .quantized_x = memory + quantized_x,
                       .x_scales = reinterpret_cast<float*>(memory + x_scales),
                       .max_tokens = options.max_tokens,
                       .max_in_features = options.max_in_features};
  }
  *out = context.release();
  return nullptr;
}

void destroy_linear_context(LinearContext* context) {
  if (context != nullptr) {
    (void)cudaFree(context->workspace);
    delete context;
  }
}

DeviceStatus library_status(const LinearContext* context) {
  return context->library == nullptr ? "switched off" : context->library->status();
}

QuantizedInput quantized_input(LinearContext* context, const uint16_t* x, int64_t num_tokens,
                               int64_t in_features) {
  context->quantized_from = nullptr;
  if (context->quantized_x == nullptr || library_status(context) != nullptr ||
      num_tokens <= kMostSmallTokens || num_tokens > context->options.max_tokens ||
      in_features > context->options.max_in_features) {
    return {};
  }
  context->quantized_from = x;
  return {.values = context->quantized_x, .scales = context->x_scales};
}

DeviceStatus tune_linear(LinearContext* context, void* scratch, int64_t scratch_bytes,
                         DeviceStream stream) {
  const auto seen = context->seen;
  for (const auto& [key, product] : seen) {
    LinearArgs args = product;
    const int64_t most = product.num_tokens;
    const int64_t x_bytes = (most * args.in_features * 2 + 255) / 256 * 256;
    const int64_t out_bytes = most * args.out_features * (args.out_dtype == DType::kF32 ? 4 : 2);
    if (x_bytes + out_bytes > scratch_bytes) {
      continue;
    }
    args.x = static_cast<const uint16_t*>(scratch);
    args.out = static_cast<char*>(scratch) + x_bytes;
    for (int64_t tokens = 1; tokens <= most; tokens = MatrixLibrary::last_of_bucket(tokens) + 1) {
      args.num_tokens = std::min(most, MatrixLibrary::last_of_bucket(tokens));
      if (args.num_tokens <= small_linear_limit(args)) {
        continue;
      }
      if (const DeviceStatus failed = linear(context, args, stream)) {
        return failed;
      }
    }
  }
  const cudaError_t failed = cudaStreamSynchronize(static_cast<cudaStream_t>(stream));
  return failed == cudaSuccess ? nullptr : cudaGetErrorString(failed);
}

DeviceStatus linear(LinearContext* context, const LinearArgs& args, DeviceStream stream) {
  if (args.left_scales != nullptr) {
    *args.left_scales = {};
  }
  if (is_packed(args)) {
    context->quantized_from = nullptr;
    return multiply_packed(*context, args, stream);
  }
  const bool own =
      args.num_tokens <= small_linear_limit(args) || library_status(context) != nullptr;
  if (!own && !is_fused(args) && multiply_large(*context, args, stream) == nullptr) {
    return nullptr;
  }
  context->quantized_from = nullptr;
  return linear_small(args, choose_small_plan(args), stream);
}

}  // namespace atom::gpu
