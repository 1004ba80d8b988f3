#include "atom/model_loader/model_family.h"

#include <algorithm>
#include <set>

namespace atom {
namespace {

constexpr ModelFamily kFamilies[] = {
    {.architecture = "LlamaForCausalLM",
     .model_type = "llama",
     .gguf_arch = "llama",
     .default_max_positions = 2048,
     .gguf_interleaved_rotary = true,
     .has_mlp_bias = true},
    {.architecture = "MistralForCausalLM",
     .model_type = "mistral",
     .default_kv_heads = 8,
     .default_max_positions = 131072,
     .default_window = 4096,
     .windows = WindowRule::kAlways},
    {.architecture = "Phi3ForCausalLM",
     .model_type = "phi3",
     .default_max_positions = 4096,
     .windows = WindowRule::kAlways},
    {.architecture = "Qwen2ForCausalLM",
     .model_type = "qwen2",
     .gguf_arch = "qwen2",
     .default_kv_heads = 32,
     .default_max_positions = 32768,
     .default_window = 4096,
     .windows = WindowRule::kUpperLayers,
     .has_qkv_bias = true},
    {.architecture = "Qwen3ForCausalLM",
     .model_type = "qwen3",
     .gguf_arch = "qwen3",
     .default_kv_heads = 32,
     .default_head_dim = 128,
     .default_max_positions = 32768,
     .default_window = 4096,
     .windows = WindowRule::kUpperLayers,
     .has_qk_norm = true},
    {.architecture = "Qwen3MoeForCausalLM",
     .model_type = "qwen3_moe",
     .gguf_arch = "qwen3moe",
     .default_kv_heads = 4,
     .default_max_positions = 32768,
     .default_window = 4096,
     .windows = WindowRule::kSwitched,
     .has_qk_norm = true,
     .has_gguf_experts = true},
    {.architecture = "MixtralForCausalLM",
     .model_type = "mixtral",
     .default_kv_heads = 8,
     .default_max_positions = 131072,
     .windows = WindowRule::kAlways},
    {.architecture = "GptOssForCausalLM",
     .model_type = "gpt_oss",
     .default_kv_heads = 8,
     .default_head_dim = 64,
     .default_max_positions = 131072,
     .default_window = 128,
     .windows = WindowRule::kEveryOther,
     .default_attention_bias = true},
    {.architecture = "Glm4MoeForCausalLM",
     .model_type = "glm4_moe",
     .default_kv_heads = 8,
     .default_max_positions = 131072,
     .has_partial_rotary = true},
    {.architecture = "DeepseekV2ForCausalLM",
     .model_type = "deepseek_v2",
     .default_max_positions = 2048,
     .has_latent_attention = true},
    {.architecture = "DeepseekV3ForCausalLM",
     .model_type = "deepseek_v3",
     .default_max_positions = 4096,
     .has_latent_attention = true},
    {.architecture = "DeepseekV3ForCausalLM",
     .model_type = "kimi_k2",
     .default_max_positions = 4096,
     .has_latent_attention = true},
};

constexpr ConfigRow kConfigRows[] = {
    {&ModelConfig::vocab_size, "vocab_size", "vocab_size", 1 << 24, true},
    {&ModelConfig::hidden_size, "hidden_size", "embedding_length", 1 << 18, true},
    {&ModelConfig::intermediate_size, "intermediate_size", "feed_forward_length", 1 << 20, true},
    {&ModelConfig::num_hidden_layers, "num_hidden_layers", "block_count", 2048, true},
    {&ModelConfig::num_attention_heads, "num_attention_heads", "attention.head_count", 4096, true},
    {&ModelConfig::num_key_value_heads, "num_key_value_heads", "attention.head_count_kv", 4096,
     false},
    {&ModelConfig::head_dim, "head_dim", "attention.key_length", 4096, false},
    {&ModelConfig::max_position_embeddings, "max_position_embeddings", "context_length", 1 << 28,
     false},
};

const ConfigRow& row_of(int64_t ModelConfig::*field) {
  return *std::find_if(std::begin(kConfigRows), std::end(kConfigRows),
                       [&](const auto& row) { return row.field == field; });
}

template <class Name>
std::string join_families(Name name) {
  std::string out;
  std::set<std::string_view> seen;
  for (const ModelFamily& family : kFamilies) {
    if (*name(family) == '\0' || !seen.insert(name(family)).second) continue;
    out += (out.empty() ? "" : ", ") + std::string(name(family));
  }
  return out;
}

}  // namespace

std::span<const ModelFamily> model_families() { return kFamilies; }
std::span<const ConfigRow> config_rows() { return kConfigRows; }

const ModelFamily* find_family(std::string_view architecture, std::string_view model_type) {
  for (const ModelFamily& family : kFamilies) {
    if (architecture == family.architecture &&
        (model_type.empty() || model_type == family.model_type))
      return &family;
  }
  return nullptr;
}

const ModelFamily* find_gguf_family(std::string_view gguf_arch) {
  for (const ModelFamily& family : kFamilies) {
    if (!gguf_arch.empty() && gguf_arch == family.gguf_arch) return &family;
  }
  return nullptr;
}

std::string supported_architectures() {
  return join_families([](const ModelFamily& family) { return family.architecture; });
}
std::string supported_gguf_architectures() {
  return join_families([](const ModelFamily& family) { return family.gguf_arch; });
}

std::string config_key(const ConfigRow& row, ConfigSource source, const ModelFamily& family) {
  return source == ConfigSource::kHuggingFace ? row.hf_key
                                              : str_format("{}.{}", family.gguf_arch, row.gguf_key);
}

Status check_range(std::string_view key, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return {};
  return make_error(ErrorCode::kInvalidArgument, "{}: out of range (found {}, expected {} to {})",
                    key, value, min, max);
}

// The ops compute in f32: there an epsilon must not be zero, nor a rotary frequency infinite.
static Status check_reals(const ModelConfig& config) {
  struct Row {
    const char* name;
    double value, min, max;
  };
  for (const Row& row : {Row{"RMS norm epsilon", config.rms_norm_eps, 1e-30, 1.0},
                         Row{"rope theta", config.rope.theta, 1e-3, 1e30},
                         Row{"rope scaling factor", config.rope.factor, 1e-3, 1e9}}) {
    if (row.value >= row.min && row.value <= row.max) continue;  // not true for NaN
    return make_error(ErrorCode::kInvalidArgument, "{}: out of range (found {}, expected {} to {})",
                      row.name, row.value, row.min, row.max);
  }
  return {};
}

Status complete_config(ModelConfig& config, ConfigSource source, const ModelFamily& family) {
  const auto key = [&](int64_t ModelConfig::*field) {
    return config_key(row_of(field), source, family);
  };
  if (config.max_position_embeddings == 0)
    config.max_position_embeddings = family.default_max_positions;
  if (config.num_key_value_heads == 0) {
    config.num_key_value_heads =
        family.default_kv_heads != 0 ? family.default_kv_heads : config.num_attention_heads;
  }
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    return make_error(
        ErrorCode::kInvalidArgument, "{}: does not divide {} (found {}, expected a divisor of {})",
        key(&ModelConfig::num_key_value_heads), key(&ModelConfig::num_attention_heads),
        config.num_key_value_heads, config.num_attention_heads);
  }
  if (config.head_dim == 0) {
    config.head_dim = family.default_head_dim;
    if (config.head_dim == 0) {
      if (config.hidden_size % config.num_attention_heads != 0) {
        return make_error(
            ErrorCode::kInvalidArgument,
            "{}: does not divide {} (found {}, expected a divisor of {}, or {} given)",
            key(&ModelConfig::num_attention_heads), key(&ModelConfig::hidden_size),
            config.num_attention_heads, config.hidden_size, key(&ModelConfig::head_dim));
      }
      config.head_dim = config.hidden_size / config.num_attention_heads;
    }
  }
  ATOM_RETURN_IF_ERROR(check_reals(config));
  if (config.head_dim % 2 != 0) {
    return make_error(
        ErrorCode::kInvalidArgument,
        "{}: odd, but rotary embedding needs pairs (found {}, expected an even number)",
        key(&ModelConfig::head_dim), config.head_dim);
  }
  ATOM_RETURN_IF_ERROR(check_range(key(&ModelConfig::head_dim), config.head_dim, 1,
                                   row_of(&ModelConfig::head_dim).max));
  if (config.rotary_dim == 0) config.rotary_dim = config.head_dim;
  for (const int32_t id : config.eos_token_ids) {
    if (id >= config.vocab_size) {
      return make_error(ErrorCode::kInvalidArgument,
                        "eos_token_id: outside the vocabulary (found {}, expected 0 to {})", id,
                        config.vocab_size - 1);
    }
  }
  if (config.bos_token_id && *config.bos_token_id >= config.vocab_size) {
    return make_error(ErrorCode::kInvalidArgument,
                      "bos_token_id: outside the vocabulary (found {}, expected 0 to {})",
                      *config.bos_token_id, config.vocab_size - 1);
  }
  return {};
}

}  // namespace atom
