// Rotary positions in config.json: `rope_theta` and `rope_scaling`, or `rope_parameters`, checked.
// To add a rule: an enum value in RopeConfig, a reader here, the frequencies in
// model_ops/rotary.cpp. Include in .cpp files only.
#pragma once

#include "atom/core/error.h"
#include "atom/model_loader/json_fields.h"
#include "atom/model_loader/model_config.h"

namespace atom {

// Errors are "KEY: problem (found X, expected Y)".
Status read_rope(const JsonFields& fields, RopeConfig& rope);

}  // namespace atom
