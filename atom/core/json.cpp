#include "atom/core/json.h"

#include <boost/json.hpp>
#include <boost/json/basic_parser_impl.hpp>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "atom/core/printable.h"

namespace atom {
namespace json = boost::json;
namespace {

// Builds a json::value like boost's own parser does, and refuses an object that repeats a key.
class Handler {
 public:
  static constexpr std::size_t max_object_size = std::size_t(-1);
  static constexpr std::size_t max_array_size = std::size_t(-1);
  static constexpr std::size_t max_key_size = std::size_t(-1);
  static constexpr std::size_t max_string_size = std::size_t(-1);

  explicit Handler(bool reject_duplicates) : reject_duplicates_(reject_duplicates) {}

  const std::optional<std::string>& duplicate_key() const { return duplicate_key_; }
  json::value release() { return stack_.release(); }

  bool on_document_begin(json::error_code&) {
    stack_.reset();
    return true;
  }
  bool on_document_end(json::error_code&) { return true; }
  bool on_object_begin(json::error_code&) {
    if (reject_duplicates_) keys_.emplace_back();
    return true;
  }
  bool on_object_end(std::size_t n, json::error_code&) {
    if (reject_duplicates_) keys_.pop_back();
    stack_.push_object(n);
    return true;
  }
  bool on_array_begin(json::error_code&) { return true; }
  bool on_array_end(std::size_t n, json::error_code&) {
    stack_.push_array(n);
    return true;
  }
  bool on_key_part(json::string_view part, std::size_t, json::error_code&) {
    key_.append(part);
    stack_.push_chars(part);
    return true;
  }
  bool on_key(json::string_view part, std::size_t, json::error_code& ec) {
    key_.append(part);
    if (reject_duplicates_ && !keys_.back().insert(key_).second) {
      duplicate_key_ = key_;
      ec = json::error::syntax;
      return false;
    }
    key_.clear();
    stack_.push_key(part);
    return true;
  }
  bool on_string_part(json::string_view part, std::size_t, json::error_code&) {
    stack_.push_chars(part);
    return true;
  }
  bool on_string(json::string_view part, std::size_t, json::error_code&) {
    stack_.push_string(part);
    return true;
  }
  bool on_number_part(json::string_view, json::error_code&) { return true; }
  bool on_int64(int64_t v, json::string_view, json::error_code&) {
    stack_.push_int64(v);
    return true;
  }
  bool on_uint64(uint64_t v, json::string_view, json::error_code&) {
    stack_.push_uint64(v);
    return true;
  }
  bool on_double(double v, json::string_view, json::error_code&) {
    stack_.push_double(v);
    return true;
  }
  bool on_bool(bool v, json::error_code&) {
    stack_.push_bool(v);
    return true;
  }
  bool on_null(json::error_code&) {
    stack_.push_null();
    return true;
  }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }

 private:
  bool reject_duplicates_;
  json::value_stack stack_;
  std::vector<std::unordered_set<std::string>> keys_;
  std::string key_;
  std::optional<std::string> duplicate_key_;
};

}  // namespace

Result<json::value> parse_json(std::string_view text, const JsonLimits& limits) {
  json::parse_options options;
  options.max_depth = static_cast<std::size_t>(limits.max_depth);
  json::basic_parser<Handler> parser(options, limits.reject_duplicate_keys);
  json::error_code error;
  const std::size_t used = parser.write_some(false, text.data(), text.size(), error);
  if (!error && used < text.size()) {
    return make_error(ErrorCode::kInvalidArgument, "invalid JSON at byte {}: trailing characters",
                      used);
  }
  if (const std::optional<std::string>& key = parser.handler().duplicate_key()) {
    return make_error(ErrorCode::kInvalidArgument, "invalid JSON at byte {}: duplicate key \"{}\"",
                      used, printable(*key, 100));
  }
  if (error == json::error::too_deep) {
    return make_error(ErrorCode::kInvalidArgument,
                      "invalid JSON at byte {}: nesting deeper than {}", used, limits.max_depth);
  }
  if (error) {
    return make_error(ErrorCode::kInvalidArgument, "invalid JSON at byte {}: {}", used,
                      error.message());
  }
  return parser.handler().release();
}

}  // namespace atom
