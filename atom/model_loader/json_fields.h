// Typed access to the fields of a JSON object from a model directory. null counts as absent. Every
// error is "KEY: problem (found X, expected Y)". Include in .cpp files only.
#pragma once

#include <boost/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "atom/core/error.h"

namespace atom {

// Parses an object; a bare NaN or Infinity (which Python writes) is reported under its key.
Result<boost::json::object> parse_json_object(std::string_view text);

// A value in a message: scalars as they are, containers by kind.
std::string describe_json(const boost::json::value& value);

// Field `key` of `object`; nullptr when absent or null.
const boost::json::value* json_field(const boost::json::object& object, std::string_view key);

// `prefix` goes before the key in messages ("rope_scaling.").
struct JsonFields {
  const boost::json::object& object;
  std::string prefix;

  Result<std::optional<int64_t>> integer(std::string_view key, int64_t min, int64_t max) const;
  Result<std::optional<double>> number(std::string_view key) const;  // finite
  Result<std::optional<double>> positive_number(std::string_view key) const;
  Result<std::optional<bool>> boolean(std::string_view key) const;
  Result<std::optional<std::string>> string(std::string_view key) const;
};

}  // namespace atom
