// DeepseekV2ForCausalLM and DeepseekV3ForCausalLM (DeepSeek V2, V2-Lite, V3, R1, V3.1; Kimi-K2):
// the Decoder with latent attention, and experts after the first dense layers. V2 and V3 differ in
// their router and, for V2-Lite, in queries that are projected at once; all of it is configuration.
#include <cmath>

#include "atom/models/decoder.h"
#include "atom/models/registry.h"

namespace atom {
namespace {

// Of the norms inside attention, whatever rms_norm_eps is. Source: transformers
// modeling_deepseek_v3 (the default of DeepseekV3RMSNorm).
constexpr float kLatentNormEps = 1e-6F;

class DeepseekForCausalLM final : public Decoder {
 public:
  explicit DeepseekForCausalLM(const ModelConfig& config) : Decoder(config) {
    const LatentConfig& latent = config.latent;
    for (DecoderLayer& layer : layers_) {
      MlaAttention& attention = layer.latent_attn;
      attention.shape = {.num_heads = config.num_attention_heads,
                         .rank = latent.kv_lora_rank,
                         .rope = latent.qk_rope_head_dim,
                         .nope = latent.qk_nope_head_dim};
      attention.v_head_dim = latent.v_head_dim;
      const double mscale = config.rope.latent_mscale;
      attention.scale =
          static_cast<float>(mscale * mscale / std::sqrt(static_cast<double>(config.head_dim)));
      attention.q_a_layernorm.eps = kLatentNormEps;
      attention.kv_a_layernorm.eps = kLatentNormEps;
    }
  }

 private:
  void load_attention(WeightLoader& weights, const std::string& prefix,
                      DecoderLayer& layer) override {
    const ModelConfig& c = config_;
    const LatentConfig& latent = c.latent;
    MlaAttention& attention = layer.latent_attn;
    const int64_t queries = c.num_attention_heads * c.head_dim;
    // In the order of their use: what lies behind a weight is fetched while its end is computed.
    weights.linear(attention.kv_a_proj,
                   {{.prefix = prefix + "kv_a_proj_with_mqa",
                     .rows = latent.kv_lora_rank + latent.qk_rope_head_dim,
                     .has_bias = c.attention_bias}},
                   c.hidden_size);
    if (latent.q_lora_rank > 0) {
      weights.linear(attention.q_a_proj,
                     {{.prefix = prefix + "q_a_proj",
                       .rows = latent.q_lora_rank,
                       .has_bias = c.attention_bias}},
                     c.hidden_size);
      weights.vector(attention.q_a_layernorm.weight, prefix + "q_a_layernorm.weight",
                     latent.q_lora_rank);
      weights.linear(attention.q_proj, {{.prefix = prefix + "q_b_proj", .rows = queries}},
                     latent.q_lora_rank);
    } else {
      weights.linear(attention.q_proj, {{.prefix = prefix + "q_proj", .rows = queries}},
                     c.hidden_size);
    }
    weights.vector(attention.kv_a_layernorm.weight, prefix + "kv_a_layernorm.weight",
                   latent.kv_lora_rank);
    weights.latent_up(attention, prefix + "kv_b_proj");
    weights.linear(
        attention.o_proj,
        {{.prefix = prefix + "o_proj", .rows = c.hidden_size, .has_bias = c.attention_output_bias}},
        c.num_attention_heads * latent.v_head_dim);
  }
};

}  // namespace

std::unique_ptr<CausalLM> make_deepseek(const ModelConfig& config, WeightLoader& weights) {
  auto model = std::make_unique<DeepseekForCausalLM>(config);
  model->load(weights);
  return model;
}

}  // namespace atom
