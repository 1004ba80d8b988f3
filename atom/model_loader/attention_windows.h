// Sliding windows in config.json: `sliding_window`, `use_sliding_window`, `max_window_layers` and
// `layer_types`, which families combine in their own ways (WindowRule). Include in .cpp files only.
#pragma once

#include "atom/core/error.h"
#include "atom/model_loader/json_fields.h"
#include "atom/model_loader/model_config.h"
#include "atom/model_loader/model_family.h"

namespace atom {

// Fills config.layer_windows, after complete_config: one number a layer, or none when no layer has
// a window that the context could outgrow. Errors are "KEY: problem (found X, expected Y)".
Status read_layer_windows(const JsonFields& fields, const ModelFamily& family, ModelConfig& config);

}  // namespace atom
