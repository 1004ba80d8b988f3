#include "atom/model_loader/hf_config.h"

#include <algorithm>
#include <boost/json.hpp>

#include "atom/model_loader/attention_windows.h"
#include "atom/model_loader/json_fields.h"
#include "atom/model_loader/latent_config.h"
#include "atom/model_loader/mapped_file.h"
#include "atom/model_loader/model_family.h"
#include "atom/model_loader/moe_config.h"
#include "atom/model_loader/quantization_reader.h"
#include "atom/model_loader/rope_config.h"
#include "atom/model_loader/text.h"

namespace atom {
namespace json = boost::json;
namespace {

constexpr int64_t kMaxConfigBytes = 16 << 20;
constexpr int64_t kMaxTokenId = INT32_MAX;

Result<const ModelFamily*> read_family(const JsonFields& fields) {
  const json::value* list = json_field(fields.object, "architectures");
  const auto refuse = [&](const char* problem, const std::string& found) {
    return make_error(ErrorCode::kUnsupported, "architectures: {} (found {}, expected one of {})",
                      problem, found, supported_architectures());
  };
  if (list == nullptr) return refuse("missing", "nothing");
  if (!list->is_array() || list->get_array().size() != 1 || !list->get_array()[0].is_string()) {
    return refuse("not a list of one name", printable(json::serialize(*list), 200));
  }
  const std::string architecture(std::string_view(list->get_array()[0].get_string()));
  if (find_family(architecture, "") == nullptr)
    return refuse("not supported", printable(architecture));
  ATOM_ASSIGN_OR_RETURN(const std::optional<std::string> model_type, fields.string("model_type"));
  const ModelFamily* family = find_family(architecture, model_type.value_or(""));
  if (family == nullptr) {
    return make_error(ErrorCode::kUnsupported,
                      "model_type: does not belong to {} (found \"{}\", expected \"{}\")",
                      architecture, printable(*model_type),
                      find_family(architecture, "")->model_type);
  }
  return family;
}

// Features that change the numbers and that no family here has: refused instead of silently
// ignored.
Status refuse_foreign_features(const JsonFields& fields, const ModelFamily& family) {
  ATOM_ASSIGN_OR_RETURN(const std::optional<std::string> activation, fields.string("hidden_act"));
  if (activation && *activation != "silu" && *activation != "swish") {
    return make_error(ErrorCode::kUnsupported,
                      "hidden_act: not supported (found \"{}\", expected \"silu\")",
                      printable(*activation));
  }
  ATOM_ASSIGN_OR_RETURN(const std::optional<double> partial,
                        fields.number("partial_rotary_factor"));
  if (partial && *partial != 1.0 && !family.has_partial_rotary) {
    return make_error(ErrorCode::kUnsupported,
                      "partial_rotary_factor: not supported (found {}, expected 1)", *partial);
  }
  return {};
}

template <class T>
void assign(T& field, const std::optional<T>& value) {
  if (value) field = *value;
}

Result<std::string> read_weight_dtype(const JsonFields& fields) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    ATOM_ASSIGN_OR_RETURN(std::optional<std::string> name, fields.string(key));
    if (!name) continue;
    if (name->starts_with("torch.")) name->erase(0, 6);
    if (*name != "bfloat16" && *name != "float16" && *name != "float32") {
      return make_error(ErrorCode::kUnsupported,
                        "{}: not supported (found \"{}\", expected bfloat16, float16 or float32)",
                        key, printable(*name));
    }
    return *name;
  }
  return std::string();
}

// An id, a list of ids, or null.
Status add_token_ids(const JsonFields& fields, std::string_view key, std::vector<int32_t>& ids) {
  const json::value* value = json_field(fields.object, key);
  if (value == nullptr) return {};
  const json::array one(1, *value);
  const json::array& list = value->is_array() ? value->get_array() : one;
  if (list.size() > 4096) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{}: too many ids (found {}, expected at most 4096)", key, list.size());
  }
  for (const json::value& entry : list) {
    const json::object holder{{std::string(key), entry}};
    ATOM_ASSIGN_OR_RETURN(const std::optional<int64_t> id,
                          (JsonFields{holder, ""}.integer(key, 0, kMaxTokenId)));
    if (!id)
      return make_error(ErrorCode::kInvalidArgument,
                        "{}: null inside the list (expected token ids)", key);
    if (std::find(ids.begin(), ids.end(), *id) == ids.end())
      ids.push_back(static_cast<int32_t>(*id));
  }
  return {};
}

Status read_flags(const JsonFields& fields, const ModelFamily& family, ModelConfig& config) {
  ATOM_ASSIGN_OR_RETURN(const std::optional<bool> tied, fields.boolean("tie_word_embeddings"));
  assign(config.tie_word_embeddings, tied);
  ATOM_ASSIGN_OR_RETURN(const std::optional<bool> attention_bias, fields.boolean("attention_bias"));
  config.attention_bias = attention_bias.value_or(family.default_attention_bias);
  config.attention_output_bias = config.attention_bias;
  if (family.has_qkv_bias) {
    config.attention_bias = true;
    config.attention_output_bias = false;
  }
  ATOM_ASSIGN_OR_RETURN(const std::optional<bool> mlp_bias, fields.boolean("mlp_bias"));
  if (family.has_mlp_bias) assign(config.mlp_bias, mlp_bias);
  config.qk_norm = family.has_qk_norm;
  if (family.has_partial_rotary) {  // GLM-4
    ATOM_ASSIGN_OR_RETURN(const std::optional<bool> qk_norm, fields.boolean("use_qk_norm"));
    config.qk_norm = qk_norm.value_or(false);
    config.attention_output_bias = false;
  }
  ATOM_ASSIGN_OR_RETURN(const std::optional<double> eps, fields.positive_number("rms_norm_eps"));
  assign(config.rms_norm_eps, eps);
  if (config.rms_norm_eps >= 1.0) {
    return make_error(ErrorCode::kInvalidArgument,
                      "rms_norm_eps: out of range (found {}, expected less than 1)",
                      config.rms_norm_eps);
  }
  return {};
}

// GLM-4: the first `partial_rotary_factor` of every head rotates.
Status read_partial_rotary(const JsonFields& fields, ModelConfig& config) {
  ATOM_ASSIGN_OR_RETURN(const std::optional<double> factor,
                        fields.positive_number("partial_rotary_factor"));
  const auto rotary = static_cast<int64_t>(static_cast<double>(config.head_dim) *
                                           std::min(factor.value_or(0.5), 2.0));
  if (rotary < 2 || rotary % 2 != 0 || rotary > config.head_dim) {
    return make_error(ErrorCode::kInvalidArgument,
                      "partial_rotary_factor: {} of {} dimensions cannot rotate (expected an even "
                      "number of them)",
                      rotary, config.head_dim);
  }
  config.rotary_dim = rotary;
  return {};
}

}  // namespace

Result<ModelConfig> parse_hf_config(std::string_view text) {
  ATOM_ASSIGN_OR_RETURN(const json::object object, parse_json_object(text));
  const JsonFields fields{object, ""};
  ATOM_ASSIGN_OR_RETURN(const ModelFamily* family, read_family(fields));
  ModelConfig config{.architecture = family->architecture, .model_type = family->model_type};
  ATOM_ASSIGN_OR_RETURN(config.quantization, read_quantization(object));
  for (const ConfigRow& row : config_rows()) {
    ATOM_ASSIGN_OR_RETURN(const std::optional<int64_t> value,
                          fields.integer(row.hf_key, 1, row.max));
    if (!value && row.required) {
      return make_error(ErrorCode::kInvalidArgument, "{}: missing (expected 1 to {})", row.hf_key,
                        row.max);
    }
    config.*row.field = value.value_or(0);
  }
  ATOM_ASSIGN_OR_RETURN(const auto drafting, fields.integer("num_nextn_predict_layers", 0, 64));
  config.num_nextn_predict_layers = drafting.value_or(0);
  if (family->has_latent_attention) {
    ATOM_RETURN_IF_ERROR(read_latent_attention(fields, config));
  }
  ATOM_RETURN_IF_ERROR(read_flags(fields, *family, config));
  ATOM_RETURN_IF_ERROR(refuse_foreign_features(fields, *family));
  ATOM_RETURN_IF_ERROR(read_experts(fields, config));
  ATOM_RETURN_IF_ERROR(read_rope(fields, config.rope));
  ATOM_ASSIGN_OR_RETURN(config.weight_dtype, read_weight_dtype(fields));
  ATOM_RETURN_IF_ERROR(add_token_ids(fields, "eos_token_id", config.eos_token_ids));
  std::vector<int32_t> bos;
  ATOM_RETURN_IF_ERROR(add_token_ids(fields, "bos_token_id", bos));
  if (!bos.empty()) config.bos_token_id = bos.front();
  ATOM_RETURN_IF_ERROR(complete_config(config, ConfigSource::kHuggingFace, *family));
  ATOM_RETURN_IF_ERROR(read_layer_windows(fields, *family, config));
  if (family->has_partial_rotary) ATOM_RETURN_IF_ERROR(read_partial_rotary(fields, config));
  return config;
}

Status parse_generation_config(std::string_view text, ModelConfig& config,
                               GenerationDefaults& defaults) {
  ATOM_ASSIGN_OR_RETURN(const json::object object, parse_json_object(text));
  const JsonFields fields{object, ""};
  ATOM_RETURN_IF_ERROR(add_token_ids(fields, "eos_token_id", config.eos_token_ids));
  ATOM_ASSIGN_OR_RETURN(const std::optional<double> temperature, fields.number("temperature"));
  ATOM_ASSIGN_OR_RETURN(const std::optional<double> top_p, fields.number("top_p"));
  ATOM_ASSIGN_OR_RETURN(const std::optional<int64_t> top_k,
                        fields.integer("top_k", -1, kMaxTokenId));
  if (temperature && (*temperature < 0 || *temperature > 100)) {
    return make_error(ErrorCode::kInvalidArgument,
                      "temperature: out of range (found {}, expected 0 to 100)", *temperature);
  }
  if (top_p && (*top_p <= 0 || *top_p > 1)) {
    return make_error(ErrorCode::kInvalidArgument,
                      "top_p: out of range (found {}, expected more than 0 and at most 1)", *top_p);
  }
  if (temperature) defaults.temperature = static_cast<float>(*temperature);
  if (top_p) defaults.top_p = static_cast<float>(*top_p);
  if (top_k) defaults.top_k = static_cast<int32_t>(*top_k);
  for (const int32_t id : config.eos_token_ids) {
    if (id >= config.vocab_size) {
      return make_error(ErrorCode::kInvalidArgument,
                        "eos_token_id: outside the vocabulary (found {}, expected 0 to {})", id,
                        config.vocab_size - 1);
    }
  }
  return {};
}

Result<DirectoryConfig> read_hf_config(const std::filesystem::path& dir) {
  const std::filesystem::path file = dir / "config.json";
  ATOM_ASSIGN_OR_RETURN(const std::string text, read_small_file(file, kMaxConfigBytes));
  auto config = parse_hf_config(text);
  if (!config) return with_file(file, std::move(config.error()));
  DirectoryConfig out{.model = std::move(*config), .generation = {}};
  const std::filesystem::path generation = dir / "generation_config.json";
  auto generation_text = read_small_file(generation, kMaxConfigBytes);
  if (!generation_text) {
    if (generation_text.error().code == ErrorCode::kNotFound) return out;
    return std::unexpected(std::move(generation_text.error()));
  }
  if (auto status = parse_generation_config(*generation_text, out.model, out.generation); !status) {
    return with_file(generation, std::move(status.error()));
  }
  return out;
}

}  // namespace atom
