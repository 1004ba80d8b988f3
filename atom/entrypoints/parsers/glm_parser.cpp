// Tool calls of GLM-4.5 and later:
// <tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value> …</tool_call>, with or without
// newlines between. A value is JSON, or the bare text of a string where the tool's schema says
// string or the text is no JSON. The arguments become one JSON object, given out when the call is
// complete. What does not read as a call stays text, with its tags.
#include <algorithm>
#include <boost/json.hpp>
#include <unordered_map>

#include "atom/core/json.h"
#include "atom/entrypoints/parsers/tool_parsers.h"

namespace atom::parsers {
namespace {

constexpr std::string_view kOpen = "<tool_call>";
constexpr std::string_view kClose = "</tool_call>";
constexpr std::string_view kKeyOpen = "<arg_key>";
constexpr std::string_view kKeyClose = "</arg_key>";
constexpr std::string_view kValueOpen = "<arg_value>";
constexpr std::string_view kValueClose = "</arg_value>";
constexpr size_t kMaxName = 256;

std::string_view trimmed(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
  return text.substr(0, text.find_last_not_of(" \t\r\n") + 1);
}

// Arguments in the order of their keys' first appearance; a key's last value counts.
class Arguments {
 public:
  void add(std::string_view key, std::string value) {
    const auto [found, added] = index_.try_emplace(std::string(key), members_.size());
    if (added) {
      members_.emplace_back(key, std::move(value));
    } else {
      members_[found->second].second = std::move(value);
    }
  }
  bool empty() const { return members_.empty(); }
  std::string json() const {
    std::string out = "{";
    for (const auto& [key, value] : members_) {
      if (out.size() > 1) out += ", ";
      out += boost::json::serialize(boost::json::string_view(key.data(), key.size()));
      out += ": ";
      out += value;
    }
    return out + "}";
  }

 private:
  std::vector<std::pair<std::string, std::string>> members_;
  std::unordered_map<std::string, size_t> index_;
};

class GlmParser final : public OutputParser {
 public:
  explicit GlmParser(const ParserContext& context)
      : string_parameters_(context.string_parameters), finder_(kOpen) {}

  void push(std::string_view text, ParsedText& out) override {
    while (!text.empty()) {
      if (state_ == State::kText) {
        plain_.clear();
        const bool found = finder_.push(text, plain_);
        trimmer_.push(plain_, out.content);
        if (found) begin();
      } else if (state_ == State::kKey || state_ == State::kValue) {
        read_until_close(text);
      } else {
        read_between(text, out);
      }
    }
  }

  void push_control(std::string_view, ParsedText&) override {}

  void finish(ParsedText& out) override {
    if (state_ == State::kBetween && !arguments_.empty()) {
      end_call(out);
    } else if (state_ != State::kText) {
      give_up(out);
    }
    trimmer_.push(finder_.flush(), out.content);
    trimmer_.finish(out.content);
  }

 private:
  // kName: before the first tag; kBetween: before a key or the end; kAfterKey: before a value.
  enum class State : uint8_t { kText, kName, kBetween, kKey, kAfterKey, kValue };

  void begin() {
    raw_ = kOpen;
    name_.clear();
    arguments_ = {};
    state_ = State::kName;
  }

  void expect(State state, std::string_view close) {
    state_ = state;
    finder_ = TagFinder(close);
    plain_.clear();
  }

  void read_until_close(std::string_view& text) {
    const std::string_view before = text;
    const bool closed = finder_.push(text, plain_);
    raw_ += before.substr(0, before.size() - text.size());
    if (!closed) return;
    if (state_ == State::kKey) {
      key_ = trimmed(plain_);
      state_ = State::kAfterKey;
    } else {
      arguments_.add(key_, value_json(plain_));
      state_ = State::kBetween;
    }
  }

  // The name, spaces, and the tag that follows, a byte at a time.
  void read_between(std::string_view& text, ParsedText& out) {
    const char c = text[0];
    if (tag_.empty() && c != '<') {
      if (state_ == State::kName && name_.size() < kMaxName) {
        name_ += c;
      } else if (!is_json_space(c)) {
        return give_up(out);  // the byte is read again as text
      }
      raw_ += c;
      return text.remove_prefix(1);
    }
    tag_ += c;
    if (state_ == State::kAfterKey ? !kValueOpen.starts_with(tag_)
                                   : !kKeyOpen.starts_with(tag_) && !kClose.starts_with(tag_)) {
      tag_.pop_back();
      return give_up(out);
    }
    text.remove_prefix(1);
    if (tag_ == kValueOpen || tag_ == kKeyOpen || tag_ == kClose) on_tag(out);
  }

  void on_tag(ParsedText& out) {
    const std::string tag = std::exchange(tag_, {});
    const std::string_view name = trimmed(name_);
    if (name.empty() || name.find_first_of(" \t\r\n{}") != name.npos) {
      tag_ = tag;
      return give_up(out);
    }
    raw_ += tag;
    if (tag == kClose) {
      end_call(out);
    } else if (tag == kKeyOpen) {
      expect(State::kKey, kKeyClose);
    } else {
      expect(State::kValue, kValueClose);
    }
  }

  void end_call(ParsedText& out) {
    trimmer_.cut();
    out.begin_call(index_, std::string(trimmed(name_)));
    out.add_arguments(index_++, arguments_.json());
    back_to_text();
  }

  void back_to_text() {
    raw_.clear();
    tag_.clear();
    finder_ = TagFinder(kOpen);
    state_ = State::kText;
  }

  // It was no call: what was read is content. A tag that was being read may begin another one.
  void give_up(ParsedText& out) {
    const std::string tag = std::exchange(tag_, {});
    std::string raw = std::exchange(raw_, {});
    trimmer_.push(raw, out.content);
    back_to_text();
    push(tag, out);
  }

  std::string value_json(std::string_view text) const {
    const auto is_this = [&](const StringParameter& parameter) {
      return parameter.tool == trimmed(name_) && parameter.name == key_;
    };
    if (std::ranges::none_of(string_parameters_, is_this)) {
      const std::string_view json = trimmed(text);
      if (parse_json(json)) return std::string(json);
    }
    return boost::json::serialize(boost::json::string_view(text.data(), text.size()));
  }

  std::vector<StringParameter> string_parameters_;
  State state_ = State::kText;
  TagFinder finder_;
  EdgeTrimmer trimmer_;
  std::string plain_;  // of the text; of the key or value being read
  std::string raw_;    // all of the call so far, without tag_
  std::string tag_;    // the beginning of a tag
  std::string name_, key_;
  Arguments arguments_;
  int32_t index_ = 0;
};

}  // namespace

std::unique_ptr<OutputParser> make_glm_parser(const ParserContext& context) {
  return std::make_unique<GlmParser>(context);
}

}  // namespace atom::parsers
