// The builders of all model families, one line each; registry.cpp maps `architectures` names to
// them.
#pragma once

#include <memory>

#include "atom/model_loader/model_config.h"
#include "atom/models/causal_lm.h"
#include "atom/models/weight_loader.h"

namespace atom {

std::unique_ptr<CausalLM> make_llama(const ModelConfig& config, WeightLoader& weights);
std::unique_ptr<CausalLM> make_deepseek(const ModelConfig& config, WeightLoader& weights);
std::unique_ptr<CausalLM> make_glm4_moe(const ModelConfig& config, WeightLoader& weights);
std::unique_ptr<CausalLM> make_gpt_oss(const ModelConfig& config, WeightLoader& weights);
std::unique_ptr<CausalLM> make_mixtral(const ModelConfig& config, WeightLoader& weights);
std::unique_ptr<CausalLM> make_phi3(const ModelConfig& config, WeightLoader& weights);
std::unique_ptr<CausalLM> make_qwen3(const ModelConfig& config, WeightLoader& weights);

}  // namespace atom
