// ChatTemplate: a parsed Jinja template as Hugging Face chat templates use it (transformers'
// sandboxed environment: trim_blocks, lstrip_blocks, loopcontrols, generation tag). Immutable after
// parse, safe to render from many threads. No host object, file or code is reachable from a
// template; every render is bounded by RenderLimits.
#pragma once

#include <boost/json/fwd.hpp>
#include <chrono>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace atom {

struct RenderLimits {
  int64_t max_steps = 1'000'000;
  int64_t max_output_bytes = 4 << 20;
  int64_t max_memory_bytes = 64 << 20;
  int max_depth = 64;           // macro calls and expression nesting at run time
  int64_t max_range = 100'000;  // items of one range()
  std::chrono::milliseconds max_time{200};
};

struct TemplateError {
  enum class Kind {
    kRaise,    // the template called raise_exception: message is its text (HTTP 400)
    kSyntax,   // parse error
    kRuntime,  // what Python would have raised while rendering
    kValue,    // continue_final_message does not appear in the render
    kLimit,    // a RenderLimits bound
  };
  Kind kind = Kind::kRuntime;
  std::string message = {};
  int line = 0;  // 1-based, 0 when unknown
};

// transformers' apply_chat_template(tokenize=False) semantics on top of ChatTemplate.
struct ChatRenderRequest {
  const boost::json::value* messages = nullptr;  // array of message objects
  const boost::json::value* tools = nullptr;     // array, or null when none
  const boost::json::object* chat_template_kwargs =
      nullptr;  // extra variables; override the others
  bool add_generation_prompt = true;
  bool continue_final_message = false;
  std::string_view bos_token = {};  // empty = undefined in the template
  std::string_view eos_token = {};
  std::optional<int64_t> now_unix =
      {};  // strftime_now: seconds, taken as local wall time UTC; default: now
};

class ChatTemplate {
 public:
  // Parse errors have line and cause. Parse depth <= 100, nodes <= 100,000.
  static std::expected<ChatTemplate, TemplateError> parse(std::string_view source);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  std::expected<std::string, TemplateError> render_chat(const ChatRenderRequest& request,
                                                        const RenderLimits& limits = {}) const;
  // Plain Jinja: the object's members are the variables.
  std::expected<std::string, TemplateError> render(const boost::json::object& context,
                                                   std::optional<int64_t> now_unix = {},
                                                   const RenderLimits& limits = {}) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace atom
