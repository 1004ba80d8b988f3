// Mixture of experts in config.json: counts, sizes, routing rule and which layers have experts, in
// the words of each family. Include in .cpp files only.
#pragma once

#include "atom/core/error.h"
#include "atom/model_loader/json_fields.h"
#include "atom/model_loader/model_config.h"

namespace atom {

// Fills config.moe for families with experts. Errors are "KEY: problem (found X, expected Y)".
Status read_experts(const JsonFields& fields, ModelConfig& config);

}  // namespace atom
