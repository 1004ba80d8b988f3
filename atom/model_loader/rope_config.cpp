#include "atom/model_loader/rope_config.h"

#include <cmath>

#include "atom/model_loader/text.h"

namespace atom {
namespace json = boost::json;
namespace {

constexpr const char* kRules = "default, linear, llama3 or yarn";

template <class T>
void assign(T& field, const std::optional<T>& value) {
  if (value) field = *value;
}

Status read_original_context(const JsonFields& fields, RopeConfig& rope) {
  ATOM_ASSIGN_OR_RETURN(const std::optional<int64_t> original,
                        fields.integer("original_max_position_embeddings", 1, INT32_MAX));
  if (!original) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{}original_max_position_embeddings: missing (expected a positive integer)",
                      fields.prefix);
  }
  rope.original_max_position_embeddings = *original;
  return {};
}

Status read_llama3_scaling(const JsonFields& fields, RopeConfig& rope) {
  for (const auto& [key, field] : {std::pair{"low_freq_factor", &rope.low_freq_factor},
                                   std::pair{"high_freq_factor", &rope.high_freq_factor}}) {
    ATOM_ASSIGN_OR_RETURN(const std::optional<double> value, fields.positive_number(key));
    if (!value)
      return make_error(ErrorCode::kInvalidArgument, "{}{}: missing (expected a positive number)",
                        fields.prefix, key);
    *field = *value;
  }
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    return make_error(
        ErrorCode::kInvalidArgument,
        "{}high_freq_factor: not above low_freq_factor (found {}, expected more than {})",
        fields.prefix, rope.high_freq_factor, rope.low_freq_factor);
  }
  return read_original_context(fields, rope);
}

// What YaRN multiplies attention by, at this share. Source: transformers modeling_rope_utils.
double yarn_mscale(double factor, double share) {
  return factor <= 1.0 ? 1.0 : 0.1 * share * std::log(factor) + 1.0;
}

Status read_yarn_scaling(const JsonFields& fields, RopeConfig& rope) {
  for (const auto& [key, field] :
       {std::pair{"beta_fast", &rope.beta_fast}, std::pair{"beta_slow", &rope.beta_slow}}) {
    ATOM_ASSIGN_OR_RETURN(const std::optional<double> value, fields.positive_number(key));
    assign(*field, value);
  }
  if (rope.beta_fast < rope.beta_slow) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{}beta_fast: below beta_slow (found {}, expected at least {})",
                      fields.prefix, rope.beta_fast, rope.beta_slow);
  }
  ATOM_RETURN_IF_ERROR(read_original_context(fields, rope));
  ATOM_ASSIGN_OR_RETURN(const std::optional<bool> truncate, fields.boolean("truncate"));
  assign(rope.truncate, truncate);
  ATOM_ASSIGN_OR_RETURN(const std::optional<double> mscale, fields.number("mscale"));
  ATOM_ASSIGN_OR_RETURN(const std::optional<double> all_dim, fields.number("mscale_all_dim"));
  ATOM_ASSIGN_OR_RETURN(const std::optional<double> given,
                        fields.positive_number("attention_factor"));
  for (const auto& [key, value] :
       {std::pair{"mscale", mscale}, std::pair{"mscale_all_dim", all_dim}}) {
    if (value && (*value < 0 || *value > 100)) {
      return make_error(ErrorCode::kInvalidArgument,
                        "{}{}: out of range (found {}, expected 0 to 100)", fields.prefix, key,
                        *value);
    }
  }
  rope.latent_mscale = yarn_mscale(rope.factor, all_dim.value_or(0.0));
  const bool both = mscale.value_or(0.0) != 0.0 && all_dim.value_or(0.0) != 0.0;
  const double derived =
      both ? yarn_mscale(rope.factor, *mscale) / rope.latent_mscale : yarn_mscale(rope.factor, 1.0);
  rope.attention_factor = given.value_or(derived);
  return {};
}

Status read_rope_scaling(const JsonFields& fields, RopeConfig& rope) {
  ATOM_ASSIGN_OR_RETURN(std::optional<std::string> kind, fields.string("rope_type"));
  if (!kind) {
    ATOM_ASSIGN_OR_RETURN(kind, fields.string("type"));
  }
  if (!kind) {
    if (fields.prefix == "rope_parameters.") return {};
    return make_error(ErrorCode::kInvalidArgument, "{}rope_type: missing (expected {})",
                      fields.prefix, kRules);
  }
  if (*kind == "default") return {};
  for (const char* key : {"short_factor", "long_factor"}) {  // Phi-3 also calls it "su" and "yarn"
    if (json_field(fields.object, key) == nullptr) continue;
    return make_error(ErrorCode::kUnsupported,
                      "{}{}: LongRoPE scaling is not supported (found \"{}\", expected {})",
                      fields.prefix, key, printable(*kind), kRules);
  }
  if (*kind != "linear" && *kind != "llama3" && *kind != "yarn") {
    return make_error(ErrorCode::kUnsupported,
                      "{}rope_type: not supported (found \"{}\", expected {})", fields.prefix,
                      printable(*kind), kRules);
  }
  ATOM_ASSIGN_OR_RETURN(const std::optional<double> factor, fields.number("factor"));
  if (!factor || *factor < 1.0) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{}factor: out of range (found {}, expected a number of at least 1)",
                      fields.prefix, factor ? str_format("{}", *factor) : "nothing");
  }
  rope.factor = *factor;
  rope.scaling = *kind == "linear"   ? RopeConfig::Scaling::kLinear
                 : *kind == "llama3" ? RopeConfig::Scaling::kLlama3
                                     : RopeConfig::Scaling::kYarn;
  switch (rope.scaling) {
    case RopeConfig::Scaling::kLlama3:
      return read_llama3_scaling(fields, rope);
    case RopeConfig::Scaling::kYarn:
      return read_yarn_scaling(fields, rope);
    default:
      return {};
  }
}

}  // namespace

// `rope_theta` + `rope_scaling`, or `rope_parameters` of newer transformers, which holds both.
Status read_rope(const JsonFields& fields, RopeConfig& rope) {
  ATOM_ASSIGN_OR_RETURN(const std::optional<double> theta, fields.positive_number("rope_theta"));
  assign(rope.theta, theta);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json::value* value = json_field(fields.object, key);
    if (value == nullptr) continue;
    if (!value->is_object()) {
      return make_error(ErrorCode::kInvalidArgument,
                        "{}: wrong type (found {}, expected an object)", key,
                        describe_json(*value));
    }
    const JsonFields inner{value->get_object(), str_format("{}.", key)};
    ATOM_ASSIGN_OR_RETURN(const std::optional<double> inner_theta,
                          inner.positive_number("rope_theta"));
    assign(rope.theta, inner_theta);
    ATOM_ASSIGN_OR_RETURN(const std::optional<double> partial,
                          inner.number("partial_rotary_factor"));
    if (partial && *partial != 1.0) {
      return make_error(ErrorCode::kUnsupported,
                        "{}.partial_rotary_factor: not supported (found {}, expected 1)", key,
                        *partial);
    }
    ATOM_RETURN_IF_ERROR(read_rope_scaling(inner, rope));
  }
  if (rope.scaling == RopeConfig::Scaling::kYarn && rope.theta <= 1.0) {
    return make_error(ErrorCode::kInvalidArgument,
                      "rope_theta: out of range (found {}, YaRN expects more than 1)", rope.theta);
  }
  return {};
}

}  // namespace atom
