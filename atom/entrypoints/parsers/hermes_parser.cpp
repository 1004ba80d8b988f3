// Tool calls of Hermes and Qwen: <tool_call>{"name": …, "arguments": {…}}</tool_call>, any number
// of them, with text before, between and after. The end of a call is the end of its JSON object, so
// a tag inside a string is text. What does not read as a call stays text, with its tags.
#include "atom/entrypoints/parsers/tool_parsers.h"

namespace atom::parsers {
namespace {

constexpr std::string_view kOpen = "<tool_call>";
constexpr std::string_view kClose = "</tool_call>";

class HermesParser final : public OutputParser {
 public:
  explicit HermesParser(const ParserContext& context) : calls_(context), finder_(kOpen) {}

  void push(std::string_view text, ParsedText& out) override {
    while (!text.empty()) {
      switch (state_) {
        case State::kText:
          find_call(text, out);
          break;
        case State::kBeforeObject:
          find_object(text, out);
          break;
        case State::kObject:
          if (const auto end = calls_.push(text, out); end != CallStream::Status::kReading) {
            state_ = end == CallStream::Status::kCall ? State::kAfterObject : State::kText;
          }
          break;
        case State::kAfterObject:
          find_close(text, out);
          break;
      }
    }
  }

  void push_control(std::string_view, ParsedText&) override {}

  void finish(ParsedText& out) override {
    if (state_ == State::kObject || state_ == State::kBeforeObject) calls_.finish(out);
    if (state_ == State::kAfterObject) end_of_call(out);
    calls_.content(finder_.flush(), out);
    calls_.end_content(out);
  }

 private:
  enum class State : uint8_t { kText, kBeforeObject, kObject, kAfterObject };

  void find_call(std::string_view& text, ParsedText& out) {
    plain_.clear();
    const bool found = finder_.push(text, plain_);
    calls_.content(plain_, out);
    if (!found) return;
    calls_.begin(kOpen, nullptr);
    state_ = State::kBeforeObject;
  }

  void find_object(std::string_view& text, ParsedText& out) {
    calls_.skip_spaces(text);
    if (text.empty()) return;
    state_ = text[0] == '{' ? State::kObject : State::kText;
    if (state_ == State::kText) calls_.give_up(out);
  }

  // Spaces and braces too many, then the closing tag; anything else is text again.
  void find_close(std::string_view& text, ParsedText& out) {
    while (!text.empty() && closed_ < kClose.size()) {
      if (text[0] == kClose[closed_]) {
        ++closed_;
      } else if (closed_ == 0 && (is_json_space(text[0]) || text[0] == '}')) {
        extra_ += text[0];
      } else {
        return end_of_call(out);
      }
      text.remove_prefix(1);
    }
    if (closed_ < kClose.size()) return;
    closed_ = 0;
    extra_.clear();
    state_ = State::kText;
  }

  // The closing tag did not come: what was held back for it is text.
  void end_of_call(ParsedText& out) {
    std::string held = std::exchange(extra_, {});
    held += kClose.substr(0, std::exchange(closed_, 0));
    state_ = State::kText;
    plain_.clear();
    std::string_view rest = held;
    finder_.push(rest, plain_);
    calls_.content(plain_, out);
  }

  State state_ = State::kText;
  CallStream calls_;
  TagFinder finder_;
  std::string plain_;
  std::string extra_;  // after an object, before its closing tag
  size_t closed_ = 0;  // bytes of the closing tag
};

}  // namespace

std::unique_ptr<OutputParser> make_hermes_parser(const ParserContext& context) {
  return std::make_unique<HermesParser>(context);
}

}  // namespace atom::parsers
