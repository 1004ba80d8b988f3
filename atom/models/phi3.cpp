// Phi3ForCausalLM (Phi-3, Phi-3.5 and Phi-4 without LongRoPE scaling): the Decoder, whose
// checkpoints store q, k and v in one tensor, and gate and up in another.
#include "atom/models/decoder.h"
#include "atom/models/registry.h"

namespace atom {
namespace {

class Phi3ForCausalLM final : public Decoder {
 public:
  using Decoder::Decoder;

 private:
  std::vector<LinearPart> qkv_parts(const std::string& prefix) const override {
    const int64_t heads = config_.num_attention_heads + 2 * config_.num_key_value_heads;
    return {{.prefix = prefix + "qkv_proj", .rows = heads * config_.head_dim}};
  }
  std::vector<LinearPart> gate_up_parts(const std::string& prefix,
                                        int64_t intermediate_size) const override {
    return {{.prefix = prefix + "gate_up_proj", .rows = 2 * intermediate_size}};
  }
};

}  // namespace

std::unique_ptr<CausalLM> make_phi3(const ModelConfig& config, WeightLoader& weights) {
  auto model = std::make_unique<Phi3ForCausalLM>(config);
  model->load(weights);
  return model;
}

}  // namespace atom
