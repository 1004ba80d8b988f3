#include "atom/model_loader/gguf_arch.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <set>

#include "atom/model_loader/text.h"

namespace atom {
namespace {

constexpr std::string_view kRopeFreqs = "rope_freqs.weight";

struct NameRow {
  std::string_view gguf;
  std::string_view hf;
};
constexpr NameRow kModelNames[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
};
constexpr NameRow kLayerNames[] = {
    // blk.N.* -> model.layers.N.*
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"ffn_gate_inp", "mlp.gate"},
    {"ffn_gate_exps", "mlp.experts.gate_proj"},
    {"ffn_up_exps", "mlp.experts.up_proj"},
    {"ffn_down_exps", "mlp.experts.down_proj"},
};

std::optional<std::string_view> look_up(std::span<const NameRow> rows, std::string_view name) {
  for (const NameRow& row : rows) {
    if (row.gguf == name) return row.hf;
  }
  return std::nullopt;
}

bool is_decimal(std::string_view text) {
  return !text.empty() && text.size() <= 6 && (text == "0" || text[0] != '0') &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::unexpected<Error> wrong_type(std::string_view key, const GgufValue& value,
                                  const char* expected) {
  const bool array = value.type == GgufType::kArray;
  return make_error(ErrorCode::kInvalidArgument, "{}: wrong type (found {}{}, expected {})", key,
                    array ? "an array of " : "", gguf_type_name(array ? value.element : value.type),
                    expected);
}

// Typed metadata access; absent is empty, another type is an error.
struct Metadata {
  const GgufFile& gguf;

  Result<std::optional<int64_t>> integer(const std::string& key, int64_t min, int64_t max) const {
    const GgufValue* value = gguf.find(key);
    if (value == nullptr) return std::nullopt;
    const std::optional<int64_t> number = value->as_integer();
    if (!number) return wrong_type(key, *value, "an integer");
    ATOM_RETURN_IF_ERROR(check_range(key, *number, min, max));
    return number;
  }

  Result<std::optional<double>> positive_number(const std::string& key) const {
    const GgufValue* value = gguf.find(key);
    if (value == nullptr) return std::nullopt;
    const std::optional<double> number = value->as_number();
    if (!number) return wrong_type(key, *value, "a number");
    if (!std::isfinite(*number) || *number <= 0) {
      return make_error(ErrorCode::kInvalidArgument,
                        "{}: out of range (found {}, expected a positive number)", key, *number);
    }
    return number;
  }

  Result<std::optional<std::string_view>> string(const std::string& key) const {
    const GgufValue* value = gguf.find(key);
    if (value == nullptr) return std::nullopt;
    const std::optional<std::string_view> text = value->as_string();
    if (!text) return wrong_type(key, *value, "a string");
    return text;
  }

  Result<std::optional<bool>> boolean(const std::string& key) const {
    const GgufValue* value = gguf.find(key);
    if (value == nullptr) return std::nullopt;
    const std::optional<bool> flag = value->as_bool();
    if (!flag) return wrong_type(key, *value, "a bool");
    return flag;
  }
};

const GgufTensor* find_tensor(const GgufFile& gguf, std::string_view name) {
  const auto found = std::find_if(gguf.tensors.begin(), gguf.tensors.end(),
                                  [&](const GgufTensor& t) { return t.name == name; });
  return found == gguf.tensors.end() ? nullptr : &*found;
}

Result<const ModelFamily*> read_family(const Metadata& metadata) {
  ATOM_ASSIGN_OR_RETURN(const auto arch, metadata.string("general.architecture"));
  if (!arch) {
    return make_error(ErrorCode::kInvalidArgument,
                      "general.architecture: missing (expected one of {})",
                      supported_gguf_architectures());
  }
  const ModelFamily* family = find_gguf_family(*arch);
  if (family == nullptr) {
    return make_error(ErrorCode::kUnsupported,
                      "general.architecture: not supported (found \"{}\", expected one of {})",
                      printable(*arch), supported_gguf_architectures());
  }
  ATOM_ASSIGN_OR_RETURN(const auto parts, metadata.integer("split.count", 0, INT32_MAX));
  if (parts.value_or(1) > 1) {
    return make_error(ErrorCode::kUnsupported,
                      "split.count: split GGUF files are not supported, merge them first (found {} "
                      "parts, expected 1)",
                      *parts);
  }
  return family;
}

// Features that change the numbers and that the family's model does not have.
Status refuse_foreign_features(const Metadata& metadata, const std::string& arch,
                               const ModelConfig& config) {
  ATOM_ASSIGN_OR_RETURN(const auto experts, metadata.integer(arch + ".expert_count", 0, INT32_MAX));
  if (experts.value_or(0) > 0 && config.moe.num_experts == 0) {
    return make_error(ErrorCode::kUnsupported,
                      "{}.expert_count: this architecture has no experts here (found {}, expected "
                      "0)",
                      arch, *experts);
  }
  for (const auto& [key, expected] : {std::pair{".attention.value_length", config.head_dim},
                                      std::pair{".rope.dimension_count", config.head_dim}}) {
    ATOM_ASSIGN_OR_RETURN(const auto value, metadata.integer(arch + key, 1, INT32_MAX));
    if (value && *value != expected) {
      return make_error(ErrorCode::kUnsupported,
                        "{}{}: differs from the head dimension (found {}, expected {})", arch, key,
                        *value, expected);
    }
  }
  ATOM_ASSIGN_OR_RETURN(const auto window,
                        metadata.integer(arch + ".attention.sliding_window", 0, INT64_MAX));
  if (window.value_or(0) > 0 && *window < config.max_position_embeddings) {
    return make_error(ErrorCode::kUnsupported,
                      "{}.attention.sliding_window: not supported (found {}, expected none)", arch,
                      *window);
  }
  return {};
}

// Divisors of the rotary frequencies that Llama 3.1 files carry instead of the scaling's
// parameters.
Status read_rope_freqs(const GgufFile& gguf, std::span<const std::byte> bytes,
                       ModelConfig& config) {
  const GgufTensor* tensor = find_tensor(gguf, kRopeFreqs);
  if (tensor == nullptr) return {};
  const std::array<int64_t, 1> expected = {config.head_dim / 2};
  if (tensor->dtype != DType::kF32 ||
      !std::equal(tensor->shape.begin(), tensor->shape.end(), expected.begin(), expected.end())) {
    return make_error(ErrorCode::kDataLoss,
                      "tensor \"{}\": wrong shape (found {} {}, expected f32 {})", kRopeFreqs,
                      dtype_name(tensor->dtype), shape_text(tensor->shape), shape_text(expected));
  }
  config.rope.freq_divisors.resize(static_cast<size_t>(expected[0]));
  std::memcpy(config.rope.freq_divisors.data(), bytes.data() + tensor->begin,
              static_cast<size_t>(tensor->nbytes));
  for (const float divisor : config.rope.freq_divisors) {
    if (!std::isfinite(divisor) || divisor <= 0) {
      return make_error(ErrorCode::kDataLoss,
                        "tensor \"{}\": value out of range (found {}, expected positive numbers)",
                        kRopeFreqs, divisor);
    }
  }
  return {};
}

Status read_rope(const Metadata& metadata, const std::string& arch, RopeConfig& rope) {
  ATOM_ASSIGN_OR_RETURN(const auto theta, metadata.positive_number(arch + ".rope.freq_base"));
  if (theta) rope.theta = *theta;
  ATOM_ASSIGN_OR_RETURN(const auto kind, metadata.string(arch + ".rope.scaling.type"));
  // `scale_linear` is what files had before `scaling.type` and `scaling.factor`.
  ATOM_ASSIGN_OR_RETURN(const auto old_factor,
                        metadata.positive_number(arch + ".rope.scale_linear"));
  ATOM_ASSIGN_OR_RETURN(const auto factor, metadata.positive_number(arch + ".rope.scaling.factor"));
  if (kind && *kind != "none" && *kind != "linear") {
    return make_error(ErrorCode::kUnsupported,
                      "{}.rope.scaling.type: not supported (found \"{}\", expected none or linear)",
                      arch, printable(*kind));
  }
  if (kind ? *kind == "linear" : old_factor.value_or(1.0) != 1.0) {
    rope.scaling = RopeConfig::Scaling::kLinear;
    rope.factor = factor ? *factor : old_factor.value_or(1.0);
  }
  return {};
}

// Qwen3-MoE: every layer has experts, and the chosen weights add up to 1 (llama.cpp's qwen3moe).
Status read_experts(const Metadata& metadata, const std::string& arch, ModelConfig& config) {
  MoeConfig& moe = config.moe;
  const std::pair<const char*, int64_t*> numbers[] = {
      {".expert_count", &moe.num_experts},
      {".expert_used_count", &moe.rule.top_k},
      {".expert_feed_forward_length", &moe.intermediate_size}};
  const int64_t limits[] = {kMaxExperts, kMaxExpertsPerToken, 1 << 20};
  for (size_t i = 0; i < std::size(numbers); ++i) {
    const std::string key = arch + numbers[i].first;
    ATOM_ASSIGN_OR_RETURN(const auto value, metadata.integer(key, 1, limits[i]));
    if (!value) {
      return make_error(ErrorCode::kInvalidArgument, "{}: missing (expected 1 to {})", key,
                        limits[i]);
    }
    *numbers[i].second = *value;
  }
  if (moe.rule.top_k > moe.num_experts) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{}.expert_used_count: more than there are (found {}, expected 1 to {})",
                      arch, moe.rule.top_k, moe.num_experts);
  }
  moe.rule.renormalize = true;
  moe.has_experts.assign(static_cast<size_t>(config.num_hidden_layers), true);
  return {};
}

Status read_token_ids(const Metadata& metadata, ModelConfig& config) {
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    ATOM_ASSIGN_OR_RETURN(const auto id, metadata.integer(key, 0, config.vocab_size - 1));
    auto& ids = config.eos_token_ids;
    if (id && std::find(ids.begin(), ids.end(), *id) == ids.end())
      ids.push_back(static_cast<int32_t>(*id));
  }
  ATOM_ASSIGN_OR_RETURN(const auto bos,
                        metadata.integer("tokenizer.ggml.bos_token_id", 0, config.vocab_size - 1));
  if (bos) config.bos_token_id = static_cast<int32_t>(*bos);
  return {};
}

// The type that holds most bytes.
std::string dominant_type(const GgufFile& gguf) {
  std::array<int64_t, 256> bytes{};
  for (const GgufTensor& tensor : gguf.tensors) {
    bytes[static_cast<size_t>(tensor.dtype)] += tensor.nbytes;
  }
  const auto largest = std::max_element(bytes.begin(), bytes.end()) - bytes.begin();
  return dtype_name(static_cast<DType>(largest));
}

Status read_numbers(const Metadata& metadata, const ModelFamily& family, ModelConfig& config) {
  for (const ConfigRow& row : config_rows()) {
    const std::string key = config_key(row, ConfigSource::kGguf, family);
    ATOM_ASSIGN_OR_RETURN(std::optional<int64_t> value, metadata.integer(key, 1, row.max));
    if (!value && row.field == &ModelConfig::vocab_size) {  // older files count the tokens instead
      const GgufValue* tokens = metadata.gguf.find("tokenizer.ggml.tokens");
      if (tokens != nullptr && tokens->type == GgufType::kArray)
        value = static_cast<int64_t>(tokens->count);
      if (value) ATOM_RETURN_IF_ERROR(check_range("tokenizer.ggml.tokens", *value, 1, row.max));
    }
    if (!value && row.required) {
      return make_error(ErrorCode::kInvalidArgument, "{}: missing (expected 1 to {})", key,
                        row.max);
    }
    config.*row.field = value.value_or(0);
  }
  return {};
}

}  // namespace

Result<ModelConfig> read_gguf_config(const GgufFile& gguf, std::span<const std::byte> bytes) {
  const Metadata metadata{gguf};
  ATOM_ASSIGN_OR_RETURN(const ModelFamily* family, read_family(metadata));
  const std::string arch = family->gguf_arch;
  ModelConfig config{.architecture = family->architecture, .model_type = family->model_type};
  ATOM_RETURN_IF_ERROR(read_numbers(metadata, *family, config));
  ATOM_ASSIGN_OR_RETURN(const auto eps,
                        metadata.positive_number(arch + ".attention.layer_norm_rms_epsilon"));
  if (!eps || *eps >= 1.0) {
    return make_error(
        ErrorCode::kInvalidArgument,
        "{}.attention.layer_norm_rms_epsilon: out of range (found {}, expected a number below 1)",
        arch, eps ? str_format("{}", *eps) : "nothing");
  }
  config.rms_norm_eps = *eps;
  ATOM_RETURN_IF_ERROR(read_rope(metadata, arch, config.rope));
  config.tie_word_embeddings = find_tensor(gguf, "output.weight") == nullptr;
  config.attention_bias = find_tensor(gguf, "blk.0.attn_q.bias") != nullptr;
  config.attention_output_bias = find_tensor(gguf, "blk.0.attn_output.bias") != nullptr;
  config.mlp_bias = find_tensor(gguf, "blk.0.ffn_up.bias") != nullptr;
  config.weight_dtype = dominant_type(gguf);
  ATOM_RETURN_IF_ERROR(read_token_ids(metadata, config));
  config.qk_norm = family->has_qk_norm;
  if (family->has_gguf_experts) ATOM_RETURN_IF_ERROR(read_experts(metadata, arch, config));
  ATOM_RETURN_IF_ERROR(complete_config(config, ConfigSource::kGguf, *family));
  ATOM_RETURN_IF_ERROR(refuse_foreign_features(metadata, arch, config));
  ATOM_RETURN_IF_ERROR(read_rope_freqs(gguf, bytes, config));
  return config;
}

std::string hugging_face_name(std::string_view gguf_name) {
  const size_t dot = gguf_name.rfind('.');
  if (dot == std::string_view::npos) return std::string(gguf_name);
  std::string_view stem = gguf_name.substr(0, dot);
  const std::string_view kind = gguf_name.substr(dot);  // ".weight", ".bias"
  if (const auto name = look_up(kModelNames, stem)) return std::string(*name) + std::string(kind);
  if (!stem.starts_with("blk.")) return std::string(gguf_name);
  stem.remove_prefix(4);
  const size_t end = stem.find('.');
  if (end == std::string_view::npos || !is_decimal(stem.substr(0, end)))
    return std::string(gguf_name);
  const auto name = look_up(kLayerNames, stem.substr(end + 1));
  if (!name) return std::string(gguf_name);
  return str_format("model.layers.{}.{}{}", stem.substr(0, end), *name, kind);
}

Result<std::vector<CheckpointTensor>> translate_gguf_tensors(const GgufFile& gguf,
                                                             const ModelConfig& config,
                                                             const std::byte* base,
                                                             std::string_view file_name) {
  const ModelFamily* family = find_family(config.architecture, config.model_type);
  std::vector<CheckpointTensor> out;
  out.reserve(gguf.tensors.size());
  std::set<std::string> names;
  for (const GgufTensor& tensor : gguf.tensors) {
    if (tensor.name == kRopeFreqs) continue;
    CheckpointTensor row{.name = hugging_face_name(tensor.name),
                         .dtype = tensor.dtype,
                         .shape = tensor.shape,
                         .data = base + tensor.begin,
                         .nbytes = tensor.nbytes,
                         .file = std::string(file_name)};
    if (!names.insert(row.name).second) {
      return make_error(ErrorCode::kDataLoss,
                        "tensor \"{}\": stands for \"{}\", which the file has already",
                        printable(tensor.name), printable(row.name));
    }
    const bool query = row.name.find(".self_attn.q_proj.") != std::string::npos;
    const bool key = row.name.find(".self_attn.k_proj.") != std::string::npos;
    if (family->gguf_interleaved_rotary && (query || key)) {
      row.row_order = RowOrder::kInterleavedRotary;
      row.rotary_heads = query ? config.num_attention_heads : config.num_key_value_heads;
    }
    out.push_back(std::move(row));
  }
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.data < b.data; });
  return out;
}

Result<GgufVocab> read_gguf_vocab(const GgufFile& gguf) {
  const Metadata metadata{gguf};
  const std::string prefix = "tokenizer.ggml.";
  GgufVocab vocab;
  ATOM_ASSIGN_OR_RETURN(const auto model, metadata.string(prefix + "model"));
  if (!model)
    return make_error(ErrorCode::kInvalidArgument,
                      "tokenizer.ggml.model: missing (the file holds no tokenizer)");
  vocab.model = *model;
  ATOM_ASSIGN_OR_RETURN(const auto pre, metadata.string(prefix + "pre"));
  vocab.pre = pre.value_or("");
  for (const auto& [key, field] :
       {std::pair{"tokens", &vocab.tokens}, std::pair{"merges", &vocab.merges}}) {
    const GgufValue* value = gguf.find(prefix + key);
    if (value == nullptr) continue;
    const auto strings = value->as_strings();
    if (!strings) return wrong_type(prefix + key, *value, "an array of strings");
    field->assign(strings->begin(), strings->end());
  }
  if (vocab.tokens.empty())
    return make_error(ErrorCode::kInvalidArgument, "tokenizer.ggml.tokens: missing or empty");
  const auto numbers = [&](const char* key, auto& field) -> Status {
    const GgufValue* value = gguf.find(prefix + key);
    if (value == nullptr) return {};
    const auto list = value->as_numbers();
    if (!list) return wrong_type(prefix + key, *value, "an array of numbers");
    if (list->size() != vocab.tokens.size()) {
      return make_error(ErrorCode::kInvalidArgument,
                        "tokenizer.ggml.{}: not one per token (found {}, expected {})", key,
                        list->size(), vocab.tokens.size());
    }
    for (const double number : *list) {
      if (!std::isfinite(number)) {
        return make_error(ErrorCode::kInvalidArgument,
                          "tokenizer.ggml.{}: out of range (found {}, expected finite numbers)",
                          key, number);
      }
      field.push_back(static_cast<typename std::remove_reference_t<decltype(field)>::value_type>(
          std::clamp(number, -1e9, 1e9)));
    }
    return {};
  };
  ATOM_RETURN_IF_ERROR(numbers("scores", vocab.scores));
  ATOM_RETURN_IF_ERROR(numbers("token_type", vocab.token_types));
  for (const auto& [key, field] :
       {std::pair{"bos_token_id", &vocab.bos_id}, std::pair{"eos_token_id", &vocab.eos_id},
        std::pair{"unknown_token_id", &vocab.unk_id},
        std::pair{"padding_token_id", &vocab.pad_id}}) {
    ATOM_ASSIGN_OR_RETURN(
        const auto id,
        metadata.integer(prefix + key, 0, static_cast<int64_t>(vocab.tokens.size()) - 1));
    if (id) *field = static_cast<int32_t>(*id);
  }
  for (const auto& [key, field] :
       {std::pair{"add_bos_token", &vocab.add_bos}, std::pair{"add_eos_token", &vocab.add_eos},
        std::pair{"add_space_prefix", &vocab.add_space_prefix}}) {
    ATOM_ASSIGN_OR_RETURN(*field, metadata.boolean(prefix + key));
  }
  return vocab;
}

}  // namespace atom
