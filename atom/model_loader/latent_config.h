// Latent attention (MLA) in config.json: its ranks and head sizes, checked. Include in .cpp files
// only.
#pragma once

#include "atom/core/error.h"
#include "atom/model_loader/json_fields.h"
#include "atom/model_loader/model_config.h"

namespace atom {

// Also sets what follows from them: head_dim (of queries and keys) and rotary_dim. Errors are
// "KEY: problem (found X, expected Y)".
Status read_latent_attention(const JsonFields& fields, ModelConfig& config);

}  // namespace atom
