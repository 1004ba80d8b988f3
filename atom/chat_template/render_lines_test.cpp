#include "atom/chat_template/render_lines.h"

#include <gtest/gtest.h>

#include <sstream>

namespace atom {
namespace {

std::string run(const std::string& lines) {
  std::istringstream in(lines);
  std::ostringstream out;
  const ModelTemplateLoader load = [](const std::string& model) -> Result<ModelTemplate> {
    if (model != "known") return make_error(ErrorCode::kNotFound, "{}: no such model", model);
    return ModelTemplate{.text = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}",
                         .bos_token = "<s>",
                         .eos_token = "</s>"};
  };
  EXPECT_EQ(run_render_lines(in, out, load), 0);
  return out.str();
}

TEST(RenderLines, ContextAndChat) {
  EXPECT_EQ(run(R"({"template": "{{ a + 1 }}", "context": {"a": 2}})"), "{\"text\":\"3\"}\n");
  EXPECT_EQ(
      run(R"({"template": "{{ messages[0].content }}|{{ x }}|{{ tools }}", "messages": [{"role": "user", "content": "é\n"}], "chat_template_kwargs": {"x": true}})"),
      "{\"text\":\"é\\n|True|None\"}\n");
  EXPECT_EQ(run(R"({"template": "{{ add_generation_prompt }}", "messages": []})"),
            "{\"text\":\"True\"}\n");
  EXPECT_EQ(run(R"({"template": "{{ bos_token is defined }}", "messages": [], "bos_token": null})"),
            "{\"text\":\"False\"}\n");
}

TEST(RenderLines, ModelGivesTemplateAndTokens) {
  const std::string messages = R"(, "messages": [{"role": "user", "content": "hi"}])";
  EXPECT_EQ(run(R"({"model": "known")" + messages + "}"), "{\"text\":\"<s>hi</s>\"}\n");
  EXPECT_EQ(run(R"({"model": "known", "eos_token": "!")" + messages + "}"),
            "{\"text\":\"<s>hi!\"}\n");
  EXPECT_EQ(run(R"({"model": "other")" + messages + "}"),
            "{\"error\":{\"kind\":\"value\",\"message\":\"other: no such model\"}}\n");
}

TEST(RenderLines, EveryKindOfError) {
  EXPECT_EQ(run(R"({"template": "a\n{{ raise_exception('no ' ~ 1) }}", "context": {}})"),
            "{\"error\":{\"kind\":\"raise\",\"message\":\"no 1\",\"line\":2}}\n");
  EXPECT_EQ(run(R"({"template": "\n{% nope %}", "context": {}})"),
            "{\"error\":{\"kind\":\"syntax\",\"message\":\"unknown tag 'nope'\",\"line\":2}}\n");
  EXPECT_EQ(run(R"({"template": "{{ x.y }}", "context": {}})"),
            "{\"error\":{\"kind\":\"runtime\",\"message\":\"'x' is undefined\",\"line\":1}}\n");
  EXPECT_EQ(run(R"({"template": "{{ range(1000000000) }}", "context": {}})"),
            "{\"error\":{\"kind\":\"limit\",\"message\":\"range() of 1000000000 items, the limit "
            "is 100000\",\"line\":1}}\n");
  EXPECT_NE(
      run(R"({"template": "content", "messages": [{"content": "x"}], "continue_final_message": true})")
          .find("\"value\""),
      std::string::npos);
}

TEST(RenderLines, BadLinesDoNotStopTheNext) {
  const std::string out =
      run("{oops\n\n[1]\n{}\n{\"template\": 1}\n{\"template\": \"t\"}\n{\"template\": \"t\", "
          "\"messages\": 3}\n{\"template\": \"ok\", \"context\": {}}\n");
  std::istringstream lines(out);
  std::string line;
  for (int i = 0; i < 6; ++i) {
    std::getline(lines, line);
    EXPECT_TRUE(line.starts_with("{\"error\":{\"kind\":\"value\"")) << line;
  }
  std::getline(lines, line);
  EXPECT_EQ(line, "{\"text\":\"ok\"}");
}

TEST(RenderLines, Now) {
  const auto at = [](const std::string& now) {
    return run(R"({"template": "{{ strftime_now('%d %b %Y %H:%M:%S') }}", "context": {}, "now": )" +
               now + "}");
  };
  const std::string moment = "{\"text\":\"22 Nov 2026 12:34:56\"}\n";
  EXPECT_EQ(at("\"2026-11-22 12:34:56\""), moment);
  EXPECT_EQ(at("\"2026-11-22T12:34:56\""), moment);
  EXPECT_EQ(at("\"2026-11-22T12:34:56.789Z\""), moment);
  EXPECT_EQ(at("\"2026-11-22T12:34:56+02:00\""), moment);
  EXPECT_EQ(at("1795350896"), moment);
  EXPECT_EQ(at("1795350896.9"), moment);
  EXPECT_EQ(at("\"2026-11-22\""), "{\"text\":\"22 Nov 2026 00:00:00\"}\n");
  for (const char* bad : {"\"\"", "\"yesterday\"", "\"2026-13-01\"", "\"2026-02-30\"",
                          "\"2026-11-22 25:00\"", "1e300", "true", "[]"}) {
    EXPECT_TRUE(at(bad).starts_with("{\"error\":{\"kind\":\"value\"")) << bad << at(bad);
  }
}

}  // namespace
}  // namespace atom
