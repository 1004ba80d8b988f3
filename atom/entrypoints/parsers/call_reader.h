// CallReader: reads one tool call written as a JSON object, {"name": …, "arguments": {…}}, from
// text in pieces. It knows the spellings models use: "parameters" for "arguments", arguments as a
// string of JSON or left out, the pair inside "function", other keys beside. The arguments come out
// as the model wrote them; only control characters inside strings are escaped. One object per call.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "atom/entrypoints/parsers/json_scanner.h"

namespace atom::parsers {

class CallReader {
 public:
  struct Options {
    // Bare JSON is a call only with one of these names, known keys and arguments. nullptr: the text
    // says by a tag that it is a call.
    const std::vector<std::string>* names = nullptr;
    // Not empty: the object is the arguments alone, of a call of this name.
    std::string name = {};
  };
  enum class Status : uint8_t { kReading, kDone, kFailed };

  explicit CallReader(Options options);

  // Takes from the front of `text` what belongs to the object; not the byte it fails at.
  Status push(std::string_view& text);
  Status status() const { return status_; }
  // A whole call was read. Also when only the last closing braces are missing.
  bool complete() const;
  // The call's name is known and its arguments have begun: it can be given out as it grows.
  bool begun() const { return has_name_ && arguments_ != Arguments::kNone && !text_arguments_; }
  const std::string& name() const { return name_; }
  // Arguments read since the last take.
  std::string take_arguments();
  // All bytes taken so far, until forget_raw().
  const std::string& raw() const { return raw_; }
  void forget_raw() { raw_ = {}; }
  size_t size() const { return size_; }  // bytes taken

 private:
  enum class Capture : uint8_t { kNothing, kKey, kName, kObject, kText };
  enum class Arguments : uint8_t { kNone, kReading, kComplete };

  bool step(char c);
  bool on_event(JsonEvent event, char c);
  bool key_is_known() const;
  bool value_starts(JsonEvent event, char c);
  bool end_name();
  bool end_text();
  void keep(char c, bool in_string);

  Options options_;
  Status status_ = Status::kReading;
  JsonScanner scanner_;
  int level_ = 1;  // depth at which the call's keys stand
  Capture capture_ = Capture::kNothing;
  std::string captured_;  // of a key, the name or arguments as a string; with quotes
  std::string key_;
  std::string name_;
  bool has_name_ = false;
  bool at_value_end_ = false;  // nothing since the name or the arguments
  Arguments arguments_ = Arguments::kNone;
  bool text_arguments_ = false;  // they are a string
  std::string pending_;          // arguments not taken yet
  std::string raw_;
  size_t size_ = 0;
};

}  // namespace atom::parsers
