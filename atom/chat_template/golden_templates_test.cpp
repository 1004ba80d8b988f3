// Our own templates and feature lines (tests/golden_templates) against the text that jinja2 and
// transformers gave. make_golden.py there makes the file; run it after adding a case.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>

#include "atom/chat_template/chat_template.h"

namespace atom {
namespace {

namespace json = boost::json;
using Rendered = std::expected<std::string, TemplateError>;

constexpr int64_t kNow = 1795350896;  // 2026-11-22 12:34:56 UTC

Rendered render(const json::object& c) {
  const auto parsed = ChatTemplate::parse(std::string_view(c.at("template").as_string()));
  if (!parsed) return std::unexpected(parsed.error());
  if (const json::value* const context = c.if_contains("context"))
    return parsed->render(context->as_object(), kNow);
  return parsed->render_chat({.messages = &c.at("messages"),
                              .tools = c.at("tools").is_null() ? nullptr : &c.at("tools"),
                              .add_generation_prompt = c.at("add_generation_prompt").as_bool(),
                              .bos_token = std::string_view(c.at("bos_token").as_string()),
                              .now_unix = kNow});
}

TEST(GoldenTemplates, EqualPython) {
  constexpr std::string_view kKinds[] = {"raise", "syntax", "runtime", "value", "limit"};
  std::ifstream file("tests/golden_templates/golden.jsonl");
  int cases = 0;
  for (std::string line; std::getline(file, line); ++cases) {
    const json::object c = json::parse(line).as_object();
    const Rendered got = render(c);
    const std::string about = json::serialize(c.at("id")) + " " + json::serialize(c.at("template"));
    if (const json::value* const out = c.if_contains("out")) {
      ASSERT_TRUE(got.has_value()) << about << ": " << got.error().message;
      EXPECT_EQ(*got, std::string_view(out->as_string())) << about;
      continue;
    }
    ASSERT_FALSE(got.has_value()) << about << " gave " << *got;
    const json::object& error = c.at("error").as_object();
    EXPECT_EQ(kKinds[static_cast<int>(got.error().kind)],
              std::string_view(error.at("kind").as_string()))
        << about;
    if (got.error().kind == TemplateError::Kind::kRaise) {
      EXPECT_EQ(got.error().message, std::string_view(error.at("message").as_string())) << about;
    }
  }
  EXPECT_GE(cases, 80);
}

}  // namespace
}  // namespace atom
