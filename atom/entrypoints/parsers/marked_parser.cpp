// Tool calls between marker tokens: a section, in it calls, in a call a header, a separator and the
// arguments as a JSON object. DeepSeek V3, R1 and V3.1, Kimi-K2, and Mistral from 2025 on
// (MarkedForm). The end of a call
// is the end of its object, so a marker inside a string is text. What does not read as a call stays
// text, without the markers: they are control tokens, and no reader shall see them.
#include <algorithm>
#include <array>
#include <optional>

#include "atom/entrypoints/parsers/tool_parsers.h"

namespace atom::parsers {
namespace {

constexpr size_t kMaxHeader = 1024;

enum class Marker : uint8_t { kSectionOpen, kSectionClose, kCallOpen, kCallClose, kSeparator, kId };

struct CallHead {
  std::string name;
  std::string id;  // as the model gave it, or empty
};

struct MarkedForm {
  // By Marker; all begin with a byte that none of them has again. "": the form does without it.
  std::array<std::string_view, 6> markers;
  // The text before and after the separator; an empty name: this is no call.
  CallHead (*head)(std::string_view before, std::string_view after);
};

std::string_view trimmed(std::string_view text) {
  const size_t first = std::min(text.find_first_not_of(" \t\r\n"), text.size());
  text.remove_prefix(first);
  return text.substr(0, text.find_last_not_of(" \t\r\n") + 1);
}

// V3 and R1: `function SEP NAME` and a fence on the next line; V3.1: `NAME SEP`.
CallHead deepseek_head(std::string_view before, std::string_view after) {
  after = trimmed(after);
  std::string_view name = trimmed(after.substr(0, after.find('\n')));
  if (after.empty()) name = trimmed(before);
  return {.name = std::string(name), .id = {}};
}

// `functions.NAME:INDEX SEP`; the whole is the call's id.
CallHead kimi_head(std::string_view before, std::string_view) {
  const std::string_view id = trimmed(before);
  std::string_view name = id;
  if (name.starts_with("functions.")) name.remove_prefix(10);
  if (const size_t colon = name.rfind(':');
      colon != name.npos && name.find_first_not_of("0123456789", colon + 1) == name.npos) {
    name = name.substr(0, colon);
  }
  return {.name = std::string(name), .id = std::string(id)};
}

constexpr MarkedForm kDeepSeek{
    .markers = {"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>",
                "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", ""},
    .head = deepseek_head};
constexpr MarkedForm kKimi{
    .markers = {"<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>",
                "<|tool_call_end|>", "<|tool_call_argument_begin|>", ""},
    .head = kimi_head};

CallHead mistral_head(std::string_view before, std::string_view) {
  return {.name = std::string(trimmed(before)), .id = {}};
}

constexpr MarkedForm kMistral{.markers = {"", "", "[TOOL_CALLS]", "", "[ARGS]", "[CALL_ID]"},
                              .head = mistral_head};

// Finds any of the markers in text that arrives in pieces.
class MarkerFinder {
 public:
  explicit MarkerFinder(const MarkedForm& form) : form_(form) {}

  // Takes one byte. A marker that it completes; else what is certain to be none goes to `plain`.
  std::optional<Marker> push(char c, std::string& plain) {
    held_ += c;
    bool begins = false;
    for (size_t i = 0; i < form_.markers.size(); ++i) {
      if (form_.markers[i] == held_) {
        held_.clear();
        return static_cast<Marker>(i);
      }
      begins = begins || form_.markers[i].starts_with(held_);
    }
    if (begins) return std::nullopt;
    const char first = form_.markers[static_cast<size_t>(Marker::kCallOpen)][0];
    const bool restarts = c == first && held_.size() > 1;
    const size_t certain = held_.size() - (restarts ? 1 : 0);
    plain.append(held_, 0, certain);
    held_.erase(0, certain);
    return std::nullopt;
  }
  bool idle() const { return held_.empty(); }
  std::string flush() { return std::exchange(held_, {}); }

 private:
  const MarkedForm& form_;
  std::string held_;  // the beginning of a marker
};

class MarkedParser final : public OutputParser {
 public:
  MarkedParser(const MarkedForm& form, const ParserContext& context)
      : form_(form), calls_(context), finder_(form) {}

  void push(std::string_view text, ParsedText& out) override {
    while (!text.empty()) {
      if (state_ == State::kArguments) {
        const CallStream::Status end = calls_.push(text, out);
        if (end == CallStream::Status::kReading) return;
        state_ = end == CallStream::Status::kCall ? State::kAfter : State::kText;
        continue;
      }
      if (state_ == State::kHeader && separated_ && text[0] == '{' && finder_.idle()) {
        begin_arguments(out);
        continue;
      }
      plain_.clear();
      const std::optional<Marker> marker = finder_.push(text[0], plain_);
      text.remove_prefix(1);
      take(plain_, out);
      if (marker) on_marker(*marker, out);
    }
  }

  void push_control(std::string_view token, ParsedText& out) override {
    if (state_ == State::kArguments) {  // broken off
      calls_.finish(out);
      state_ = State::kAfter;
    }
    push(token, out);
  }

  void finish(ParsedText& out) override {
    if (state_ == State::kArguments) {
      calls_.finish(out);
    } else {
      take(finder_.flush(), out);
      if (state_ == State::kHeader) give_up(out);
    }
    calls_.end_content(out);
  }

 private:
  enum class State : uint8_t { kText, kHeader, kArguments, kAfter };

  // Text that is no marker.
  void take(std::string_view text, ParsedText& out) {
    for (const char c : text) {
      if (state_ == State::kHeader) {
        (separated_ ? after_ : has_id_ ? id_ : before_) += c;
        if (before_.size() + id_.size() + after_.size() > kMaxHeader) give_up(out);
        continue;
      }
      // After the arguments a fence may close; it belongs to the call.
      if (state_ == State::kAfter && (c == '`' || is_json_space(c))) continue;
      state_ = State::kText;
      calls_.content({&c, 1}, out);
    }
  }

  void on_marker(Marker marker, ParsedText& out) {
    if (state_ == State::kHeader && marker == Marker::kSeparator && !separated_) {
      separated_ = true;
      return;
    }
    if (state_ == State::kHeader && marker == Marker::kId && !separated_ && !has_id_) {
      has_id_ = true;
      return;
    }
    if (state_ == State::kHeader) give_up(out);
    if (marker == Marker::kCallOpen) {
      state_ = State::kHeader;
    } else if (marker == Marker::kCallClose) {
      state_ = State::kText;
    }
  }

  // The header is no call's: it is text.
  void give_up(ParsedText& out) {
    state_ = State::kText;
    separated_ = has_id_ = false;
    for (std::string* part : {&before_, &id_, &after_}) {
      calls_.content(std::exchange(*part, {}), out);
    }
  }

  void begin_arguments(ParsedText& out) {
    CallHead head = form_.head(before_, after_);
    if (head.name.empty()) return give_up(out);
    if (has_id_) head.id = trimmed(id_);
    calls_.begin_arguments(before_ + id_ + after_, std::move(head.name), std::move(head.id));
    for (std::string* part : {&before_, &id_, &after_}) part->clear();
    separated_ = has_id_ = false;
    state_ = State::kArguments;
  }

  const MarkedForm& form_;
  State state_ = State::kText;
  CallStream calls_;
  MarkerFinder finder_;
  std::string plain_;
  std::string before_, id_, after_;  // of a header, around its separators
  bool has_id_ = false;
  bool separated_ = false;
};

}  // namespace

std::unique_ptr<OutputParser> make_deepseek_parser(const ParserContext& context) {
  return std::make_unique<MarkedParser>(kDeepSeek, context);
}

std::unique_ptr<OutputParser> make_mistral_args_parser(const ParserContext& context) {
  return std::make_unique<MarkedParser>(kMistral, context);
}

std::unique_ptr<OutputParser> make_kimi_parser(const ParserContext& context) {
  return std::make_unique<MarkedParser>(kKimi, context);
}

}  // namespace atom::parsers
