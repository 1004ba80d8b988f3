// The shared suite of real chat templates, when it is at hand (ATOM_SHARED_DIR, else ../shared):
// every render must equal transformers' text, or fail in the same way.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "atom/chat_template/chat_template.h"

namespace atom {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr int64_t kNow = 1795350896;  // 2026-11-22 12:34:56 UTC

fs::path shared_templates() {
  const char* const given = std::getenv("ATOM_SHARED_DIR");
  return fs::path(given != nullptr ? given : "../shared") / "templates";
}

std::vector<json::value> read_xz_lines(const fs::path& path) {
  std::string text;
  const std::string command = "xz -dc '" + path.string() + "'";
  FILE* const pipe = popen(command.c_str(), "r");
  char buffer[1 << 16];
  for (size_t n; pipe != nullptr && (n = fread(buffer, 1, sizeof(buffer), pipe)) > 0;)
    text.append(buffer, n);
  if (pipe != nullptr) pclose(pipe);
  std::vector<json::value> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(json::parse(line));
  return lines;
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string_view kind_name(TemplateError::Kind kind) {
  constexpr std::string_view kNames[] = {"raise", "syntax", "runtime", "value", "limit"};
  return kNames[static_cast<int>(kind)];
}

// Empty when the result is as expected, else what differs.
std::string difference(const json::object& expected,
                       const std::expected<std::string, TemplateError>& got) {
  if (const json::value* const out = expected.if_contains("out")) {
    if (!got)
      return "fails: " + got.error().message + " (line " + std::to_string(got.error().line) + ")";
    if (*got == std::string_view(out->as_string())) return {};
    return "expected <" + json::serialize(*out) + ">\n     got <" +
           json::serialize(json::value(*got)) + ">";
  }
  const json::object& error = expected.at("error").as_object();
  const std::string_view kind = error.at("kind").as_string();
  if (got)
    return "expected to fail: " + std::string(error.at("message").as_string()) + "\n got " + *got;
  if (kind_name(got.error().kind) != kind) {
    return "expected kind " + std::string(kind) + ", got " +
           std::string(kind_name(got.error().kind)) + ": " + got.error().message;
  }
  if (kind == "raise" && got.error().message != std::string_view(error.at("message").as_string())) {
    return "expected message " + std::string(error.at("message").as_string()) + ", got " +
           got.error().message;
  }
  return {};
}

std::string_view token(const json::object& line, std::string_view name) {
  const json::value& v = line.at(name);
  return v.is_string() ? std::string_view(v.as_string()) : std::string_view();
}

TEST(Golden, EveryTemplateInEveryScenario) {
  const fs::path dir = shared_templates();
  if (!fs::exists(dir / "golden.jsonl.xz"))
    GTEST_SKIP() << "no " << dir << ": set ATOM_SHARED_DIR to run this suite";
  std::map<std::string, json::object> scenarios;
  std::map<std::string, ChatTemplate> templates;
  int renders = 0;
  int failures = 0;
  for (const json::value& line : read_xz_lines(dir / "golden.jsonl.xz")) {
    const json::object& o = line.as_object();
    if (o.contains("scenario")) scenarios[std::string(o.at("scenario").as_string())] = o;
    if (!o.contains("t")) continue;
    const std::string name(o.at("t").as_string());
    if (!templates.contains(name)) {
      auto parsed = ChatTemplate::parse(read_file(dir / name));
      ASSERT_TRUE(parsed.has_value())
          << name << ": " << parsed.error().message << " line " << parsed.error().line;
      templates.emplace(name, std::move(*parsed));
    }
    const json::object& s = scenarios.at(std::string(o.at("s").as_string()));
    const auto got = templates.at(name).render_chat({
        .messages = &s.at("messages"),
        .tools = s.at("tools").is_null() ? nullptr : &s.at("tools"),
        .chat_template_kwargs = &s.at("kwargs").as_object(),
        .add_generation_prompt = s.at("add_generation_prompt").as_bool(),
        .continue_final_message = s.at("continue_final").as_bool(),
        .bos_token = token(o, "bos"),
        .eos_token = token(o, "eos"),
        .now_unix = kNow,
    });
    ++renders;
    const std::string diff = difference(o, got);
    if (!diff.empty() && ++failures <= 20)
      ADD_FAILURE() << name << " / " << o.at("s").as_string() << ": " << diff;
  }
  EXPECT_EQ(failures, 0) << "of " << renders;
  EXPECT_GE(renders, 4860);
  std::printf("%d renders of %zu templates, %d differ\n", renders, templates.size(), failures);
}

TEST(Golden, EveryFeature) {
  const fs::path path = shared_templates() / "jinja_features.jsonl.xz";
  if (!fs::exists(path)) GTEST_SKIP() << "no " << path << ": set ATOM_SHARED_DIR to run this suite";
  int cases = 0;
  int failures = 0;
  for (const json::value& line : read_xz_lines(path)) {
    const json::object& o = line.as_object();
    if (!o.contains("template")) continue;
    ++cases;
    const auto parsed = ChatTemplate::parse(std::string_view(o.at("template").as_string()));
    const std::expected<std::string, TemplateError> got =
        parsed ? parsed->render(o.at("context").as_object(), kNow)
               : std::unexpected(parsed.error());
    const std::string diff = difference(o, got);
    if (!diff.empty() && ++failures <= 40)
      ADD_FAILURE() << o.at("id") << ": " << o.at("template") << "\n" << diff;
  }
  EXPECT_EQ(failures, 0) << "of " << cases;
  EXPECT_GE(cases, 265);
  std::printf("%d feature cases, %d differ\n", cases, failures);
}

}  // namespace
}  // namespace atom
