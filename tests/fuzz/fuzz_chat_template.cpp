// Chat templates: any text parses or is refused with a kind; a render stays within its budgets.
#include <boost/json.hpp>
#include <cstdlib>
#include <string_view>

#include "atom/chat_template/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  const auto parsed = atom::ChatTemplate::parse(source);
  if (!parsed) return 0;
  const boost::json::value messages = {{{"role", "user"}, {"content", "hi"}},
                                       {{"role", "assistant"}, {"content", "yes"}}};
  atom::ChatRenderRequest request;
  request.messages = &messages;
  request.bos_token = "<s>";
  request.now_unix = 0;
  const atom::RenderLimits limits = {
      .max_steps = 20'000, .max_output_bytes = 1 << 16, .max_memory_bytes = 4 << 20};
  const auto text = parsed->render_chat(request, limits);
  if (text && text->size() > (1U << 16)) std::abort();
  return 0;
}
