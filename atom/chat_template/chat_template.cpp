// The public face: parsing and rendering with faults turned into errors, JSON turned into values,
// and what transformers' apply_chat_template does around a render.
#include "atom/chat_template/chat_template.h"

#include <boost/json.hpp>
#include <new>

#include "atom/chat_template/interpreter.h"
#include "atom/chat_template/lexer.h"
#include "atom/chat_template/parser.h"
#include "atom/chat_template/unicode.h"

namespace atom {
namespace json = boost::json;
using namespace jinja;

namespace {

constexpr size_t kMaxSourceBytes = size_t{1} << 20;
constexpr int64_t kMaxParseBytes = int64_t{128} << 20;
constexpr std::string_view kContinueTag = "CONTINUE_FINAL_MESSAGE_TAG ";
constexpr std::string_view kReasoningKeys[] = {"reasoning_content", "thinking", "reasoning"};

// "\r\n" and "\r" become "\n"; one final line end is dropped.
std::string normalize(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text.push_back(source[i]);
    } else {
      text.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

int line_of_first_invalid(std::string_view source) {
  int line = 1;
  while (!source.empty()) {
    const size_t end = std::min(source.find('\n'), source.size());
    if (!is_valid_utf8(source.substr(0, end))) return line;
    source.remove_prefix(std::min(end + 1, source.size()));
    ++line;
  }
  return line;
}

[[noreturn]] void raise_value(std::string message) {
  throw_fault(TemplateError::Kind::kValue, 0, std::move(message));
}

// Values point into the JSON's strings; only containers are built.
class Importer {
 public:
  explicit Importer(Interpreter& in) : in_(in), arena_(in.arena()) {}

  Value value(const json::value& v) {
    in_.charge(1);
    switch (v.kind()) {
      case json::kind::null:
        return none();
      case json::kind::bool_:
        return boolean(v.get_bool());
      case json::kind::int64:
        return integer(v.get_int64());
      case json::kind::uint64:
        return narrow(static_cast<Int128>(v.get_uint64()));
      case json::kind::double_:
        return real(v.get_double());
      case json::kind::string:
        return text(v.get_string());
      case json::kind::array:
        return array(v.get_array());
      case json::kind::object:
        break;
    }
    const DepthGuard guard(in_.nesting());
    const json::object& o = v.get_object();
    DictBuilder builder(arena_, o.size());
    for (const auto& [key, item] : o) builder.add(string({key.data(), key.size()}), value(item));
    return dict(builder.finish());
  }

  // Keys without a value are dropped, and a message's reasoning is found under all its names.
  Value message(const json::value& v, const Value* content) {
    if (!v.is_object()) raise_error("TypeError: chat messages must be objects");
    const json::object& o = v.get_object();
    const json::value* reasoning = nullptr;
    for (const std::string_view key : kReasoningKeys) {
      const json::value* const found = o.if_contains(key);
      if (reasoning == nullptr && found != nullptr && !found->is_null()) reasoning = found;
    }
    DictBuilder builder(arena_, o.size() + (reasoning != nullptr ? 2 : 0));
    if (reasoning != nullptr) builder.set(string("thinking"), value(*reasoning));
    for (const auto& [key, item] : o) {
      if (item.is_null()) continue;
      const std::string_view name(key.data(), key.size());
      builder.set(string(name), content != nullptr && name == "content" ? *content : value(item));
    }
    if (reasoning != nullptr) builder.set(string("reasoning_content"), value(*reasoning));
    return dict(builder.finish());
  }

  Value messages(const json::array& list, const Value* last_content) {
    Value* const items = arena_.array<Value>(list.size());
    for (size_t i = 0; i < list.size(); ++i) {
      items[i] = message(list[i], i + 1 == list.size() ? last_content : nullptr);
    }
    return jinja::list({items, list.size()});
  }

  // The content of the message to continue, with the tag after its (last) text. `text` gets the
  // original.
  Value tagged_content(const json::value& content, std::string_view& text) {
    if (content.is_string()) {
      text = {content.get_string().data(), content.get_string().size()};
      return in_.new_string(std::string(text) + std::string(kContinueTag));
    }
    if (!content.is_array())
      raise_value("continue_final_message: the final message's content is not text");
    const json::array& parts = content.get_array();
    Value* const items = arena_.array<Value>(parts.size());
    bool found = false;
    for (size_t i = parts.size(); i-- > 0;) {
      const json::value* const part_text =
          parts[i].is_object() ? parts[i].get_object().if_contains("text") : nullptr;
      if (found || part_text == nullptr || !part_text->is_string()) {
        items[i] = value(parts[i]);
        continue;
      }
      found = true;
      text = {part_text->get_string().data(), part_text->get_string().size()};
      DictBuilder builder(arena_, parts[i].get_object().size());
      for (const auto& [key, item] : parts[i].get_object()) {
        const std::string_view name(key.data(), key.size());
        builder.add(string(name),
                    name == "text" ? in_.new_string(std::string(text) + std::string(kContinueTag))
                                   : value(item));
      }
      items[i] = dict(builder.finish());
    }
    if (!found)
      raise_value("continue_final_message is set but the final message has no text to continue");
    return jinja::list({items, parts.size()});
  }

 private:
  static Value text(const json::string& s) { return string({s.data(), s.size()}); }

  Value array(const json::array& list) {
    const DepthGuard guard(in_.nesting());
    Value* const items = arena_.array<Value>(list.size());
    for (size_t i = 0; i < list.size(); ++i) items[i] = value(list[i]);
    return jinja::list({items, list.size()});
  }

  Interpreter& in_;
  Arena& arena_;
};

// Cuts a render at the tag that was put after the text to continue.
std::string cut_at_tag(std::string rendered, std::string_view final_text) {
  const std::string_view bare_tag = trim(kContinueTag);
  const size_t tag = rendered.rfind(bare_tag);
  if (tag == rendered.npos || rendered.find(trim(final_text)) == rendered.npos) {
    raise_value(
        "continue_final_message is set but the final message does not appear in the chat after "
        "applying the "
        "chat template");
  }
  const bool spacing_kept = std::string_view(rendered).substr(tag).starts_with(kContinueTag);
  rendered.resize(tag);
  if (!spacing_kept) rendered.resize(trim_right(rendered).size());
  return rendered;
}

int64_t unix_now() {
  using namespace std::chrono;
  return duration_cast<seconds>(system_clock::now().time_since_epoch()).count();
}

}  // namespace

struct ChatTemplate::Impl {
  std::string source;
  Arena arena{kMaxParseBytes};
  Program program;

  // Runs `body(interpreter)`; every fault becomes an error with the line where the interpreter
  // stood.
  template <class Body>
  std::expected<std::string, TemplateError> guarded(const RenderLimits& limits,
                                                    std::optional<int64_t> now, Body body) const {
    Interpreter* running = nullptr;
    try {
      Interpreter interpreter(program, limits, now ? *now : unix_now());
      running = &interpreter;
      try {
        return body(interpreter);
      } catch (Fault& fault) {
        if (fault.error.line == 0) fault.error.line = running->line();
        return std::unexpected(std::move(fault.error));
      }
    } catch (Fault& fault) {
      return std::unexpected(std::move(fault.error));
    } catch (const std::bad_alloc&) {
      return std::unexpected(
          TemplateError{.kind = TemplateError::Kind::kLimit, .message = "out of memory"});
    }
  }
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::expected<ChatTemplate, TemplateError> ChatTemplate::parse(std::string_view source) {
  using Kind = TemplateError::Kind;
  if (source.size() > kMaxSourceBytes) {
    return std::unexpected(
        TemplateError{.kind = Kind::kLimit,
                      .message = str_format("template longer than {} bytes", kMaxSourceBytes),
                      .line = 0});
  }
  if (!is_valid_utf8(source)) {
    return std::unexpected(TemplateError{.kind = Kind::kSyntax,
                                         .message = "template is not valid UTF-8",
                                         .line = line_of_first_invalid(source)});
  }
  try {
    auto impl = std::make_unique<Impl>();
    impl->source = normalize(source);
    Parser(tokenize(impl->source, impl->arena), impl->arena, impl->program).parse();
    return ChatTemplate(std::move(impl));
  } catch (Fault& fault) {
    return std::unexpected(std::move(fault.error));
  } catch (const std::bad_alloc&) {
    return std::unexpected(
        TemplateError{.kind = Kind::kLimit, .message = "out of memory", .line = 0});
  }
}

std::expected<std::string, TemplateError> ChatTemplate::render(const json::object& context,
                                                               std::optional<int64_t> now_unix,
                                                               const RenderLimits& limits) const {
  return impl_->guarded(limits, now_unix, [&](Interpreter& in) {
    Importer importer(in);
    for (const auto& [key, item] : context)
      in.set_variable({key.data(), key.size()}, importer.value(item));
    return in.run();
  });
}

std::expected<std::string, TemplateError> ChatTemplate::render_chat(
    const ChatRenderRequest& request, const RenderLimits& limits) const {
  return impl_->guarded(limits, request.now_unix, [&](Interpreter& in) {
    Importer importer(in);
    if (request.messages == nullptr || !request.messages->is_array())
      raise_error("TypeError: messages must be an array");
    const json::array& messages = request.messages->get_array();
    Value tagged;
    std::string_view final_text;
    if (request.continue_final_message) {
      if (request.add_generation_prompt) {
        raise_value("continue_final_message and add_generation_prompt are not compatible");
      }
      const json::value* const content = !messages.empty() && messages.back().is_object()
                                             ? messages.back().get_object().if_contains("content")
                                             : nullptr;
      if (content == nullptr || content->is_null()) {
        raise_value(
            "continue_final_message is set but the final message has no content to continue");
      }
      if (impl_->source.find("content") == std::string::npos) {
        raise_value("continue_final_message is set but the template does not use \"content\"");
      }
      tagged = importer.tagged_content(*content, final_text);
    }
    in.set_variable("messages", importer.messages(
                                    messages, request.continue_final_message ? &tagged : nullptr));
    in.set_variable("tools", request.tools != nullptr ? importer.value(*request.tools) : none());
    in.set_variable("documents", none());
    in.set_variable("add_generation_prompt", boolean(request.add_generation_prompt));
    if (!request.bos_token.empty()) in.set_variable("bos_token", string(request.bos_token));
    if (!request.eos_token.empty()) in.set_variable("eos_token", string(request.eos_token));
    if (request.chat_template_kwargs != nullptr) {
      for (const auto& [key, item] : *request.chat_template_kwargs) {
        in.set_variable({key.data(), key.size()}, importer.value(item));
      }
    }
    std::string rendered = in.run();
    return request.continue_final_message ? cut_at_tag(std::move(rendered), final_text) : rendered;
  });
}

}  // namespace atom
