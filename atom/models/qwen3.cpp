// Qwen3ForCausalLM: the Decoder with an RMSNorm over each query and key head before the rotation.
#include "atom/models/decoder.h"
#include "atom/models/registry.h"

namespace atom {
namespace {

class Qwen3ForCausalLM final : public Decoder {
 public:
  using Decoder::Decoder;

 private:
  void load_layer(WeightLoader& weights, const std::string& prefix, DecoderLayer& layer) override {
    Decoder::load_layer(weights, prefix, layer);
    weights.vector(layer.self_attn.q_norm, prefix + "self_attn.q_norm.weight", config_.head_dim);
    weights.vector(layer.self_attn.k_norm, prefix + "self_attn.k_norm.weight", config_.head_dim);
  }
};

}  // namespace

std::unique_ptr<CausalLM> make_qwen3(const ModelConfig& config, WeightLoader& weights) {
  auto model = std::make_unique<Qwen3ForCausalLM>(config);
  model->load(weights);
  return model;
}

}  // namespace atom
