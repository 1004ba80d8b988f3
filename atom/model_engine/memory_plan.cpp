// Where memory goes: weights and workspace first, the rest for the KV cache.
#include "atom/model_engine/memory_plan.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "atom/model_engine/memory_groups.h"
#include "atom/model_ops/gpu_backend.h"
#include "atom/model_ops/moe.h"
#include "atom/models/causal_lm.h"
#include "kernels/cpu/mla.h"

namespace atom {
namespace {

constexpr int64_t kMiB = 1 << 20;
// Host memory is shared with other programs and with the page cache that holds the model file, so
// the KV cache takes only this share of what is left.
constexpr double kHostCacheShare = 0.5;
constexpr int64_t kMinUsefulBlocks = 1 << 16;
// Scratch of ops on a GPU that activations do not cover: partial sums of split attention and GEMMs.
constexpr int64_t kDeviceScratch = 256 * kMiB;
// bf16 products on an H200 in large steps: about 600 TFLOP/s on 132 multiprocessors.
constexpr double kFlopsPerMultiprocessor = 4.5e12;
// Longer steps are no more efficient (on an H200 products of 1024 rows of an 8B model run at 711
// TFLOP/s under load, of 2048 at 630); they only delay the first token of the prompts in them.
constexpr double kLongestStep = 0.04;
constexpr int64_t kMinStepTokens = 1024;
constexpr int64_t kStepMultiple = 256;  // whole tiles of products

int64_t available_host_bytes() {
  int64_t available = -1;
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  int64_t kib = 0;
  for (std::string unit; meminfo >> key >> kib; std::getline(meminfo, unit)) {
    if (key == "MemAvailable:") {
      available = kib * 1024;
      break;
    }
  }
  if (available < 0) {
    struct sysinfo info {};
    sysinfo(&info);
    available = static_cast<int64_t>(info.freeram) * info.mem_unit;
  }
  const std::optional<int64_t> allowed = memory_left_in_groups();
  return allowed ? std::clamp<int64_t>(*allowed, 0, available) : available;
}

double mib(int64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(kMiB); }

// Values of a layer's attention matrices.
int64_t attention_weights(const ModelConfig& model) {
  const LatentConfig& latent = model.latent;
  if (latent.kv_lora_rank == 0) {
    const int64_t heads = model.num_attention_heads + model.num_key_value_heads;
    return 2 * heads * model.head_dim * model.hidden_size;
  }
  const int64_t queries = model.num_attention_heads * model.head_dim;
  const int64_t query_weights = latent.q_lora_rank == 0
                                    ? model.hidden_size * queries
                                    : latent.q_lora_rank * (model.hidden_size + queries);
  return query_weights + model.hidden_size * (latent.kv_lora_rank + latent.qk_rope_head_dim) +
         model.num_attention_heads *
             (latent.kv_lora_rank * (latent.qk_nope_head_dim + latent.v_head_dim) +
              latent.v_head_dim * model.hidden_size);
}

// Values per token of a layer's attention, at their most.
int64_t attention_activations(const ModelConfig& model) {
  const LatentConfig& latent = model.latent;
  const int64_t heads = model.num_attention_heads;
  if (latent.kv_lora_rank == 0) {
    return 2 * (heads + model.num_key_value_heads) * model.head_dim;
  }
  const int64_t row = latent.kv_lora_rank + latent.qk_rope_head_dim;
  return row + heads * row +
         std::max(heads * model.head_dim + 2 * latent.q_lora_rank,
                  heads * (latent.kv_lora_rank + latent.v_head_dim));
}

// Values of all layers' feed-forward matrices, of `num_experts` experts each.
int64_t feed_forward_weights(const ModelConfig& model, int64_t num_experts) {
  const MoeConfig& moe = model.moe;
  const auto sparse = static_cast<int64_t>(std::ranges::count(moe.has_experts, true));
  const int64_t experts =
      num_experts * 3 * moe.intermediate_size + moe.num_experts + 3 * moe.shared_intermediate_size;
  return ((model.num_layers() - sparse) * 3 * model.intermediate_size + sparse * experts) *
         model.hidden_size;
}

// bf16 matrices; norms and biases are lost in them.
int64_t dummy_weight_bytes(const ModelConfig& model, int64_t num_experts) {
  const int64_t attention = attention_weights(model);
  const int64_t tables = model.tie_word_embeddings ? 1 : 2;
  return 2 * (model.num_layers() * attention + feed_forward_weights(model, num_experts) +
              tables * model.vocab_size * model.hidden_size);
}

// Bits of a stored value with its share of the scales, as a device that reads_packed_linear keeps
// them (model_ops/device_linear.h, device_experts.h). A guess from the configuration: layers of odd
// sizes, and layers that are not quantised, are bf16.
struct WeightBits {
  double linear = 16;
  double experts = 16;
};

WeightBits device_weight_bits(const QuantizationConfig& quantization) {
  if (quantization.method == "mxfp4") {  // of stacked experts only
    return {.experts = 4.25};
  }
  if (quantization.groups.empty()) {
    return {};
  }
  const DataFormat& format = quantization.groups.front().format;
  switch (format.dtype) {
    case DType::kF8E4M3:
      return {.linear = 8, .experts = 8};
    case DType::kI8:
      return {.linear = 8};
    case DType::kF4E2M1:
      return {.linear = 4.25, .experts = 4.25};
    case DType::kU4:
      return {.linear = format.block_k > 0 && format.block_k < 128 ? 4.75 : 4.25};
    default:
      return {};
  }
}

int64_t device_weight_bytes(const ModelConfig& model, int64_t num_experts, WeightBits bits) {
  const int64_t dense = feed_forward_weights(model, 0);
  const int64_t experts = feed_forward_weights(model, num_experts) - dense;
  const int64_t linear = model.num_hidden_layers * attention_weights(model) + dense;
  const int64_t tables = model.tie_word_embeddings ? 1 : 2;
  return 2 * tables * model.vocab_size * model.hidden_size +
         static_cast<int64_t>((static_cast<double>(linear) * bits.linear +
                               static_cast<double>(experts) * bits.experts) /
                              8);
}

// Of fused_experts (moe_ops.cpp): rows of the pairs it takes at a time, in and out, and a copy in a
// kernel's own layout.
int64_t expert_scratch_bytes(const ModelConfig& model, int64_t step_tokens) {
  const MoeConfig& moe = model.moe;
  if (moe.num_experts == 0) {
    return 0;
  }
  const int64_t pairs =
      std::min(step_tokens * moe.rule.top_k, std::max(kExpertPairs, moe.rule.top_k));
  const int64_t values = model.hidden_size + 3 * moe.intermediate_size +
                         std::max(model.hidden_size, moe.intermediate_size) + 16;
  return pairs * values * 4 + moe.num_experts * 512 +
         step_tokens * (moe.num_experts + 2 * moe.rule.top_k) * 4;
}

// The same on a GPU, which takes all pairs of a step at once, and expands quantised weights for the
// largest ones (kernels/gpu/moe/experts.cu).
int64_t device_expert_scratch_bytes(const ModelConfig& model, int64_t step_tokens) {
  const MoeConfig& moe = model.moe;
  if (moe.num_experts == 0) {
    return 0;
  }
  const int64_t pairs = step_tokens * moe.rule.top_k;
  const int64_t expanded = model.quantization.method.empty()
                               ? 0
                               : moe.num_experts * 2 * moe.intermediate_size * model.hidden_size;
  return pairs * ((model.hidden_size + moe.intermediate_size) * 2 + 16) + moe.num_experts * 32 +
         expanded * 2;
}

// Bytes of the two kinds of activations (ops.h).
struct ActivationBytes {
  int64_t activation = 4;
  int64_t residual = 4;
};

int64_t workspace_bytes(const ModelConfig& model, int64_t step_tokens, int64_t logit_rows,
                        ActivationBytes bytes) {
  // Per token: residual, streams of hidden size, rotary rows, the larger of the two sublayers, and
  // a copy of the widest input in a kernel's own layout.
  const int64_t heads =
      model.num_attention_heads * std::max(model.head_dim, model.latent.v_head_dim);
  const int64_t attention = attention_activations(model);
  const int64_t mlp = 3 * std::max(model.intermediate_size, model.moe.shared_intermediate_size);
  // A draft layer's input and outputs live beside the hidden states of the step.
  const int64_t hidden = (model.num_draft_layers > 0 ? 10 : 5) * model.hidden_size;
  const int64_t activations = hidden + std::max(attention, mlp) +
                              std::max({model.intermediate_size, heads, model.hidden_size});
  const int64_t per_token =
      activations * bytes.activation + model.hidden_size * bytes.residual + model.head_dim * 4;
  return step_tokens * per_token + logit_rows * (model.vocab_size + model.hidden_size) * 4 +
         (model.latent.kv_lora_rank > 0 ? cpu::kMlaStates * int64_t{sizeof(float)} : 0) +
         expert_scratch_bytes(model, step_tokens) + 16 * kMiB;  // op scratch and alignment
}

}  // namespace

DType kv_cache_dtype(const EngineConfig& config) {
  if (config.cache.dtype == KvCacheType::kFP8) {
    return DType::kF8E4M3;
  }
  return config.model.dtype == ComputeType::kFloat32 ? DType::kF32 : DType::kBF16;
}

namespace {

Result<ModelConfig> loaded_config(const EngineConfig& config, const Checkpoint& checkpoint) {
  if (config.speculative.method != DraftMethod::kMtp) {
    return checkpoint.config();
  }
  return with_draft_layer(checkpoint, config.model.load_dummy != DummyWeights::kNone);
}

// What does not depend on the device: the context and the bytes of a block.
Result<MemoryPlan> start_plan(const EngineConfig& config, const ModelConfig& model) {
  MemoryPlan plan;
  if (config.scheduler.max_model_len.value_or(0) > model.max_position_embeddings) {
    return std::unexpected(
        Error{.code = ErrorCode::kInvalidArgument,
              .message = str_format("--max-model-len: {}: the model was made for {} tokens at most",
                                    *config.scheduler.max_model_len, model.max_position_embeddings),
              .param = "--max-model-len"});
  }
  plan.max_model_len = config.scheduler.max_model_len.value_or(model.max_position_embeddings);
  const KvCacheSpec cache = kv_cache_spec(model);
  plan.bytes_per_block = cache.num_layers * cache.token_size() * config.cache.block_size *
                         dtype_bytes(kv_cache_dtype(config), 1);
  return plan;
}

Status divide(const EngineConfig& config, double cache_share, MemoryPlan& plan) {
  const int64_t left = plan.available - plan.weights - plan.workspace;
  // A tiny model on a large host: more blocks than every sequence at full length could use, and as
  // many again for cached prefixes, would only cost bookkeeping.
  const int64_t blocks_per_sequence =
      (plan.max_model_len + config.cache.block_size - 1) / config.cache.block_size;
  const int64_t useful =
      std::max(2 * blocks_per_sequence * config.scheduler.max_num_seqs, kMinUsefulBlocks);
  const int64_t bytes = config.cache.kv_cache_bytes.value_or(
      std::min(static_cast<int64_t>(static_cast<double>(left) * cache_share),
               useful * plan.bytes_per_block));
  plan.num_blocks = std::min<int64_t>(bytes / plan.bytes_per_block, INT32_MAX);  // ids are int32
  plan.kv_cache = plan.num_blocks * plan.bytes_per_block;
  if (plan.num_blocks < 1) {
    return make_error(ErrorCode::kResourceExhausted,
                      "not enough memory for a KV cache: {:.0f} MiB usable - {:.0f} MiB weights - "
                      "{:.0f} MiB workspace leaves {:.0f} MiB, one block needs {:.2f} MiB "
                      "(lower --max-num-batched-tokens or free memory)",
                      mib(plan.available), mib(plan.weights), mib(plan.workspace), mib(left),
                      mib(plan.bytes_per_block));
  }
  return {};
}

}  // namespace

Result<MemoryPlan> plan_memory(const EngineConfig& config, const Checkpoint& checkpoint) {
  ATOM_ASSIGN_OR_RETURN(const ModelConfig model, loaded_config(config, checkpoint));
  ATOM_ASSIGN_OR_RETURN(MemoryPlan plan, start_plan(config, model));
  plan.available = static_cast<int64_t>(static_cast<double>(available_host_bytes()) *
                                        config.cache.memory_utilization);
  plan.weights = config.model.load_dummy == DummyWeights::kNone
                     ? checkpoint.total_bytes()
                     : dummy_weight_bytes(model, model.moe.num_experts);
  if (model.num_draft_layers > 0) {
    plan.weights += model.vocab_size * model.hidden_size;  // the head's copy that drafts
  }
  plan.workspace = workspace_bytes(model, max_step_tokens(config), kLogitRows, {});
  ATOM_RETURN_IF_ERROR(divide(config, kHostCacheShare, plan));
  return plan;
}

Result<MemoryPlan> plan_device_memory(const EngineConfig& config, const Checkpoint& checkpoint,
                                      const GpuDevice& gpu) {
  ATOM_ASSIGN_OR_RETURN(const ModelConfig model, loaded_config(config, checkpoint));
  ATOM_ASSIGN_OR_RETURN(MemoryPlan plan, start_plan(config, model));
  int64_t total = 0;
  if (const DeviceStatus failed = gpu.backend->runtime->memory_info(&plan.device_free, &total)) {
    return make_error(ErrorCode::kInternal, "{}: {}", gpu.properties.name, failed);
  }
  // --gpu-memory-utilization is a share of the device; what others use is not ours.
  plan.available = plan.device_free - static_cast<int64_t>(static_cast<double>(total) *
                                                           (1.0 - config.cache.memory_utilization));
  const OpTable& ops = *gpu.backend->op_table(config.level);
  const WeightBits bits =
      ops.reads_packed_linear ? device_weight_bits(model.quantization) : WeightBits{};
  plan.weights = device_weight_bytes(model, model.moe.num_experts, bits);
  // What is multiplied is bf16, but for --quantization fp8.
  plan.token_weights = dummy_weight_bytes(model, model.moe.rule.top_k);
  if (config.model.quantization == Quantization::kFP8 && bits.linear == 16) {
    plan.weights = plan.weights / 2 + model.vocab_size * model.hidden_size;
    plan.token_weights = plan.token_weights / 2 + model.vocab_size * model.hidden_size;
  }
  plan.vocab_size = model.vocab_size;
  const int64_t efficient = tokens_in(kLongestStep, plan, gpu) / kStepMultiple * kStepMultiple;
  plan.step_tokens = std::min(config.scheduler.max_num_batched_tokens,
                              std::max({efficient, kMinStepTokens, config.scheduler.max_num_seqs}));
  plan.workspace = kDeviceScratch +
                   workspace_bytes(model, plan.step_tokens, config.scheduler.max_num_seqs,
                                   {.activation = dtype_bytes(ops.activation_dtype, 1),
                                    .residual = dtype_bytes(ops.residual_dtype, 1)}) +
                   device_expert_scratch_bytes(model, plan.step_tokens);
  MemoryPlan expected = plan;
  ATOM_RETURN_IF_ERROR(plan_kv_cache(config, expected));
  return plan;
}

int64_t tokens_in(double seconds, const MemoryPlan& plan, const GpuDevice& gpu) {
  const auto per_token = static_cast<double>(std::max<int64_t>(1, plan.token_weights));
  const double flops = kFlopsPerMultiprocessor * gpu.properties.num_multiprocessors;
  return static_cast<int64_t>(seconds * flops / per_token);  // 2 flops for each 2-byte weight
}

Status plan_kv_cache(const EngineConfig& config, MemoryPlan& plan) {
  ATOM_RETURN_IF_ERROR(divide(config, 1.0, plan));
  if (plan.weights + plan.workspace + plan.kv_cache > plan.available) {
    return make_error(
        ErrorCode::kResourceExhausted,
        "not enough device memory: {:.0f} MiB weights + {:.0f} MiB workspace + {:.0f} "
        "MiB KV cache are more than the {:.0f} MiB usable (see "
        "--gpu-memory-utilization and --max-num-batched-tokens)",
        mib(plan.weights), mib(plan.workspace), mib(plan.kv_cache), mib(plan.available));
  }
  return {};
}

std::vector<std::string> memory_table(const MemoryPlan& plan) {
  const auto row = [&](const char* name, int64_t bytes, const std::string& what) {
    return str_format("{:<10} {:>9.0f} MiB  {}", name, mib(bytes), what);
  };
  const std::string step =
      plan.step_tokens > 0
          ? str_format("measured: activations of {} tokens, staging, libraries", plan.step_tokens)
          : std::string("activations of the largest step");
  return {row("usable", plan.available, "free memory x utilization"),
          row("weights", plan.weights, ""), row("workspace", plan.workspace, step),
          row("KV cache", plan.kv_cache,
              str_format("{} blocks of {:.1f} KiB; context {} tokens", plan.num_blocks,
                         static_cast<double>(plan.bytes_per_block) / 1024.0, plan.max_model_len)),
          row("left", plan.available - plan.weights - plan.workspace - plan.kv_cache, "")};
}

std::string describe(const MemoryPlan& plan) {
  return str_format(
      "usable {:.0f} MiB: weights {:.0f}, workspace {:.0f}, KV cache {:.0f} ({} blocks of {:.1f} "
      "KiB), "
      "context {} tokens",
      mib(plan.available), mib(plan.weights), mib(plan.workspace), mib(plan.kv_cache),
      plan.num_blocks, static_cast<double>(plan.bytes_per_block) / 1024.0, plan.max_model_len);
}

}  // namespace atom
