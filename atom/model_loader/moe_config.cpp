#include "atom/model_loader/moe_config.h"

#include <algorithm>

namespace atom {
namespace {

namespace json = boost::json;

Result<int64_t> required(const JsonFields& fields, std::string_view key, int64_t max) {
  ATOM_ASSIGN_OR_RETURN(const auto value, fields.integer(key, 1, max));
  if (value) return *value;
  return make_error(ErrorCode::kInvalidArgument, "{}: missing (expected 1 to {})", key, max);
}

Result<int64_t> with_default(const JsonFields& fields, std::string_view key, int64_t min,
                             int64_t max, int64_t value) {
  ATOM_ASSIGN_OR_RETURN(const auto given, fields.integer(key, min, max));
  return given.value_or(value);
}

// Counts that all families have, under their own keys.
Status read_counts(const JsonFields& fields, const char* experts_key, const char* size_key,
                   MoeConfig& moe) {
  ATOM_ASSIGN_OR_RETURN(moe.num_experts, required(fields, experts_key, kMaxExperts));
  ATOM_ASSIGN_OR_RETURN(moe.rule.top_k,
                        required(fields, "num_experts_per_tok", kMaxExpertsPerToken));
  ATOM_ASSIGN_OR_RETURN(moe.intermediate_size, required(fields, size_key, 1 << 20));
  if (moe.rule.top_k > moe.num_experts) {
    return make_error(ErrorCode::kInvalidArgument,
                      "num_experts_per_tok: more than {} (found {}, expected 1 to {})", experts_key,
                      moe.rule.top_k, moe.num_experts);
  }
  return {};
}

Status read_groups(const JsonFields& fields, MoeConfig& moe) {
  RouterRule& rule = moe.rule;
  ATOM_ASSIGN_OR_RETURN(rule.num_groups, with_default(fields, "n_group", 1, kMaxExperts, 1));
  ATOM_ASSIGN_OR_RETURN(rule.top_groups,
                        with_default(fields, "topk_group", 1, kMaxExperts, rule.num_groups));
  if (moe.num_experts % rule.num_groups != 0) {
    return make_error(ErrorCode::kInvalidArgument,
                      "n_group: does not divide n_routed_experts (found {}, expected a divisor of "
                      "{})",
                      rule.num_groups, moe.num_experts);
  }
  if (rule.top_groups > rule.num_groups) {
    return make_error(ErrorCode::kInvalidArgument,
                      "topk_group: more than n_group (found {}, expected 1 to {})", rule.top_groups,
                      rule.num_groups);
  }
  const int64_t competing = rule.top_groups * (moe.num_experts / rule.num_groups);
  if (rule.top_k > competing) {
    return make_error(ErrorCode::kInvalidArgument,
                      "num_experts_per_tok: the best {} groups have fewer experts (found {}, "
                      "expected 1 to {})",
                      rule.top_groups, rule.top_k, competing);
  }
  return {};
}

// Dense layers of Qwen3-MoE: those named, and all but every decoder_sparse_step-th.
Status read_qwen3_layers(const JsonFields& fields, const ModelConfig& config, MoeConfig& moe) {
  ATOM_ASSIGN_OR_RETURN(const int64_t step,
                        with_default(fields, "decoder_sparse_step", 1, 1 << 20, 1));
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    moe.has_experts[static_cast<size_t>(i)] = (i + 1) % step == 0;
  const json::value* list = json_field(fields.object, "mlp_only_layers");
  if (list == nullptr) return {};
  if (!list->is_array()) {
    return make_error(ErrorCode::kInvalidArgument,
                      "mlp_only_layers: wrong type (found {}, expected a list)",
                      describe_json(*list));
  }
  for (const json::value& entry : list->get_array()) {
    if (!entry.is_int64() || entry.get_int64() < 0 ||
        entry.get_int64() >= config.num_hidden_layers) {
      return make_error(ErrorCode::kInvalidArgument,
                        "mlp_only_layers: no layer (found {}, expected 0 to {})",
                        describe_json(entry), config.num_hidden_layers - 1);
    }
    moe.has_experts[static_cast<size_t>(entry.get_int64())] = false;
  }
  return {};
}

Status read_qwen3(const JsonFields& fields, ModelConfig& config) {
  MoeConfig& moe = config.moe;
  ATOM_RETURN_IF_ERROR(read_counts(fields, "num_experts", "moe_intermediate_size", moe));
  ATOM_ASSIGN_OR_RETURN(const auto norm, fields.boolean("norm_topk_prob"));
  moe.rule.renormalize = norm.value_or(false);
  return read_qwen3_layers(fields, config, moe);
}

Status read_mixtral(const JsonFields& fields, ModelConfig& config) {
  config.moe.rule.renormalize = true;
  return read_counts(fields, "num_local_experts", "intermediate_size", config.moe);
}

Status read_gpt_oss(const JsonFields& fields, ModelConfig& config) {
  config.moe.rule.scoring = ExpertScoring::kSoftmaxTopK;
  ATOM_ASSIGN_OR_RETURN(const auto limit, fields.positive_number("swiglu_limit"));
  config.moe.swiglu_limit = limit.value_or(7.0);
  return read_counts(fields, "num_local_experts", "intermediate_size", config.moe);
}

// What DeepSeek and GLM-4 share: shared experts, dense first layers, groups, a factor.
Status read_routed(const JsonFields& fields, ModelConfig& config, int64_t default_dense) {
  MoeConfig& moe = config.moe;
  ATOM_RETURN_IF_ERROR(read_counts(fields, "n_routed_experts", "moe_intermediate_size", moe));
  ATOM_RETURN_IF_ERROR(read_groups(fields, moe));
  ATOM_ASSIGN_OR_RETURN(const int64_t shared,
                        with_default(fields, "n_shared_experts", 0, kMaxExperts, 0));
  moe.shared_intermediate_size = shared * moe.intermediate_size;
  ATOM_ASSIGN_OR_RETURN(const int64_t dense,
                        with_default(fields, "first_k_dense_replace", 0, 1 << 20, default_dense));
  for (int64_t i = 0; i < std::min(dense, config.num_hidden_layers); ++i)
    moe.has_experts[static_cast<size_t>(i)] = false;
  ATOM_ASSIGN_OR_RETURN(const auto scale, fields.positive_number("routed_scaling_factor"));
  moe.rule.scale = static_cast<float>(scale.value_or(1.0));
  return {};
}

// Source: transformers modeling_deepseek_v3 and modeling_glm4_moe.
Status read_sigmoid_routed(const JsonFields& fields, ModelConfig& config, int64_t default_dense) {
  RouterRule& rule = config.moe.rule;
  rule.scoring = ExpertScoring::kSigmoid;
  rule.groups_by_two_best = true;
  config.moe.has_correction_bias = true;
  ATOM_ASSIGN_OR_RETURN(const auto norm, fields.boolean("norm_topk_prob"));
  rule.renormalize = norm.value_or(true);
  return read_routed(fields, config, default_dense);
}

// Source: transformers modeling_deepseek_v2: softmax scores, never renormalised; groups compete
// only with topk_method "group_limited_greedy".
Status read_deepseek_v2(const JsonFields& fields, ModelConfig& config) {
  ATOM_RETURN_IF_ERROR(read_routed(fields, config, 0));
  ATOM_ASSIGN_OR_RETURN(const auto method, fields.string("topk_method"));
  const std::string name = method.value_or("greedy");
  if (name == "greedy") {
    config.moe.rule.num_groups = config.moe.rule.top_groups = 1;
  } else if (name != "group_limited_greedy") {
    return make_error(ErrorCode::kUnsupported,
                      "topk_method: not supported (found {}, expected greedy or "
                      "group_limited_greedy)",
                      describe_json(json::value(name)));
  }
  return {};
}

}  // namespace

Status read_experts(const JsonFields& fields, ModelConfig& config) {
  const std::string& type = config.model_type;
  config.moe.has_experts.assign(static_cast<size_t>(config.num_hidden_layers), true);
  if (type == "qwen3_moe") return read_qwen3(fields, config);
  if (type == "mixtral") return read_mixtral(fields, config);
  if (type == "gpt_oss") return read_gpt_oss(fields, config);
  if (type == "glm4_moe") return read_sigmoid_routed(fields, config, 1);
  if (type == "deepseek_v2") return read_deepseek_v2(fields, config);
  if (type == "deepseek_v3" || type == "kimi_k2") return read_sigmoid_routed(fields, config, 3);
  config.moe.has_experts.clear();
  return {};
}

}  // namespace atom
