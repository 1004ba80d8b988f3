// MixtralForCausalLM: the Decoder with experts in every layer, under names of its own.
#include "atom/models/decoder.h"
#include "atom/models/registry.h"

namespace atom {
namespace {

class MixtralForCausalLM final : public Decoder {
 public:
  using Decoder::Decoder;

 private:
  ExpertNames expert_names() const override {
    return {.block = "block_sparse_moe.", .gate = "w1", .up = "w3", .down = "w2"};
  }
};

}  // namespace

std::unique_ptr<CausalLM> make_mixtral(const ModelConfig& config, WeightLoader& weights) {
  auto model = std::make_unique<MixtralForCausalLM>(config);
  model->load(weights);
  return model;
}

}  // namespace atom
