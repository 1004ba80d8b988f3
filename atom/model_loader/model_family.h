// The table of model families and of the numbers every family has: one row serves config.json and
// GGUF metadata alike. To add a family: a row in kFamilies; to add a number: a field in ModelConfig
// and a row in kConfigRows (model_family.cpp).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "atom/core/error.h"
#include "atom/model_loader/model_config.h"

namespace atom {

// Which layers of a family see only the last `sliding_window` tokens.
enum class WindowRule {
  kNone,
  kAlways,       // all, where `sliding_window` is a number
  kSwitched,     // all, with `use_sliding_window`
  kUpperLayers,  // with it, those from `max_window_layers` on, or those that `layer_types` names
  kEveryOther    // GPT-OSS: every other one from the first, or those that `layer_types` names
};

// Defaults are those of a plain decoder, so that a row says what is special about its family.
struct ModelFamily {
  const char* architecture;    // config.json `architectures`
  const char* model_type;      // config.json `model_type`
  const char* gguf_arch = "";  // general.architecture; "": not read from GGUF files
  // What the family's config class assumes when config.json is silent; 0 = derived from the other
  // numbers.
  int64_t default_kv_heads = 0;
  int64_t default_head_dim = 0;
  int64_t default_max_positions = 0;
  int64_t default_window = 0;
  WindowRule windows = WindowRule::kNone;
  bool gguf_interleaved_rotary = false;  // Q and K rows of its GGUF files are permuted
  bool has_mlp_bias = false;
  bool default_attention_bias = false;
  bool has_qkv_bias = false;  // biases of q, k and v alone, which config.json does not mention
  bool has_latent_attention = false;
  bool has_qk_norm = false;
  bool has_gguf_experts = false;    // GGUF files of it are mixtures of experts
  bool has_partial_rotary = false;  // partial_rotary_factor may be below 1
};

std::span<const ModelFamily> model_families();
const ModelFamily* find_family(std::string_view architecture, std::string_view model_type);
const ModelFamily* find_gguf_family(std::string_view gguf_arch);
std::string supported_architectures();       // "LlamaForCausalLM, Qwen3ForCausalLM"
std::string supported_gguf_architectures();  // "llama, qwen3"

struct ConfigRow {
  int64_t ModelConfig::*field;
  const char* hf_key;
  const char* gguf_key;  // after "ARCH."
  int64_t max;           // smallest is 1; products of any three stay below 2^63
  bool required;
};
std::span<const ConfigRow> config_rows();

enum class ConfigSource { kHuggingFace, kGguf };

// "num_attention_heads", or "llama.attention.head_count".
std::string config_key(const ConfigRow& row, ConfigSource source, const ModelFamily& family);

// Fills what is derived (head_dim, num_key_value_heads), then checks divisibility and relations.
// Errors are "KEY: problem (found X, expected Y)".
Status complete_config(ModelConfig& config, ConfigSource source, const ModelFamily& family);

// "KEY: out of range (found X, expected 1 to MAX)".
Status check_range(std::string_view key, int64_t value, int64_t min, int64_t max);

}  // namespace atom
