#include "atom/chat_template/chat_template.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace atom {
namespace {

constexpr std::string_view kChatMl =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

TEST(ChatTemplate, RendersChatMl) {
  const auto chat = ChatTemplate::parse(kChatMl);
  ASSERT_TRUE(chat.has_value()) << chat.error().message;
  const auto messages = boost::json::parse(R"([{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"}])");
  const auto text = chat->render_chat({.messages = &messages});
  ASSERT_TRUE(text.has_value()) << text.error().message;
  EXPECT_EQ(*text, "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

}  // namespace
}  // namespace atom
