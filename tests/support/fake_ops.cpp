// The fake device's backend: the ops of the CPU, run later, and its table.
#include <utility>

#include "atom/model_ops/ops.h"
#include "tests/support/fake_device.h"
#include "tests/support/fake_device_internal.h"
#include "tests/support/fake_sampler.h"

namespace atom::testing_support {
namespace {

constexpr int64_t kScratchBytes = 64 << 20;  // of one CPU op
constexpr int kOpLevel = 3;
constexpr int64_t kMaxFusedTokens = 8;  // so that small and large steps take different ways

// Runs `op` with a context of the CPU that has everything the enqueued one had, by value.
template <class Op>
void later(const ExecContext& ctx, Op op) {
  AttentionMetadata attention = ctx.attention != nullptr ? *ctx.attention : AttentionMetadata{};
  enqueue_op(ctx.stream, [op, attention] {
    static Arena scratch(std::move(*Buffer::allocate(kScratchBytes)));
    scratch.reset();
    // One thread: this may run inside somebody's parallel loop.
    ExecContext cpu{
        .ops = &cpu_op_table(kOpLevel), .arena = &scratch, .attention = &attention, .device = {}};
    op(cpu);
  });
}

Tensor normed(const ExecContext& c, const Tensor& residual, const float* weight, float eps) {
  const Tensor out = c.arena->allocate(DType::kF32, {residual.dim(0), residual.dim(1)});
  c.ops->rms_norm(c, residual, weight, eps, out);
  return out;
}

// The fused ops are what they stand for, one after the other.
void add_fused_ops(OpTable& table) {
  table.max_fused_tokens = kMaxFusedTokens;
  table.norm_linear = [](const ExecContext& ctx, const Tensor& residual, const float* norm_weight,
                         float eps, const LinearWeight& weight, const Tensor& out) {
    later(ctx, [=, &weight](const ExecContext& c) {
      c.ops->linear(c, normed(c, residual, norm_weight, eps), weight, out);
    });
  };
  table.norm_linear_silu_mul = [](const ExecContext& ctx, const Tensor& residual,
                                  const float* norm_weight, float eps, const LinearWeight& weight,
                                  const Tensor& out) {
    later(ctx, [=, &weight](const ExecContext& c) {
      const Tensor gate_up = c.arena->allocate(DType::kF32, {residual.dim(0), weight.out_features});
      c.ops->linear(c, normed(c, residual, norm_weight, eps), weight, gate_up);
      c.ops->silu_mul(c, gate_up, out);
    });
  };
  table.linear_add = [](const ExecContext& ctx, const Tensor& x, const LinearWeight& weight,
                        const Tensor& residual) {
    later(ctx, [=, &weight](const ExecContext& c) {
      const Tensor sum = c.arena->allocate(DType::kF32, {x.dim(0), weight.out_features});
      c.ops->linear(c, x, weight, sum);
      for (int64_t i = 0; i < sum.numel(); ++i) {
        residual.data_as<float>()[i] += sum.data_as<float>()[i];
      }
    });
  };
}

void add_moe_ops(OpTable& table) {
  table.route = [](const ExecContext& ctx, const RouterParams& params) {
    later(ctx, [=](const ExecContext& c) { c.ops->route(c, params); });
  };
  table.fused_experts = [](const ExecContext& ctx, const ExpertsWeight& experts,
                           const FusedExpertsParams& params) {
    later(ctx, [=, &experts](const ExecContext& c) { c.ops->fused_experts(c, experts, params); });
  };
  table.norm_route = [](const ExecContext& ctx, const Tensor& residual, const float* norm_weight,
                        float eps, const LinearWeight& router, const RouterParams& params,
                        const Tensor& x) {
    later(ctx, [=, &router](const ExecContext& c) {
      c.ops->rms_norm(c, residual, norm_weight, eps, x);
      c.ops->linear(c, x, router, params.logits);
      c.ops->route(c, params);
    });
  };
}

OpTable make_ops() {
  OpTable table;
  table.name = "fake";
  table.max_head_dim = cpu_op_table(kOpLevel).max_head_dim;
  table.pack_linear = [](const ExecContext& ctx, std::span<const WeightPart> parts,
                         ComputeType compute, LinearWeight& out) {
    ExecContext cpu{.ops = &cpu_op_table(kOpLevel), .parallel = ctx.parallel, .device = {}};
    // Dummy weights were made on this "device".
    if (ctx.stream != nullptr) {
      ctx.runtime->synchronize(ctx.stream);
    }
    return cpu.ops->pack_linear(cpu, parts, compute, out);
  };
  table.linear = [](const ExecContext& ctx, const Tensor& x, const LinearWeight& weight,
                    const Tensor& out) {
    later(ctx, [x, &weight, out](const ExecContext& c) { c.ops->linear(c, x, weight, out); });
  };
  table.embedding = [](const ExecContext& ctx, const Tensor& ids, const Tensor& rows,
                       const Tensor& out) {
    later(ctx, [=](const ExecContext& c) { c.ops->embedding(c, ids, rows, out); });
  };
  table.rms_norm = [](const ExecContext& ctx, const Tensor& x, const float* weight, float eps,
                      const Tensor& out) {
    later(ctx, [=](const ExecContext& c) { c.ops->rms_norm(c, x, weight, eps, out); });
  };
  table.add_rms_norm = [](const ExecContext& ctx, const Tensor& x, const Tensor& residual,
                          const float* weight, float eps, const Tensor& out) {
    later(ctx,
          [=](const ExecContext& c) { c.ops->add_rms_norm(c, x, residual, weight, eps, out); });
  };
  table.silu_mul = [](const ExecContext& ctx, const Tensor& gate_up, const Tensor& out) {
    later(ctx, [=](const ExecContext& c) { c.ops->silu_mul(c, gate_up, out); });
  };
  table.rope_cos_sin = [](const ExecContext& ctx, std::span<const float> inv_freq, float scale,
                          const Tensor& cos_sin) {
    later(ctx, [inv = std::vector<float>(inv_freq.begin(), inv_freq.end()), scale,
                cos_sin](const ExecContext& c) { c.ops->rope_cos_sin(c, inv, scale, cos_sin); });
  };
  table.qk_norm_rope_kv_write = [](const ExecContext& ctx, const QkNormRopeKvWriteParams& params) {
    later(ctx, [=](const ExecContext& c) { c.ops->qk_norm_rope_kv_write(c, params); });
  };
  table.paged_attention = [](const ExecContext& ctx, const PagedAttentionParams& params) {
    later(ctx, [=](const ExecContext& c) { c.ops->paged_attention(c, params); });
  };
  add_fused_ops(table);
  add_moe_ops(table);
  table.fill_random = [](const ExecContext& ctx, uint64_t seed, float limit, const Tensor& out) {
    later(ctx, [=](const ExecContext& c) { c.ops->fill_random(c, seed, limit, out); });
  };
  table.gather_rows = [](const ExecContext& ctx, const Tensor& x, const Tensor& rows,
                         const Tensor& out) {
    later(ctx, [=](const ExecContext& c) { c.ops->gather_rows(c, x, rows, out); });
  };
  return table;
}

const OpTable* op_table(int) {
  static const OpTable table = make_ops();
  return &table;
}

template <class Args, void (*Run)(const Args&)>
void launch(const Args& args, DeviceStream stream) {
  enqueue_kernel(stream, [args] { Run(args); });
}

void launch_sample(const gpu::SampleTokensArgs& args, int32_t max_rows, DeviceStream stream) {
  ATOM_CHECK(args.num_rows <= max_rows) << args.num_rows;
  launch<gpu::SampleTokensArgs, fake_sample_tokens>(args, stream);
}

}  // namespace

const GpuBackend& fake_backend() {
  static const GpuBackend backend{
      .version = ATOM_VERSION,
      .runtime = &fake_runtime(),
      .architectures = "fake",
      .supports = [](const DeviceProperties&) { return true; },
      .op_table = op_table,
      .create_context =
          [](const GpuContextOptions&, void** out) {
            *out = nullptr;
            return DeviceStatus{};
          },
      .destroy_context = [](void*) {},
      .prepare_step = launch<gpu::PrepareStepArgs, fake_prepare_step>,
      .publish_step = launch<gpu::PublishStepArgs, fake_publish_step>,
      .sampler_workspace_bytes = [](int32_t, int32_t) { return int64_t{64}; },
      .sample_tokens = launch_sample,
      .set_token_counts = launch<gpu::SetTokenCountsArgs, fake_set_token_counts>};
  return backend;
}

}  // namespace atom::testing_support
