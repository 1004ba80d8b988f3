// The one exported symbol of the backend: its table.
#include <memory>

#include "atom/model_ops/gpu/gpu_ops.h"
#include "kernels/gpu/runtime.h"
#include "kernels/gpu/tracer.h"

namespace atom::gpu {
namespace {

// max_head_dim: of the attention kernels.
constexpr int64_t kMaxHeadDim = 256;

OpTable make_table(int level) {
  OpTable table;
  table.name = level == 0 ? "gpu portable" : "gpu";
  table.max_head_dim = kMaxHeadDim;
  table.activation_dtype = DType::kBF16;
  table.residual_dtype = DType::kF32;
  add_vector_ops(table, level);
  add_linear_ops(table, level);
  add_attention_ops(table, level);
  add_moe_ops(table, level);
  add_mla_ops(table, level);
  return table;
}

const OpTable* op_table(int level) {
  static const OpTable portable = make_table(0);
  static const OpTable best = make_table(3);
  return level == 0 ? &portable : &best;
}

DeviceStatus create_context(const GpuContextOptions& options, void** out) {
  auto context = std::make_unique<BackendContext>();
  context->options = options;
  if (const DeviceStatus failed =
          device_runtime().properties(options.device, &context->properties)) {
    return failed;
  }
  for (const auto prepare :
       {prepare_vector_ops, prepare_linear_ops, prepare_attention_ops, prepare_moe_ops}) {
    if (const DeviceStatus failed = prepare(*context)) {
      return failed;
    }
  }
  *out = context.release();
  return nullptr;
}

void destroy_context(void* context) { delete static_cast<BackendContext*>(context); }

DeviceStatus tune(void* context, void* scratch, int64_t scratch_bytes, DeviceStream stream) {
  return tune_linear(static_cast<BackendContext*>(context)->linear, scratch, scratch_bytes, stream);
}

bool supports(const DeviceProperties& device) {
  return supports_compute_capability(device.compute_major, device.compute_minor);
}

}  // namespace
}  // namespace atom::gpu

extern "C" __attribute__((visibility("default"))) const atom::GpuBackend* atom_gpu_backend() {
  using namespace atom;
  static const GpuBackend backend{.version = ATOM_VERSION,
                                  .runtime = &gpu::device_runtime(),
                                  .architectures = gpu::architectures(),
                                  .supports = gpu::supports,
                                  .op_table = gpu::op_table,
                                  .create_context = gpu::create_context,
                                  .destroy_context = gpu::destroy_context,
                                  .prepare_step = gpu::prepare_step,
                                  .publish_step = gpu::publish_step,
                                  .sampler_workspace_bytes = gpu::sampler_workspace_bytes,
                                  .sample_tokens = gpu::sample_tokens,
                                  .set_token_counts = gpu::set_token_counts,
                                  .tune = gpu::tune,
                                  .tracer = gpu::device_tracer()};
  return &backend;
}
