// Tool calls that are JSON objects without a tag at their end. Llama 3.1 and later: {"name": …,
// "parameters": {…}}, bare or after <|python_tag|>, several with ";" between or in a list. Mistral:
// the list after [TOOL_CALLS]. Bare JSON is a call only when it names one of the request's tools;
// everything else, code after <|python_tag|> too, is text.
#include "atom/entrypoints/parsers/tool_parsers.h"

namespace atom::parsers {
namespace {

class BareJsonParser final : public OutputParser {
 public:
  // After `tag`, a control token, any name is a call; without it JSON is text, unless `untagged`.
  BareJsonParser(const ParserContext& context, std::string_view tag, bool untagged)
      : tag_(tag), untagged_(untagged), names_(context.tool_names), calls_(context) {}

  void push(std::string_view text, ParsedText& out) override {
    while (!text.empty()) {
      if (state_ == State::kObject) {
        const CallStream::Status end = calls_.push(text, out);
        if (end == CallStream::Status::kReading) return;
        state_ = end == CallStream::Status::kCall ? State::kBetween : State::kText;
        after_call_ = end == CallStream::Status::kCall;
        tagged_ = tagged_ && after_call_;
      } else {
        find_object(text, out);
      }
    }
  }

  void push_control(std::string_view token, ParsedText& out) override {
    if (token != tag_) return;
    if (state_ == State::kObject) calls_.finish(out);
    give_held(out);
    state_ = State::kBetween;
    tagged_ = true;
  }

  void finish(ParsedText& out) override {
    if (state_ == State::kObject) calls_.finish(out);
    if (!after_call_) give_held(out);
    calls_.end_content(out);
  }

 private:
  // kBetween: before the first word, after the tag or a call; separators belong to the format.
  enum class State : uint8_t { kBetween, kText, kObject };

  void find_object(std::string_view& text, ParsedText& out) {
    if (!tagged_ && !untagged_) {
      give_held(out);
      calls_.content(std::exchange(text, {}), out);
      return;
    }
    if (state_ == State::kBetween) {
      const size_t end = std::min(text.find_first_not_of(" \t\r\n;,[]"), text.size());
      held_.append(text, 0, end);
      text.remove_prefix(end);
      if (text.empty()) return;
      if (text[0] != '{') {
        give_held(out);
        state_ = State::kText;
        tagged_ = after_call_ = false;
      }
    }
    if (state_ == State::kText) {
      const size_t at = std::min(text.find('{'), text.size());
      calls_.content(text.substr(0, at), out);
      text.remove_prefix(at);
      if (text.empty()) return;
    }
    calls_.begin(std::exchange(held_, {}), tagged_ ? nullptr : &names_);
    state_ = State::kObject;
  }

  void give_held(ParsedText& out) { calls_.content(std::exchange(held_, {}), out); }

  std::string_view tag_;  // of static storage
  bool untagged_;
  std::vector<std::string> names_;
  CallStream calls_;
  State state_ = State::kBetween;
  bool tagged_ = false;      // after the tag
  bool after_call_ = false;  // what is held follows a call
  std::string held_;         // separators
};

}  // namespace

std::unique_ptr<OutputParser> make_llama3_json_parser(const ParserContext& context) {
  return std::make_unique<BareJsonParser>(context, "<|python_tag|>", true);
}

// Calls that a grammar forces have no tag: a grammar sees no control tokens.
std::unique_ptr<OutputParser> make_mistral_parser(const ParserContext& context) {
  return std::make_unique<BareJsonParser>(context, "[TOOL_CALLS]", context.calls_are_valid);
}

}  // namespace atom::parsers
