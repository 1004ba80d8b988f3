// JSON parsing with limits: strict UTF-8, exact numbers, bounded depth, duplicate keys refused.
// Values are boost::json; include <boost/json.hpp> only where they are used.
#pragma once

#include <boost/json/fwd.hpp>
#include <string_view>

#include "atom/core/error.h"

namespace atom {

struct JsonLimits {
  int max_depth = 64;
  bool reject_duplicate_keys = true;
};

// The error message gives the byte offset; callers prefix the file or field name.
Result<boost::json::value> parse_json(std::string_view text, const JsonLimits& limits = {});

}  // namespace atom
