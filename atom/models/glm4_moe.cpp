// Glm4MoeForCausalLM (GLM-4.5, 4.6, 4.7 and Air): the Decoder with biases on q, k and v, a partial
// rotation, optional norms of queries and keys, and routed and shared experts after the first dense
// layers. All of it is configuration.
#include "atom/models/decoder.h"
#include "atom/models/registry.h"

namespace atom {

std::unique_ptr<CausalLM> make_glm4_moe(const ModelConfig& config, WeightLoader& weights) {
  auto model = std::make_unique<Decoder>(config);
  model->load(weights);
  return model;
}

}  // namespace atom
