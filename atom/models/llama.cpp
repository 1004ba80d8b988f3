// LlamaForCausalLM: Llama 2, 3, 3.x and everything of that shape (SmolLM2, Yi, ...): grouped-query
// attention, RoPE, gated MLP, optional biases, tied or own LM head. It is the plain Decoder;
// Mistral (sliding windows) and Qwen2 (biases of q, k and v) differ in configuration alone.
#include "atom/models/decoder.h"
#include "atom/models/registry.h"

namespace atom {

std::unique_ptr<CausalLM> make_llama(const ModelConfig& config, WeightLoader& weights) {
  auto model = std::make_unique<Decoder>(config);
  model->load(weights);
  weights.ignore({"self_attn.rotary_emb.inv_freq"});  // Llama 2 checkpoints carry the frequencies
  return model;
}

}  // namespace atom
