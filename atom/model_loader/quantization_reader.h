// Reads `quantization_config` (or the older `compression_config`) of a config.json. Include in
// .cpp files only.
#pragma once

#include <boost/json.hpp>

#include "atom/core/error.h"
#include "atom/model_loader/quantization_config.h"

namespace atom {

// Empty `method` where the checkpoint is not quantised.
Result<QuantizationConfig> read_quantization(const boost::json::object& config);

}  // namespace atom
