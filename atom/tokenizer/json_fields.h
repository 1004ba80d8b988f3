// Typed access to the fields of a JSON object, with errors that name the dotted key.
#pragma once

#include <boost/json.hpp>
#include <string>
#include <string_view>

#include "atom/core/error.h"

namespace atom {

class JsonFields {
 public:
  // `path`: the dotted name of this object in messages ("pre_tokenizer.pretokenizers[0]").
  static Result<JsonFields> of(const boost::json::value& value, std::string path) {
    if (!value.is_object())
      return make_error(ErrorCode::kInvalidArgument, "{} is not an object", path);
    return JsonFields(value.get_object(), std::move(path));
  }

  const std::string& path() const { return path_; }
  std::string path_of(std::string_view key) const {
    return path_.empty() ? std::string(key) : path_ + "." + std::string(key);
  }

  // nullptr when absent or null.
  const boost::json::value* find(std::string_view key) const {
    const boost::json::value* v = object_->if_contains(key);
    return v == nullptr || v->is_null() ? nullptr : v;
  }
  Result<std::string> string(std::string_view key) const {
    const boost::json::value* v = find(key);
    if (v == nullptr || !v->is_string()) return wrong(key, "a string");
    return std::string(v->get_string());
  }
  Result<std::string> string(std::string_view key, std::string_view fallback) const {
    return find(key) == nullptr ? Result<std::string>(std::string(fallback)) : string(key);
  }
  Result<bool> boolean(std::string_view key, bool fallback) const {
    const boost::json::value* v = find(key);
    if (v == nullptr) return fallback;
    if (!v->is_bool()) return wrong(key, "true or false");
    return v->get_bool();
  }
  Result<int64_t> integer(std::string_view key) const {
    const boost::json::value* v = find(key);
    if (v == nullptr || !v->is_int64()) return wrong(key, "an integer");
    return v->get_int64();
  }
  Result<const boost::json::array*> array(std::string_view key) const {
    const boost::json::value* v = find(key);
    if (v == nullptr || !v->is_array()) return wrong(key, "a list");
    return &v->get_array();
  }

 private:
  JsonFields(const boost::json::object& object, std::string path)
      : object_(&object), path_(std::move(path)) {}
  std::unexpected<Error> wrong(std::string_view key, const char* expected) const {
    return make_error(ErrorCode::kInvalidArgument, "{} is not {}", path_of(key), expected);
  }

  const boost::json::object* object_;
  std::string path_;
};

}  // namespace atom
