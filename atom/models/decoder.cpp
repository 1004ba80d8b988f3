#include "atom/models/decoder.h"

namespace atom {

Decoder::Decoder(const ModelConfig& config)
    : config_(config),
      rotary_(RotaryEmbedding::create(config.rope, config.rotary_dim)),
      layers_(static_cast<size_t>(config.num_layers())) {
  const auto eps = static_cast<float>(config.rms_norm_eps);
  norm_.eps = eps;
  draft_.enorm.eps = draft_.hnorm.eps = draft_.norm.eps = eps;
  for (DecoderLayer& layer : layers_) {
    layer.input_layernorm.eps = eps;
    layer.post_attention_layernorm.eps = eps;
    layer.self_attn.num_heads = config.num_attention_heads;
    layer.self_attn.num_kv_heads = config.num_key_value_heads;
    layer.self_attn.head_dim = config.head_dim;
    layer.self_attn.norm_eps = eps;
  }
  for (size_t i = 0; i < config.layer_windows.size(); ++i) {
    layers_[i].self_attn.sliding_window = config.layer_windows[i];
  }
  const MoeConfig& moe = config.moe;
  for (size_t i = 0; i < moe.has_experts.size(); ++i) {
    layers_[i].moe.enabled = moe.has_experts[i];
    layers_[i].moe.rule = moe.rule;
  }
}

void Decoder::load(WeightLoader& weights) {
  const ModelConfig& c = config_;
  const bool shares_table = c.tie_word_embeddings && weights.shares_tables();
  if (!shares_table) {
    weights.embedding(embed_tokens_, "model.embed_tokens.weight", c.vocab_size, c.hidden_size);
  }
  for (size_t i = 0; i < main_layers().size(); ++i) {
    load_layer(weights, str_format("model.layers.{}.", i), layers_[i]);
  }
  const char* head = c.tie_word_embeddings ? "model.embed_tokens" : "lm_head";
  if (c.num_draft_layers > 0) {
    load_drafts(weights, str_format("model.layers.{}.", c.num_hidden_layers), head);
  }
  for (size_t i = layers_.size();; ++i) {
    const std::string prefix = str_format("model.layers.{}.", i);
    if (!weights.has(prefix + "eh_proj.weight")) {
      break;
    }
    weights.ignore_prefix(prefix);
  }
  weights.vector(norm_.weight, "model.norm.weight", c.hidden_size);
  weights.linear(lm_head_, {{.prefix = head, .rows = c.vocab_size}}, c.hidden_size,
                 Precision::kKeep);
  if (shares_table) {
    weights.share_table(lm_head_, embed_tokens_);
  }
  if (c.tie_word_embeddings) {
    // Some tied checkpoints store the copy all the same.
    weights.ignore_copy("lm_head.weight", "model.embed_tokens.weight",
                        "tie_word_embeddings is true");
  }
}

void Decoder::load_layer(WeightLoader& weights, const std::string& prefix, DecoderLayer& layer) {
  const ModelConfig& c = config_;
  weights.vector(layer.input_layernorm.weight, prefix + "input_layernorm.weight", c.hidden_size);
  load_attention(weights, prefix + "self_attn.", layer);
  weights.vector(layer.post_attention_layernorm.weight, prefix + "post_attention_layernorm.weight",
                 c.hidden_size);
  if (layer.moe.enabled) {
    load_experts(weights, prefix, layer.moe);
  } else {
    load_gated_mlp(weights, prefix + "mlp.", c.intermediate_size, layer.mlp);
  }
}

void Decoder::load_drafts(WeightLoader& weights, const std::string& prefix, const char* head) {
  const int64_t hidden = config_.hidden_size;
  weights.begin_drafts();
  load_layer(weights, prefix, layers_.back());
  weights.vector(draft_.enorm.weight, prefix + "enorm.weight", hidden);
  weights.vector(draft_.hnorm.weight, prefix + "hnorm.weight", hidden);
  weights.linear(draft_.eh_proj, {{.prefix = prefix + "eh_proj", .rows = hidden}}, 2 * hidden,
                 Precision::kKeep);
  weights.vector(draft_.norm.weight, prefix + "shared_head.norm.weight", hidden);
  if (weights.quantizes(head)) {
    weights.linear(draft_.head, {{.prefix = head, .rows = config_.vocab_size}}, hidden,
                   Precision::kKeep);
  }
  weights.end_drafts();
  constexpr const char* kShared = "the layer that drafts tokens shares it";
  weights.ignore_copy(prefix + "embed_tokens.weight", "model.embed_tokens.weight", kShared);
  weights.ignore_copy(prefix + "shared_head.head.weight", "lm_head.weight", kShared);
}

std::vector<LinearPart> Decoder::qkv_parts(const std::string& prefix) const {
  const bool biased = config_.attention_bias;
  const int64_t q_rows = config_.num_attention_heads * config_.head_dim;
  const int64_t kv_rows = config_.num_key_value_heads * config_.head_dim;
  return {{.prefix = prefix + "q_proj", .rows = q_rows, .has_bias = biased},
          {.prefix = prefix + "k_proj", .rows = kv_rows, .has_bias = biased},
          {.prefix = prefix + "v_proj", .rows = kv_rows, .has_bias = biased}};
}

std::vector<LinearPart> Decoder::gate_up_parts(const std::string& prefix,
                                               int64_t intermediate_size) const {
  const bool biased = config_.mlp_bias;
  return {{.prefix = prefix + "gate_proj", .rows = intermediate_size, .has_bias = biased},
          {.prefix = prefix + "up_proj", .rows = intermediate_size, .has_bias = biased}};
}

void Decoder::load_gated_mlp(WeightLoader& weights, const std::string& prefix,
                             int64_t intermediate_size, GatedMlp& mlp) {
  const ModelConfig& c = config_;
  weights.linear(mlp.gate_up_proj, gate_up_parts(prefix, intermediate_size), c.hidden_size);
  weights.linear(mlp.down_proj,
                 {{.prefix = prefix + "down_proj", .rows = c.hidden_size, .has_bias = c.mlp_bias}},
                 intermediate_size);
}

void Decoder::load_experts(WeightLoader& weights, const std::string& prefix, MoeMlp& moe) {
  const ModelConfig& c = config_;
  const MoeConfig& config = c.moe;
  const ExpertNames names = expert_names();
  const std::string block = prefix + names.block;
  const std::string router = block + names.router;
  if (config.shared_intermediate_size > 0) {
    load_gated_mlp(weights, block + "shared_experts.", config.shared_intermediate_size,
                   moe.shared_experts);
  }
  weights.linear(moe.router, {{.prefix = router, .rows = config.num_experts}}, c.hidden_size,
                 Precision::kExact);
  if (config.has_correction_bias) {
    weights.vector(moe.correction_bias, router + ".e_score_correction_bias", config.num_experts);
  }
  weights.experts(moe.experts, {.prefix = block + "experts.",
                                .gate = names.gate,
                                .up = names.up,
                                .down = names.down,
                                .num_experts = config.num_experts,
                                .intermediate_size = config.intermediate_size,
                                .hidden_size = c.hidden_size});
}

void Decoder::load_attention(WeightLoader& weights, const std::string& prefix,
                             DecoderLayer& layer) {
  const ModelConfig& c = config_;
  const int64_t q_rows = c.num_attention_heads * c.head_dim;
  weights.linear(layer.self_attn.qkv_proj, qkv_parts(prefix), c.hidden_size);
  weights.linear(
      layer.self_attn.o_proj,
      {{.prefix = prefix + "o_proj", .rows = c.hidden_size, .has_bias = c.attention_output_bias}},
      q_rows);
  weights.cache_scales(layer.self_attn, prefix);
  if (c.qk_norm) {
    weights.vector(layer.self_attn.q_norm, prefix + "q_norm.weight", c.head_dim);
    weights.vector(layer.self_attn.k_norm, prefix + "k_norm.weight", c.head_dim);
  }
}

KvCacheSpec kv_cache_spec(const ModelConfig& config) {
  if (config.latent.kv_lora_rank > 0) {
    return {.num_layers = config.num_layers(),
            .num_kv_heads = 1,
            .head_dim = config.latent.kv_lora_rank + config.latent.qk_rope_head_dim,
            .has_values = false};
  }
  return {.num_layers = config.num_layers(),
          .num_kv_heads = config.num_key_value_heads,
          .head_dim = config.head_dim};
}

KvCacheSpec Decoder::kv_cache_spec() const { return atom::kv_cache_spec(config_); }

Tensor Decoder::forward(const ExecContext& ctx, const Tensor& token_ids,
                        std::span<const PagedKvCache> kv_caches) {
  Tensor residual = embed_tokens_(ctx, token_ids);
  const Tensor cos_sin = rotary_(ctx);
  const std::span<const DecoderLayer> layers = main_layers();
  // Norms inside products cost more than they save where two products read a norm, as those of
  // latent attention do.
  if (token_ids.dim(0) <= ctx.ops->max_fused_tokens && !ctx.batch_invariant &&
      !layers.front().latent_attn.defined()) {
    for (size_t i = 0; i < layers.size(); ++i) {
      const DecoderLayer& layer = layers[i];
      layer.self_attn.add_to(ctx, residual, layer.input_layernorm, cos_sin, kv_caches[i]);
      layer.feed_forward_add(ctx, residual);
    }
    return norm_(ctx, residual);
  }
  // Every sublayer's output has the shape of the residual, so one tensor carries the stream through
  // the network while the arena is rewound after each layer.
  Tensor x = layers.front().input_layernorm(ctx, residual);
  for (size_t i = 0; i < layers.size(); ++i) {
    const DecoderLayer& layer = layers[i];
    const int64_t scratch = ctx.arena->mark();
    const Tensor attended = layer.attend(ctx, x, cos_sin, kv_caches[i]);
    layer.post_attention_layernorm.add(ctx, attended, residual, x);
    const Tensor output = layer.feed_forward(ctx, x);
    const RmsNorm& next = i + 1 < layers.size() ? layers[i + 1].input_layernorm : norm_;
    next.add(ctx, output, residual, x);
    ctx.arena->rewind(scratch);
  }
  return x;
}

DraftStates Decoder::draft(const ExecContext& ctx, const Tensor& token_ids, const Tensor& hidden,
                           const Tensor& rows, std::span<const PagedKvCache> kv_caches) {
  const DecoderLayer& layer = layers_.back();
  const int64_t size = config_.hidden_size;
  const int64_t num_tokens = token_ids.dim(0);
  const auto weights = [](const RmsNorm& norm) {
    return static_cast<const float*>(norm.weight.data());
  };
  const Tensor out = ctx.arena->allocate(ctx.ops->residual_dtype, {rows.dim(0), size});
  const Tensor normed = ctx.arena->allocate(ctx.ops->activation_dtype, {rows.dim(0), size});
  const int64_t scratch = ctx.arena->mark();
  const Tensor both = ctx.arena->allocate(ctx.ops->activation_dtype, {num_tokens, 2 * size});
  ctx.ops->norm_concat(ctx, embed_tokens_(ctx, token_ids), weights(draft_.enorm), hidden,
                       weights(draft_.hnorm), draft_.enorm.eps, both);
  const Tensor residual = ctx.arena->allocate(ctx.ops->residual_dtype, {num_tokens, size});
  ctx.ops->linear(ctx, both, draft_.eh_proj.weight, residual);
  const Tensor attended =
      layer.attend(ctx, layer.input_layernorm(ctx, residual), rotary_(ctx), kv_caches.back());
  if (rows.dim(0) > 0) {
    // What follows is each row's own.
    const Tensor picked = ctx.arena->allocate(attended.dtype(), {rows.dim(0), size});
    ctx.ops->gather_rows(ctx, attended, rows, picked);
    ctx.ops->gather_rows(ctx, residual, rows, out);
    layer.post_attention_layernorm.add(ctx, picked, out, normed);
    draft_.norm.add(ctx, layer.feed_forward(ctx, normed), out, normed);
  }
  ctx.arena->rewind(scratch);
  return {.hidden = out, .normed = normed};
}

namespace {

Tensor logits_of(const ExecContext& ctx, const Tensor& hidden, const Linear& head) {
  Tensor logits = ctx.arena->allocate(DType::kF32, {hidden.dim(0), head.weight.out_features});
  ctx.ops->linear(ctx, hidden, head.weight, logits);
  return logits;
}

}  // namespace

Tensor Decoder::compute_logits(const ExecContext& ctx, const Tensor& hidden) {
  return logits_of(ctx, hidden, lm_head_);
}

Tensor Decoder::compute_draft_logits(const ExecContext& ctx, const Tensor& normed) {
  return logits_of(ctx, normed, draft_.head.weight.defined() ? draft_.head : lm_head_);
}

}  // namespace atom
