// Qwen3ForCausalLM: the Decoder with an RMSNorm over each query and key head before the rotation
// (ModelConfig::qk_norm). Qwen3MoeForCausalLM: the same with experts in place of the MLP.
#include "atom/models/decoder.h"
#include "atom/models/registry.h"

namespace atom {

std::unique_ptr<CausalLM> make_qwen3(const ModelConfig& config, WeightLoader& weights) {
  auto model = std::make_unique<Decoder>(config);
  model->load(weights);
  return model;
}

}  // namespace atom
