#include "atom/model_loader/inspect.h"

#include <algorithm>
#include <boost/json.hpp>
#include <map>

#include "atom/core/json_text.h"
#include "atom/model_loader/text.h"

namespace atom {
namespace {

namespace json = boost::json;

struct TypeTotal {
  int64_t tensors = 0, parameters = 0, bytes = 0;
};

// By element type, largest first; names as users write them ("Q4_1", "BF16").
std::vector<std::pair<std::string, TypeTotal>> totals_by_type(const Checkpoint& checkpoint) {
  std::map<DType, TypeTotal> by_type;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    TypeTotal& total = by_type[tensor.dtype];
    const DTypeInfo info = dtype_info(tensor.dtype);
    total.tensors += 1;
    total.bytes += tensor.nbytes;
    total.parameters += tensor.nbytes / info.block_bytes * info.block_size;
  }
  std::vector<std::pair<std::string, TypeTotal>> out;
  for (const auto& [dtype, total] : by_type) {
    std::string name = dtype_name(dtype);
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return std::toupper(c); });
    out.emplace_back(name, total);
  }
  std::stable_sort(out.begin(), out.end(),
                   [](const auto& a, const auto& b) { return a.second.bytes > b.second.bytes; });
  return out;
}

std::string rope_text(const RopeConfig& rope) {
  std::string text = str_format("theta {}", rope.theta);
  if (rope.scaling == RopeConfig::Scaling::kLinear)
    text += str_format(", linear scaling, factor {}", rope.factor);
  if (rope.scaling == RopeConfig::Scaling::kLlama3) {
    text += str_format(", llama3 scaling, factor {}, frequencies {} to {}, original context {}",
                       rope.factor, rope.low_freq_factor, rope.high_freq_factor,
                       rope.original_max_position_embeddings);
  }
  if (rope.scaling == RopeConfig::Scaling::kYarn) {
    text += str_format(", YaRN scaling, factor {}, original context {}", rope.factor,
                       rope.original_max_position_embeddings);
  }
  if (!rope.freq_divisors.empty()) text += ", frequency divisors from the file";
  return text;
}

std::string ids_text(const std::vector<int32_t>& ids) {
  std::string text;
  for (const int32_t id : ids) {
    text += (text.empty() ? "" : ", ") + str_format("{}", id);
  }
  return text.empty() ? "none" : text;
}

std::string attention_text(const ModelConfig& c) {
  const LatentConfig& latent = c.latent;
  if (latent.kv_lora_rank == 0) {
    return str_format("{} heads, {} KV heads, head dimension {}", c.num_attention_heads,
                      c.num_key_value_heads, c.head_dim);
  }
  std::string text =
      str_format("latent (MLA), {} heads, cached row {} + {}, head dimension {} + {}, value {}",
                 c.num_attention_heads, latent.kv_lora_rank, latent.qk_rope_head_dim,
                 latent.qk_nope_head_dim, latent.qk_rope_head_dim, latent.v_head_dim);
  if (latent.q_lora_rank > 0) text += str_format(", query rank {}", latent.q_lora_rank);
  return text;
}

std::string biases_text(const ModelConfig& config) {
  std::string text;
  const auto add = [&](bool present, const char* name) {
    text += present ? (text.empty() ? "" : ", ") + std::string(name) : "";
  };
  add(config.attention_bias, "q, k, v");
  add(config.attention_output_bias, "o");
  add(config.mlp_bias, "mlp");
  return text.empty() ? "none" : text;
}

std::string count_text(int64_t count) {
  if (count >= 1'000'000'000) return str_format("{:.2f} B", static_cast<double>(count) * 1e-9);
  if (count >= 1'000'000) return str_format("{:.1f} M", static_cast<double>(count) * 1e-6);
  return str_format("{}", count);
}

std::string as_text(const Checkpoint& checkpoint) {
  const ModelConfig& c = checkpoint.config();
  std::string out;
  const auto line = [&](const char* name, const std::string& value) {
    out += str_format("{:<14}{}\n", name, value);
  };
  line("architecture", str_format("{} ({})", c.architecture, c.model_type));
  line("format", checkpoint.format_name() + (c.weight_dtype.empty() ? "" : ", " + c.weight_dtype));
  if (!c.quantization.method.empty()) {
    line("quantization", c.quantization.name);
  }
  line("layers", str_format("{}", c.num_hidden_layers));
  line("hidden size", str_format("{}, intermediate {}", c.hidden_size, c.intermediate_size));
  line("attention", attention_text(c));
  line("biases", biases_text(c));
  line("context", str_format("{} tokens", c.max_position_embeddings));
  line("rotary", rope_text(c.rope));
  line("vocabulary",
       str_format("{}, {} head", c.vocab_size, c.tie_word_embeddings ? "tied" : "separate"));
  line("eos token", ids_text(c.eos_token_ids));
  line("bos token", c.bos_token_id ? str_format("{}", *c.bos_token_id) : "none");
  int64_t parameters = 0;
  const auto totals = totals_by_type(checkpoint);
  for (const auto& [name, total] : totals) {
    parameters += total.parameters;
  }
  line("weights",
       str_format("{} in {} tensors, {} parameters", human_bytes(checkpoint.total_bytes()),
                  checkpoint.tensors().size(), count_text(parameters)));
  for (const auto& [name, total] : totals) {
    line(("  " + name).c_str(),
         str_format("{:>9} in {:>5} tensors, {:>8} parameters", human_bytes(total.bytes),
                    total.tensors, count_text(total.parameters)));
  }
  return out;
}

const char* scaling_name(RopeConfig::Scaling scaling) {
  switch (scaling) {
    case RopeConfig::Scaling::kLinear:
      return "linear";
    case RopeConfig::Scaling::kLlama3:
      return "llama3";
    case RopeConfig::Scaling::kYarn:
      return "yarn";
    default:
      return "none";
  }
}

json::object config_json(const ModelConfig& c) {
  json::object rope{{"theta", c.rope.theta},
                    {"scaling", nullptr},
                    {"freq_divisors", !c.rope.freq_divisors.empty()}};
  if (c.rope.scaling != RopeConfig::Scaling::kNone) {
    rope["scaling"] = scaling_name(c.rope.scaling);
    rope["factor"] = c.rope.factor;
  }
  json::object out{{"vocab_size", c.vocab_size},
                   {"hidden_size", c.hidden_size},
                   {"intermediate_size", c.intermediate_size},
                   {"num_hidden_layers", c.num_hidden_layers},
                   {"num_attention_heads", c.num_attention_heads},
                   {"num_key_value_heads", c.num_key_value_heads},
                   {"head_dim", c.head_dim},
                   {"max_position_embeddings", c.max_position_embeddings},
                   {"rms_norm_eps", c.rms_norm_eps},
                   {"tie_word_embeddings", c.tie_word_embeddings},
                   {"attention_bias", c.attention_bias},
                   {"mlp_bias", c.mlp_bias},
                   {"rope", std::move(rope)},
                   {"eos_token_ids", json::value_from(c.eos_token_ids)},
                   {"bos_token_id", nullptr}};
  if (c.bos_token_id) out["bos_token_id"] = *c.bos_token_id;
  if (c.latent.kv_lora_rank > 0) {
    out["kv_lora_rank"] = c.latent.kv_lora_rank;
    out["q_lora_rank"] = c.latent.q_lora_rank;
    out["qk_nope_head_dim"] = c.latent.qk_nope_head_dim;
    out["qk_rope_head_dim"] = c.latent.qk_rope_head_dim;
    out["v_head_dim"] = c.latent.v_head_dim;
  }
  return out;
}

std::string as_json(const Checkpoint& checkpoint) {
  const ModelConfig& c = checkpoint.config();
  json::object dtypes;
  int64_t parameters = 0;
  for (const auto& [name, total] : totals_by_type(checkpoint)) {
    dtypes[name] = {
        {"tensors", total.tensors}, {"parameters", total.parameters}, {"bytes", total.bytes}};
    parameters += total.parameters;
  }
  const json::object out{{"architecture", c.architecture},
                         {"model_type", c.model_type},
                         {"format", checkpoint.format_name()},
                         {"weight_dtype", c.weight_dtype},
                         {"quantization", c.quantization.name},
                         {"config", config_json(c)},
                         {"num_tensors", checkpoint.tensors().size()},
                         {"num_parameters", parameters},
                         {"weight_bytes", checkpoint.total_bytes()},
                         {"dtypes", std::move(dtypes)}};
  return json_text(out) + "\n";
}

}  // namespace

std::string inspect_checkpoint(const Checkpoint& checkpoint, bool json) {
  return json ? as_json(checkpoint) : as_text(checkpoint);
}

}  // namespace atom
