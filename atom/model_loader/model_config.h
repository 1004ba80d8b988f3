// ModelConfig: the numbers of one model, from config.json or GGUF metadata, checked
// (hf_config.cpp). Plain data for models/; further families add fields here and rows to the
// reader's table.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "atom/model_loader/quantization_config.h"
#include "kernels/common/router.h"

namespace atom {

struct RopeConfig {
  enum class Scaling { kNone, kLinear, kLlama3, kYarn };
  double theta = 10000.0;
  Scaling scaling = Scaling::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_max_position_embeddings = 0;
  // YaRN: rotations per original context between which frequencies are interpolated, whether those
  // bounds are rounded outwards, and what cosines and sines are multiplied by.
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  bool truncate = true;
  double attention_factor = 1.0;
  double latent_mscale = 1.0;  // of mscale_all_dim: DeepSeek's softmax scale is times its square
  std::vector<float> freq_divisors =
      {};  // GGUF rope_freqs.weight, [head_dim / 2]; empty when absent
};

// Latent attention (DeepSeek's MLA); kv_lora_rank 0 = the family has plain attention.
struct LatentConfig {
  int64_t q_lora_rank = 0;  // 0: queries are projected at once
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t v_head_dim = 0;
};

inline constexpr int64_t kMaxExperts = 1024;  // the kernels hold as many
inline constexpr int64_t kMaxExpertsPerToken = 32;

// Mixture of experts; num_experts 0 = the family has none.
struct MoeConfig {
  int64_t num_experts = 0;
  int64_t intermediate_size = 0;         // of one expert
  int64_t shared_intermediate_size = 0;  // of all shared experts together; 0: none
  RouterRule rule = {};
  bool has_correction_bias = false;
  double swiglu_limit = 0;             // GPT-OSS
  std::vector<bool> has_experts = {};  // [num_layers()]; the others are dense
};

struct ModelConfig {
  std::string architecture = {};  // "LlamaForCausalLM"
  std::string model_type = {};    // "llama"
  std::string weight_dtype =
      {};  // "bfloat16" ... from the config, or the dominant GGUF type; for display
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_nextn_predict_layers = 0;  // in the checkpoint after those: they draft tokens (MTP)
  int64_t num_draft_layers = 0;          // of these, loaded (with_draft_layer): 0 or 1
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t rotary_dim = 0;  // of a head's dimensions, those that rotate
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  bool tie_word_embeddings = false;
  bool attention_bias = false;  // q, k, v (and o where the family has it)
  bool attention_output_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;                     // RMSNorm over each query and key head
  std::vector<int64_t> layer_windows = {};  // sliding window of each layer, 0 = none; empty: all 0
  RopeConfig rope = {};
  MoeConfig moe = {};
  QuantizationConfig quantization = {};
  LatentConfig latent = {};
  std::vector<int32_t> eos_token_ids = {};  // config.json and generation_config.json together
  std::optional<int32_t> bos_token_id = {};

  int64_t num_layers() const { return num_hidden_layers + num_draft_layers; }
};

}  // namespace atom
