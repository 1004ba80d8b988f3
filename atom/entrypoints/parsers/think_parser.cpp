// Reasoning between <think> and </think>, at the beginning of the answer: Qwen3, DeepSeek R1 and
// many others. The template may have written the opening tag into the prompt. Without a closing tag
// everything is reasoning. Newlines next to the tags belong to the format.
#include "atom/entrypoints/parsers/tool_parsers.h"

namespace atom::parsers {
namespace {

constexpr std::string_view kOpen = "<think>";
constexpr std::string_view kClose = "</think>";

class PlainParser final : public OutputParser {
 public:
  void push(std::string_view text, ParsedText& out) override { out.content += text; }
  void push_control(std::string_view, ParsedText&) override {}
  void finish(ParsedText&) override {}
};

class ThinkParser final : public OutputParser {
 public:
  ThinkParser(const ParserContext& context, std::unique_ptr<OutputParser> next)
      : next_(std::move(next)), inside_(context.in_reasoning), finder_(kClose) {
    trimmer_.cut();
  }

  void push(std::string_view text, ParsedText& out) override {
    while (!text.empty()) {
      switch (state_) {
        case State::kStart:
          find_open(text, out);
          break;
        case State::kInside: {
          plain_.clear();
          const bool closed = finder_.push(text, plain_);
          trimmer_.push(plain_, out.reasoning);
          if (closed) state_ = State::kAfter;
          break;
        }
        case State::kAfter:
          text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
          if (!text.empty()) state_ = State::kDone;
          break;
        case State::kDone:
          next_->push(text, out);
          return;
      }
    }
  }

  void push_control(std::string_view token, ParsedText& out) override {
    if (token == kOpen || token == kClose) return push(token, out);
    if (state_ == State::kStart) leave_start(out);
    if (state_ != State::kInside) next_->push_control(token, out);
  }

  void finish(ParsedText& out) override {
    if (state_ == State::kStart) leave_start(out);
    if (state_ == State::kInside) {
      trimmer_.push(finder_.flush(), out.reasoning);
      trimmer_.finish(out.reasoning);
    }
    next_->finish(out);
  }

 private:
  enum class State : uint8_t { kStart, kInside, kAfter, kDone };

  // Spaces, then the opening tag, or none.
  void find_open(std::string_view& text, ParsedText& out) {
    while (!text.empty()) {
      const size_t matched = held_.size() - spaces_;
      if (text[0] == kOpen[matched]) {
        held_ += text[0];
      } else if (matched == 0 && is_json_space(text[0])) {
        held_ += text[0];
        ++spaces_;
      } else {
        return leave_start(out);
      }
      text.remove_prefix(1);
      if (matched + 1 == kOpen.size() && held_.size() - spaces_ == kOpen.size()) {
        held_.clear();
        state_ = State::kInside;
        return;
      }
    }
  }

  // What was held back is no opening tag.
  void leave_start(ParsedText& out) {
    state_ = inside_ ? State::kInside : State::kDone;
    const std::string held = std::exchange(held_, {});
    push(held, out);
  }

  std::unique_ptr<OutputParser> next_;
  bool inside_;
  State state_ = State::kStart;
  std::string held_;  // at the start: spaces, then a part of the opening tag
  size_t spaces_ = 0;
  TagFinder finder_;
  EdgeTrimmer trimmer_;
  std::string plain_;
};

}  // namespace

std::unique_ptr<OutputParser> make_plain_parser(const ParserContext&) {
  return std::make_unique<PlainParser>();
}

std::unique_ptr<OutputParser> make_think_parser(const ParserContext& context,
                                                std::unique_ptr<OutputParser> next) {
  return std::make_unique<ThinkParser>(context, std::move(next));
}

}  // namespace atom::parsers
