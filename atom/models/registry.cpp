#include "atom/models/registry.h"

#include <string>
#include <string_view>
#include <tuple>
#include <utility>

namespace atom {
namespace {

struct Family {
  std::string_view architecture;
  std::unique_ptr<CausalLM> (*make)(const ModelConfig&, WeightLoader&);
};

constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", make_llama},         {"MistralForCausalLM", make_llama},
    {"Phi3ForCausalLM", make_phi3},           {"Qwen2ForCausalLM", make_llama},
    {"Qwen3ForCausalLM", make_qwen3},         {"Qwen3MoeForCausalLM", make_qwen3},
    {"MixtralForCausalLM", make_mixtral},     {"Glm4MoeForCausalLM", make_glm4_moe},
    {"GptOssForCausalLM", make_gpt_oss},      {"DeepseekV2ForCausalLM", make_deepseek},
    {"DeepseekV3ForCausalLM", make_deepseek},
};

// The model maps its embedding table from the checkpoint, so the checkpoint lives as long as the
// model.
class MappedModel final : public CausalLM {
 public:
  MappedModel(std::unique_ptr<CausalLM> model, std::shared_ptr<const Checkpoint> checkpoint)
      : checkpoint_(std::move(checkpoint)), model_(std::move(model)) {}

  KvCacheSpec kv_cache_spec() const override { return model_->kv_cache_spec(); }
  Tensor forward(const ExecContext& ctx, const Tensor& token_ids,
                 std::span<const PagedKvCache> kv_caches) override {
    return model_->forward(ctx, token_ids, kv_caches);
  }
  DraftStates draft(const ExecContext& ctx, const Tensor& token_ids, const Tensor& hidden,
                    const Tensor& rows, std::span<const PagedKvCache> kv_caches) override {
    return model_->draft(ctx, token_ids, hidden, rows, kv_caches);
  }
  Tensor compute_logits(const ExecContext& ctx, const Tensor& hidden) override {
    return model_->compute_logits(ctx, hidden);
  }
  Tensor compute_draft_logits(const ExecContext& ctx, const Tensor& normed) override {
    return model_->compute_draft_logits(ctx, normed);
  }

 private:
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::unique_ptr<CausalLM> model_;
};

// What the backend's attention kernels take.
Status check_attention(const ModelConfig& config, const OpTable& ops) {
  if (config.latent.kv_lora_rank == 0) {
    if (config.head_dim <= ops.max_head_dim) {
      return {};
    }
    return make_error(ErrorCode::kUnsupported, "head_dim {} is not supported (at most {})",
                      config.head_dim, ops.max_head_dim);
  }
  if (ops.max_latent_rank == 0) {
    return make_error(ErrorCode::kUnsupported,
                      "{}: latent attention (MLA) has no GPU kernels yet; use --device cpu",
                      config.architecture);
  }
  const LatentConfig& latent = config.latent;
  const std::tuple<const char*, int64_t, int64_t> limits[] = {
      {"kv_lora_rank", latent.kv_lora_rank, ops.max_latent_rank},
      {"qk_rope_head_dim", latent.qk_rope_head_dim, ops.max_latent_rope},
      {"qk_nope_head_dim", latent.qk_nope_head_dim, ops.max_latent_rank}};
  for (const auto& [key, value, most] : limits) {
    if (value > most) {
      return make_error(ErrorCode::kUnsupported, "{} {} is not supported (at most {})", key, value,
                        most);
    }
  }
  return {};
}

}  // namespace

Result<ModelConfig> with_draft_layer(const Checkpoint& checkpoint, bool dummy) {
  ModelConfig config = checkpoint.config();
  const std::string weight = str_format("model.layers.{}.eh_proj.weight", config.num_hidden_layers);
  if (config.num_nextn_predict_layers < 1 || (!dummy && checkpoint.find(weight) == nullptr)) {
    return std::unexpected(Error{
        .code = ErrorCode::kInvalidArgument,
        .message = str_format("--method: mtp: this checkpoint has no layer that drafts tokens "
                              "({} {}); --method ngram needs none",
                              config.num_nextn_predict_layers < 1
                                  ? "config.json: num_nextn_predict_layers is"
                                  : weight,
                              config.num_nextn_predict_layers < 1 ? "0" : "is absent"),
        .param = "--method"});
  }
  config.num_draft_layers = 1;
  if (!config.moe.has_experts.empty()) {
    config.moe.has_experts.push_back(true);
  }
  if (!config.layer_windows.empty()) {
    config.layer_windows.push_back(0);
  }
  return config;
}

Result<std::unique_ptr<CausalLM>> load_model(const ExecContext& ctx,
                                             std::shared_ptr<const Checkpoint> checkpoint,
                                             const ModelLoadOptions& options) {
  ModelConfig config = checkpoint->config();
  if (options.draft_layer) {
    ATOM_ASSIGN_OR_RETURN(config,
                          with_draft_layer(*checkpoint, options.dummy != DummyWeights::kNone));
  }
  ATOM_RETURN_IF_ERROR(check_attention(config, *ctx.ops));
  if (config.moe.num_experts > 0 && ctx.ops->fused_experts == nullptr) {
    return make_error(ErrorCode::kUnsupported,
                      "{}: mixture of experts has no GPU kernels yet; use --device cpu",
                      config.architecture);
  }
  for (const Family& family : kFamilies) {
    if (family.architecture == config.architecture) {
      WeightLoader weights(ctx, *checkpoint, options);
      std::unique_ptr<CausalLM> model = family.make(config, weights);
      ATOM_RETURN_IF_ERROR(weights.finish());
      ATOM_RETURN_IF_ERROR(checkpoint->verify_unchanged());
      return std::make_unique<MappedModel>(std::move(model), std::move(checkpoint));
    }
  }
  std::string supported;
  for (const Family& family : kFamilies) {
    supported += (supported.empty() ? "" : ", ") + std::string(family.architecture);
  }
  return make_error(ErrorCode::kUnsupported, "architecture {} is not supported (supported: {})",
                    config.architecture, supported);
}

}  // namespace atom
