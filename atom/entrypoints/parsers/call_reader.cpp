#include "atom/entrypoints/parsers/call_reader.h"

#include <algorithm>
#include <boost/json.hpp>
#include <utility>

#include "atom/core/json.h"

namespace atom::parsers {
namespace json = boost::json;
namespace {

constexpr size_t kMaxKey = 32;
constexpr size_t kMaxName = 512;  // bytes of a name as written

// The value of a JSON string, given with its quotes.
std::optional<std::string> decoded(std::string_view text) {
  const Result<json::value> value = parse_json(text);
  if (!value || !value->is_string()) return std::nullopt;
  return std::string(value->get_string());
}

bool is_arguments(std::string_view key) { return key == "arguments" || key == "parameters"; }

}  // namespace

CallReader::CallReader(Options options) : options_(std::move(options)) {
  if (options_.name.empty()) return;
  name_ = options_.name;
  has_name_ = true;
  level_ = 0;  // as if the object were the value of this key
  key_ = "arguments";
}

CallReader::Status CallReader::push(std::string_view& text) {
  size_t taken = 0;
  while (taken < text.size() && status_ == Status::kReading) {
    if (!step(text[taken])) {
      status_ = Status::kFailed;
      break;
    }
    ++taken;
  }
  raw_.append(text, 0, taken);
  size_ += taken;
  text.remove_prefix(taken);
  return status_;
}

bool CallReader::complete() const {
  if (!has_name_ || capture_ != Capture::kNothing) return false;
  if (arguments_ == Arguments::kComplete) return status_ == Status::kDone || at_value_end_;
  return status_ == Status::kDone && arguments_ == Arguments::kNone && options_.names == nullptr;
}

std::string CallReader::take_arguments() {
  if (complete() && arguments_ == Arguments::kNone) {
    arguments_ = Arguments::kComplete;
    return "{}";
  }
  return std::exchange(pending_, {});
}

bool CallReader::step(char c) {
  const bool in_string = scanner_.in_string();
  const JsonEvent event = scanner_.push(c);
  if (event == JsonEvent::kFailed) return false;
  if (capture_ != Capture::kNothing) keep(c, in_string);
  return on_event(event, c);
}

// Appends a byte to what is being captured; a bare control character in a string as its escape.
void CallReader::keep(char c, bool in_string) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string& to = capture_ == Capture::kObject ? pending_ : captured_;
  const auto byte = static_cast<unsigned char>(c);
  if (!in_string || byte >= 0x20) {
    to += c;
  } else if (c == '\n' || c == '\t' || c == '\r') {
    to += '\\';
    to += c == '\n' ? 'n' : c == '\t' ? 't' : 'r';
  } else {
    to += "\\u00";
    to += kHex[byte >> 4];
    to += kHex[byte & 15];
  }
}

bool CallReader::key_is_known() const {
  return key_ == "name" || key_ == "type" || key_ == "id" || key_ == "function" ||
         is_arguments(key_);
}

bool CallReader::on_event(JsonEvent event, char c) {
  switch (event) {
    case JsonEvent::kNone:
      return (capture_ != Capture::kKey || captured_.size() <= kMaxKey ||
              options_.names == nullptr) &&
             (capture_ != Capture::kName || captured_.size() <= kMaxName);
    case JsonEvent::kKeyStart:
      at_value_end_ = false;
      if (scanner_.depth() != level_) return true;
      capture_ = Capture::kKey;
      captured_ = '"';
      return true;
    case JsonEvent::kKeyEnd:
      if (capture_ != Capture::kKey) return true;
      capture_ = Capture::kNothing;
      key_ = decoded(captured_).value_or(std::string());
      return key_is_known() || options_.names == nullptr;
    case JsonEvent::kStringEnd:
      if (capture_ == Capture::kName) return end_name();
      if (capture_ == Capture::kText) return end_text();
      return true;
    case JsonEvent::kClose:
      if (capture_ == Capture::kObject && scanner_.depth() == level_) {
        capture_ = Capture::kNothing;
        arguments_ = Arguments::kComplete;
        at_value_end_ = true;
      }
      if (scanner_.depth() == 0) {
        status_ = Status::kDone;
        if (!complete()) return false;
      }
      return true;
    default:
      return value_starts(event, c);
  }
}

// A value of one of the call's own keys; the others only have to be JSON.
bool CallReader::value_starts(JsonEvent event, char c) {
  const bool opened = event == JsonEvent::kOpen;
  if (scanner_.depth() - (opened ? 1 : 0) != level_ || key_.empty()) return true;
  const std::string key = std::exchange(key_, {});
  if (key == "function" && opened && level_ == 1 && !has_name_) {
    level_ = 2;
  } else if (key == "name" || (key == "function" && level_ == 1 && !opened)) {
    if (event != JsonEvent::kStringStart || has_name_) return false;
    capture_ = Capture::kName;
    captured_ = '"';
  } else if (is_arguments(key)) {
    if (arguments_ != Arguments::kNone) return false;
    if (event == JsonEvent::kScalarStart) return c == 'n';  // null: as if left out
    arguments_ = Arguments::kReading;
    text_arguments_ = event == JsonEvent::kStringStart;
    capture_ = text_arguments_ ? Capture::kText : Capture::kObject;
    (text_arguments_ ? captured_ : pending_) = text_arguments_ ? '"' : '{';
    return text_arguments_ || scanner_.opened_object();
  }
  return true;
}

bool CallReader::end_name() {
  capture_ = Capture::kNothing;
  std::optional<std::string> name = decoded(captured_);
  if (!name || name->empty()) return false;
  name_ = std::move(*name);
  has_name_ = true;
  at_value_end_ = true;
  return options_.names == nullptr ||
         std::find(options_.names->begin(), options_.names->end(), name_) != options_.names->end();
}

// Arguments as a string: the text in it must be the object.
bool CallReader::end_text() {
  capture_ = Capture::kNothing;
  std::optional<std::string> text = decoded(captured_);
  captured_ = {};
  if (!text) return false;
  if (text->empty()) {
    *text = "{}";
  } else if (const Result<json::value> value = parse_json(*text); !value || !value->is_object()) {
    return false;
  }
  pending_ = std::move(*text);
  arguments_ = Arguments::kComplete;
  at_value_end_ = true;
  return true;
}

}  // namespace atom::parsers
