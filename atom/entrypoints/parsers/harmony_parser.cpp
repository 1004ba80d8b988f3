// GPT-OSS's harmony: the answer is a row of messages, each with a header between control tokens:
// <|start|>ROLE to=RECIPIENT<|channel|>CHANNEL <|constrain|>TYPE<|message|>TEXT<|end|>. Channel
// "analysis" is reasoning, "final" and "commentary" are content, and what goes to functions.NAME is
// a call; the recipient may stand on either side of <|channel|>. Reads reasoning and calls alike.
// Markers are control tokens only: their text, which a prompt could forge, is text. Tolerant of any
// order of tokens. Text without a header (a grammar's bare JSON) goes to the parser of bare JSON.
#include <algorithm>
#include <string>

#include "atom/entrypoints/parsers/tool_parsers.h"

namespace atom::parsers {
namespace {

constexpr size_t kMaxHeader = 1024;
constexpr std::string_view kFunctions = "functions.";

std::string_view first_word(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
  return text.substr(0, text.find_first_of(" \t\r\n"));
}

// The R of " to=R", or nothing.
std::string_view recipient_in(std::string_view header) {
  while (!header.empty()) {
    const std::string_view word = first_word(header);
    if (word.starts_with("to=")) return word.substr(3);
    header.remove_prefix(static_cast<size_t>(word.data() + word.size() - header.data()));
    if (word.empty()) break;
  }
  return {};
}

class HarmonyParser final : public OutputParser {
 public:
  explicit HarmonyParser(const ParserContext& context)
      : may_call_(!context.tool_names.empty()),
        calls_(context),
        bare_(may_call_ ? make_llama3_json_parser(context) : make_plain_parser(context)) {}

  void push(std::string_view text, ParsedText& out) override {
    if (text.empty()) return;
    switch (state_) {
      case State::kStart:
        return push_start(text, out);
      case State::kHeader:
        header_ += text;
        if (header_.size() > kMaxHeader) begin_text(State::kContent, out);
        return;
      case State::kBare:
        return push_bare(text, out);
      case State::kReasoning:
        return push_reasoning(text, out);
      case State::kContent:
        return push_content(text, out);
      case State::kArguments:
        return push_arguments(text, out);
      case State::kAfterCall:
        return push_after_call(text, out);
    }
  }

  void push_control(std::string_view token, ParsedText& out) override {
    if (token == "<|message|>") {
      if (state_ == State::kHeader || state_ == State::kStart) return begin_message(out);
    } else if (token == "<|channel|>") {
      if (state_ != State::kHeader && state_ != State::kStart) end_message(out);
      header_ = recipient_of(header_);
      state_ = State::kHeader;
      in_channel_ = true;
    } else if (token == "<|start|>") {
      end_message(out);
      state_ = State::kHeader;
    } else if (token == "<|constrain|>") {
      if (state_ == State::kHeader) header_ += ' ';
    } else {  // <|end|>, <|call|>, <|return|>
      end_message(out);
    }
  }

  void finish(ParsedText& out) override {
    if (state_ == State::kStart) begin_text(State::kBare, out);
    end_message(out);
  }

 private:
  // kStart: before the first header or text, which may be " to=RECIPIENT" of the first header.
  enum class State : uint8_t {
    kStart,
    kHeader,
    kBare,
    kReasoning,
    kContent,
    kArguments,
    kAfterCall
  };

  // Keeps " to=R" of what stood before <|channel|>: the role is not needed.
  static std::string recipient_of(std::string_view header) {
    const std::string_view recipient = recipient_in(header);
    return recipient.empty() ? std::string() : " to=" + std::string(recipient) + " ";
  }

  void push_start(std::string_view text, ParsedText& out) {
    constexpr std::string_view kTo = " to=";
    header_ += text;
    const size_t size = std::min(header_.size(), kTo.size());
    const bool is_header = kTo.substr(0, size) == std::string_view(header_).substr(0, size);
    if (!is_header || header_.size() > kMaxHeader) begin_text(State::kBare, out);
  }

  // What was held back as a header is text.
  void begin_text(State state, ParsedText& out) {
    const std::string held = std::exchange(header_, {});
    state_ = state;
    in_channel_ = false;
    push(held, out);
  }

  void begin_message(ParsedText& out) {
    const std::string header = std::exchange(header_, {});
    std::string_view recipient = recipient_in(header);
    std::string_view channel = in_channel_ ? first_word(header) : std::string_view();
    if (channel.starts_with("to=")) {
      channel = first_word(std::string_view(header).substr(
          static_cast<size_t>(channel.data() + channel.size() - header.data())));
    }
    in_channel_ = false;
    fresh_ = true;
    if (recipient.starts_with(kFunctions)) recipient.remove_prefix(kFunctions.size());
    const bool is_call = recipient_in(header).starts_with(kFunctions) && !recipient.empty();
    if (is_call && may_call_) {
      calls_.begin_arguments("", std::string(recipient), "");
      state_ = State::kArguments;
      any_arguments_ = false;
    } else {
      // Tools that are the model's own (browser, python) are part of its reasoning.
      const bool own_tool = !recipient.empty() && !is_call && recipient != "user";
      state_ = channel == "analysis" || own_tool ? State::kReasoning : State::kContent;
    }
    finish_bare(out);
  }

  void end_message(ParsedText& out) {
    if (state_ == State::kBare) finish_bare(out);
    if (state_ == State::kArguments) end_call(out);
    // A header that never came to its message is no text.
    header_.clear();
    in_channel_ = false;
    state_ = State::kContent;
    fresh_ = true;
  }

  void end_call(ParsedText& out) {
    if (!any_arguments_) {
      constexpr std::string_view kNone = "{}";
      push_arguments(kNone, out);
      return;
    }
    made_.clear();
    calls_.finish(made_);
    give_calls(out);
  }

  // Messages of one kind are put together with an empty line between.
  void push_reasoning(std::string_view text, ParsedText& out) {
    if (fresh_ && any_reasoning_) out.reasoning += "\n\n";
    fresh_ = false;
    any_reasoning_ = true;
    out.reasoning += text;
  }

  void push_content(std::string_view text, ParsedText& out) {
    if (fresh_ && any_content_) out.content += "\n\n";
    fresh_ = false;
    any_content_ = true;
    out.content += text;
  }

  void push_arguments(std::string_view text, ParsedText& out) {
    if (!any_arguments_) {
      text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
      if (text.empty()) return;
      any_arguments_ = true;
    }
    made_.clear();
    const CallStream::Status status = calls_.push(text, made_);
    if (status != CallStream::Status::kReading) {
      calls_.end_content(made_);
      state_ = status == CallStream::Status::kCall ? State::kAfterCall : State::kContent;
    }
    give_calls(out);
    push(text, out);
  }

  // Behind the object: spaces belong to the call.
  void push_after_call(std::string_view text, ParsedText& out) {
    text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
    if (text.empty()) return;
    state_ = State::kContent;
    push_content(text, out);
  }

  // What calls_ made: its numbers go on from those of bare calls.
  void give_calls(ParsedText& out) {
    if (!made_.content.empty()) push_content(made_.content, out);
    for (ToolCallDelta& call : made_.calls) {
      call.index += bare_calls_;
      out.calls.push_back(std::move(call));
    }
    made_.clear();
  }

  void push_bare(std::string_view text, ParsedText& out) {
    if (bare_ == nullptr) return push_content(text, out);
    made_.clear();
    bare_->push(text, made_);
    give_bare(out);
  }

  void finish_bare(ParsedText& out) {
    if (bare_ == nullptr) return;
    made_.clear();
    bare_->finish(made_);
    bare_.reset();
    give_bare(out);
  }

  void give_bare(ParsedText& out) {
    out.content += made_.content;
    any_content_ = any_content_ || !made_.content.empty();
    for (ToolCallDelta& call : made_.calls) {
      bare_calls_ += call.first ? 1 : 0;
      out.calls.push_back(std::move(call));
    }
    made_.clear();
  }

  bool may_call_;
  State state_ = State::kStart;
  std::string header_;          // of the message that begins
  bool in_channel_ = false;     // the header's <|channel|> was read
  bool fresh_ = false;          // nothing of this message was given out
  bool any_reasoning_ = false;  // something was given out
  bool any_content_ = false;
  bool any_arguments_ = false;
  CallStream calls_;
  std::unique_ptr<OutputParser> bare_;  // before the first header
  int32_t bare_calls_ = 0;
  ParsedText made_;
};

}  // namespace

std::unique_ptr<OutputParser> make_harmony_parser(const ParserContext& context) {
  return std::make_unique<HarmonyParser>(context);
}

std::unique_ptr<OutputParser> make_harmony_reasoning(const ParserContext& context,
                                                     std::unique_ptr<OutputParser>) {
  return make_harmony_parser(context);
}

}  // namespace atom::parsers
