// The pre-norm decoder that most families share: embedding -> layers of (norm, attention, norm,
// MLP) -> final norm -> LM head, with the checkpoint names that go with it. A family overrides what
// differs (qwen3.cpp adds the head norms).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "atom/model_ops/moe_layer.h"
#include "atom/models/causal_lm.h"
#include "atom/models/weight_loader.h"

namespace atom {

struct DecoderLayer {
  RmsNorm input_layernorm;
  Attention self_attn;
  MlaAttention latent_attn;  // instead of self_attn, where defined
  RmsNorm post_attention_layernorm;
  GatedMlp mlp;

  Tensor attend(const ExecContext& ctx, const Tensor& x, const Tensor& cos_sin,
                const PagedKvCache& cache) const {
    return latent_attn.defined() ? latent_attn(ctx, x, cos_sin, cache)
                                 : self_attn(ctx, x, cos_sin, cache);
  }

  MoeMlp moe;  // instead of mlp, where enabled

  Tensor feed_forward(const ExecContext& ctx, const Tensor& x) const {
    return moe.enabled ? moe(ctx, x) : mlp(ctx, x, GatedMlp::Reader::kAddRmsNorm);
  }
  // residual += feed_forward(norm(residual)), with the fused ops
  void feed_forward_add(const ExecContext& ctx, const Tensor& residual) const {
    return moe.enabled ? moe.add_to(ctx, residual, post_attention_layernorm)
                       : mlp.add_to(ctx, residual, post_attention_layernorm);
  }
};

// What makes a decoder layer one that drafts tokens (DeepSeek-V3's multi-token prediction): the
// layer reads eh_proj of [norm(embedding); norm(hidden)], and its norm goes before the LM head,
// which it shares, as the embedding. Source: arXiv 2412.19437, section 2.2; its checkpoints.
struct DraftHead {
  RmsNorm enorm, hnorm;
  Linear eh_proj;  // [hidden_size, 2 * hidden_size]
  RmsNorm norm;    // shared_head.norm
  Linear head;     // a copy of the LM head in 8 bits; undefined where drafts use the head itself
};

// What a family calls the parts of its experts: BLOCK ROUTER.weight, BLOCK experts.3.GATE.weight.
struct ExpertNames {
  const char* block = "mlp.";
  const char* router = "gate";
  const char* gate = "gate_proj";
  const char* up = "up_proj";
  const char* down = "down_proj";
};

class Decoder : public CausalLM {
 public:
  explicit Decoder(const ModelConfig& config);

  // Takes every parameter from the checkpoint. Layers that draft tokens (MTP: they have an eh_proj)
  // come after the last; but for config.num_draft_layers they are left out.
  void load(WeightLoader& weights);

  KvCacheSpec kv_cache_spec() const override;
  Tensor forward(const ExecContext& ctx, const Tensor& token_ids,
                 std::span<const PagedKvCache> kv_caches) override;
  DraftStates draft(const ExecContext& ctx, const Tensor& token_ids, const Tensor& hidden,
                    const Tensor& rows, std::span<const PagedKvCache> kv_caches) override;
  Tensor compute_logits(const ExecContext& ctx, const Tensor& hidden) override;
  Tensor compute_draft_logits(const ExecContext& ctx, const Tensor& normed) override;

 protected:
  // The layers that compute hidden states.
  std::span<const DecoderLayer> main_layers() const {
    return std::span(layers_).first(static_cast<size_t>(config_.num_hidden_layers));
  }
  // The layer that drafts, prefix "model.layers.61.", and what goes with it; head: the LM head.
  void load_drafts(WeightLoader& weights, const std::string& prefix, const char* head);
  // prefix: "model.layers.3."
  virtual void load_layer(WeightLoader& weights, const std::string& prefix, DecoderLayer& layer);
  // prefix: "model.layers.3.self_attn."
  virtual void load_attention(WeightLoader& weights, const std::string& prefix,
                              DecoderLayer& layer);
  // prefix: "model.layers.3."
  virtual void load_experts(WeightLoader& weights, const std::string& prefix, MoeMlp& moe);
  virtual ExpertNames expert_names() const { return {}; }
  // What is stacked to qkv_proj, and to gate_up_proj.
  virtual std::vector<LinearPart> qkv_parts(const std::string& prefix) const;
  virtual std::vector<LinearPart> gate_up_parts(const std::string& prefix,
                                                int64_t intermediate_size) const;
  // prefix: "model.layers.3.mlp."
  void load_gated_mlp(WeightLoader& weights, const std::string& prefix, int64_t intermediate_size,
                      GatedMlp& mlp);

  ModelConfig config_;
  Embedding embed_tokens_;
  RotaryEmbedding rotary_;
  std::vector<DecoderLayer> layers_;  // [num_layers()]
  DraftHead draft_;
  RmsNorm norm_;
  Linear lm_head_;
};

}  // namespace atom
