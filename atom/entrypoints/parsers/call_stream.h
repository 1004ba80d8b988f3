// CallStream: what the parsers of JSON tool calls share. It numbers the calls, decides when a call
// is given out, and keeps what was read of one that turns out to be none, so that it becomes text.
// A call is held back until it is complete, so that arguments are always valid JSON; one that grows
// beyond kHoldBytes is streamed from there on, and with a grammar that guarantees validity every
// call is.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "atom/entrypoints/parsers/call_reader.h"
#include "atom/entrypoints/parsers/output_parser.h"
#include "atom/entrypoints/parsers/text_pieces.h"

namespace atom::parsers {

class CallStream {
 public:
  static constexpr size_t kHoldBytes = 2048;
  enum class Status : uint8_t { kReading, kCall, kNoCall };

  explicit CallStream(const ParserContext& context)
      : hold_(context.calls_are_valid ? 0 : kHoldBytes) {}

  void content(std::string_view text, ParsedText& out) { trimmer_.push(text, out.content); }
  void end_content(ParsedText& out) { trimmer_.finish(out.content); }

  // A call may begin here; `prefix` was read of it and is text if it does not. For `names` see
  // CallReader.
  void begin(std::string_view prefix, const std::vector<std::string>* names);
  // The arguments of a call begin here; `id` is the model's own, or empty.
  void begin_arguments(std::string_view prefix, std::string name, std::string id);
  // Spaces before the object.
  void skip_spaces(std::string_view& text);
  // Takes the object from the front of `text`. After kNoCall what was taken is content again.
  Status push(std::string_view& text, ParsedText& out);
  // It was no call: what was taken is content.
  void give_up(ParsedText& out);
  // The text ends within the call.
  void finish(ParsedText& out);

 private:
  void give_out(ParsedText& out);
  Status end(ParsedText& out);

  size_t hold_;
  EdgeTrimmer trimmer_;
  std::string prefix_;
  std::string id_;
  std::optional<CallReader> reader_;
  bool given_ = false;  // the call's name is out
  int32_t index_ = 0;
};

}  // namespace atom::parsers
