// The validator: one table of every known request field of both generation routes, and the checks
// between fields. A field that is not in the table is ignored; one that is, is honoured or refused
// by name. null means the default. To add a field: a member in ApiRequest (or SamplingParams) and a
// row here.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>

#include "atom/core/error.h"
#include "atom/entrypoints/openai/api_request.h"

namespace atom::openai {

struct RequestLimits {
  int64_t max_n = 128;
  int64_t max_logprobs = 20;
  int64_t max_stop = 16;
  int64_t max_sequences = 1024;  // prompts x n
  int64_t max_answer_bytes = 268435456;
  int64_t vocab_size = 0;
  int64_t max_model_len = 0;
};

enum class FieldKind { kBool, kInteger, kNumber, kString, kArray, kObject, kOther, kRefused };

struct FieldSpec {
  std::string_view name;
  uint8_t endpoints = kBothEndpoints;
  FieldKind kind = FieldKind::kOther;
  Status (*read)(const boost::json::value& value, const FieldSpec& field,
                 const RequestLimits& limits, ApiRequest& request) = nullptr;
  double min = 0;  // inclusive, of kInteger and kNumber
  double max = 0;
  int64_t RequestLimits::*max_from = nullptr;  // the configured limit instead of `max`
  bool above_min = false;                      // `min` itself is not allowed
};

std::span<const FieldSpec> request_fields();

// Parses and checks a body. Errors carry the field in `param`.
Result<ApiRequest> parse_request(Endpoint endpoint, std::string_view body,
                                 const RequestLimits& limits);

// Helpers shared with the other routes' bodies.
Result<boost::json::object> parse_body(std::string_view body);
Result<std::vector<int32_t>> read_token_ids(const boost::json::value& value, std::string_view name,
                                            int64_t vocab_size, int64_t max_count);
std::unexpected<Error> field_error(std::string_view name, std::string message,
                                   ErrorCode code = ErrorCode::kInvalidArgument);
Status read_bool(const boost::json::value& value, std::string_view name, bool& out);

}  // namespace atom::openai
