// GptOssForCausalLM: the Decoder with biases everywhere, attention that sees a window in every
// other layer and has a learnt sink per head, and experts with a clamped SwiGLU, stored stacked.
#include "atom/models/decoder.h"
#include "atom/models/registry.h"

namespace atom {
namespace {

class GptOssForCausalLM final : public Decoder {
 public:
  explicit GptOssForCausalLM(const ModelConfig& config) : Decoder(config) {
    for (DecoderLayer& layer : layers_) {
      ExpertsWeight& experts = layer.moe.experts;
      experts.activation = ExpertsWeight::Activation::kClampedSwiglu;
      experts.swiglu_limit = static_cast<float>(config.moe.swiglu_limit);
    }
  }

 private:
  void load_attention(WeightLoader& weights, const std::string& prefix,
                      DecoderLayer& layer) override {
    Decoder::load_attention(weights, prefix, layer);
    weights.vector(layer.self_attn.sinks, prefix + "sinks", config_.num_attention_heads);
  }

  void load_experts(WeightLoader& weights, const std::string& prefix, MoeMlp& moe) override {
    const MoeConfig& config = config_.moe;
    weights.linear(
        moe.router,
        {{.prefix = prefix + "mlp.router", .rows = config.num_experts, .has_bias = true}},
        config_.hidden_size, Precision::kExact);
    weights.interleaved_experts(moe.experts, {.prefix = prefix + "mlp.experts.",
                                              .num_experts = config.num_experts,
                                              .intermediate_size = config.intermediate_size,
                                              .hidden_size = config_.hidden_size});
  }
};

}  // namespace

std::unique_ptr<CausalLM> make_gpt_oss(const ModelConfig& config, WeightLoader& weights) {
  auto model = std::make_unique<GptOssForCausalLM>(config);
  model->load(weights);
  return model;
}

}  // namespace atom
