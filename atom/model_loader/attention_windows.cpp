#include "atom/model_loader/attention_windows.h"

#include <algorithm>
#include <vector>

namespace atom {
namespace json = boost::json;
namespace {

// The window of the layers that have one; 0: none has. null means none, absent the default.
Result<int64_t> read_window(const JsonFields& fields, const ModelFamily& family) {
  if (family.windows == WindowRule::kNone) return 0;
  if (family.windows == WindowRule::kSwitched || family.windows == WindowRule::kUpperLayers) {
    ATOM_ASSIGN_OR_RETURN(const std::optional<bool> used, fields.boolean("use_sliding_window"));
    if (!used.value_or(false)) return 0;
  }
  ATOM_ASSIGN_OR_RETURN(const std::optional<int64_t> window,
                        fields.integer("sliding_window", 1, INT32_MAX));
  const bool is_null = fields.object.contains("sliding_window") && !window;
  return is_null ? 0 : window.value_or(family.default_window);
}

// Which layers slide when `layer_types` does not say.
Result<std::vector<bool>> sliding_layers(const JsonFields& fields, const ModelFamily& family,
                                         int64_t num_layers) {
  std::vector<bool> sliding(static_cast<size_t>(num_layers), family.windows != WindowRule::kNone);
  if (family.windows == WindowRule::kEveryOther) {
    for (size_t i = 1; i < sliding.size(); i += 2) sliding[i] = false;
  }
  if (family.windows == WindowRule::kUpperLayers) {
    constexpr int64_t kFullLayers = 28;  // what Qwen's config classes assume
    ATOM_ASSIGN_OR_RETURN(const std::optional<int64_t> full,
                          fields.integer("max_window_layers", 0, INT32_MAX));
    std::fill_n(sliding.begin(), std::min(num_layers, full.value_or(kFullLayers)), false);
  }
  return sliding;
}

// `layer_types`, or nothing when it is not there or every layer sees all.
Result<std::optional<std::vector<bool>>> read_layer_types(const JsonFields& fields,
                                                          int64_t num_layers) {
  const json::value* list = json_field(fields.object, "layer_types");
  if (list == nullptr) return std::nullopt;
  if (!list->is_array()) {
    return make_error(ErrorCode::kInvalidArgument,
                      "layer_types: wrong type (found {}, expected a list)", describe_json(*list));
  }
  std::vector<bool> sliding;
  for (const json::value& entry : list->get_array()) {
    const std::string_view name =
        entry.is_string() ? std::string_view(entry.get_string()) : std::string_view();
    if (name != "full_attention" && name != "sliding_attention") {
      return make_error(ErrorCode::kUnsupported,
                        "layer_types: not supported (found {}, expected \"sliding_attention\" or "
                        "\"full_attention\")",
                        describe_json(entry));
    }
    sliding.push_back(name == "sliding_attention");
  }
  const bool any = std::ranges::find(sliding, true) != sliding.end();
  if (any && std::ssize(sliding) != num_layers) {
    return make_error(ErrorCode::kInvalidArgument,
                      "layer_types: wrong length (found {}, expected {} names)", sliding.size(),
                      num_layers);
  }
  if (!any) sliding.assign(static_cast<size_t>(num_layers), false);
  return sliding;
}

}  // namespace

Status read_layer_windows(const JsonFields& fields, const ModelFamily& family,
                          ModelConfig& config) {
  ATOM_ASSIGN_OR_RETURN(const int64_t window, read_window(fields, family));
  ATOM_ASSIGN_OR_RETURN(std::vector<bool> sliding,
                        sliding_layers(fields, family, config.num_hidden_layers));
  if (window == 0) sliding.assign(sliding.size(), false);
  ATOM_ASSIGN_OR_RETURN(const auto named, read_layer_types(fields, config.num_hidden_layers));
  if (named && *named != sliding) {
    const bool layers_differ =
        family.windows == WindowRule::kUpperLayers || family.windows == WindowRule::kEveryOther;
    if (!layers_differ || window == 0) {
      return make_error(ErrorCode::kUnsupported,
                        "layer_types: does not agree with sliding_window and use_sliding_window "
                        "(found {}, expected {} for every layer)",
                        window == 0 ? "sliding_attention" : "full_attention",
                        window == 0 ? "full_attention" : "sliding_attention");
    }
    sliding = *named;
  }
  if (window >= config.max_position_embeddings) return {};  // no context outgrows it
  if (std::ranges::find(sliding, true) == sliding.end()) return {};
  for (const bool slides : sliding) config.layer_windows.push_back(slides ? window : 0);
  return {};
}

}  // namespace atom
