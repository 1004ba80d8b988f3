// The engine's own tests: transformers' chat rules, sandbox and budgets. Language features are
// compared with Python's output in golden_templates_test.cpp.
#include "atom/chat_template/chat_template.h"

#include <gtest/gtest.h>

#include <atomic>
#include <boost/json.hpp>
#include <chrono>
#include <thread>

namespace atom {
namespace {

namespace json = boost::json;
using Kind = TemplateError::Kind;
using Rendered = std::expected<std::string, TemplateError>;

Rendered render(std::string_view source, const json::object& context = {}) {
  const auto chat = ChatTemplate::parse(source);
  if (!chat) return std::unexpected(chat.error());
  return chat->render(context);
}

std::string repeat(std::string_view text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

constexpr std::string_view kChatMl =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ "
    "'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\\n' }}{% endif %}";

TEST(ChatTemplate, RendersChatMl) {
  const auto chat = ChatTemplate::parse(kChatMl);
  ASSERT_TRUE(chat.has_value()) << chat.error().message;
  const auto messages =
      json::parse(R"([{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"}])");
  const auto text = chat->render_chat({.messages = &messages});
  ASSERT_TRUE(text.has_value()) << text.error().message;
  EXPECT_EQ(*text,
            "<|im_start|>system\nBe "
            "brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

Rendered chat(std::string_view source, const json::value& messages, bool continues = false) {
  const auto parsed = ChatTemplate::parse(source);
  if (!parsed) return std::unexpected(parsed.error());
  return parsed->render_chat(
      {.messages = &messages, .add_generation_prompt = false, .continue_final_message = continues});
}

TEST(ChatTemplate, NullKeysOfMessagesAreUndefined) {
  const auto messages =
      json::parse(R"([{"role": "assistant", "content": null, "x": {"deep": null}}])");
  EXPECT_EQ(
      *chat("{{ messages[0].content is defined }} {{ messages[0].x.deep is none }}", messages),
      "False True");
}

// No search reads an empty string, which may have no address.
TEST(ChatTemplate, SearchesAnEmptyString) {
  const auto messages = json::parse(R"([{"content": ""}])");
  const std::string_view source =
      "{% set x = messages[0].content %}{{ 'a' in x }},{{ '' in x }},{{ x.find('a') }},"
      "{{ x.replace('a', 'b') }},{{ x.split('a') }}";
  EXPECT_EQ(*chat(source, messages), "False,True,-1,,['']");
}

TEST(ChatTemplate, ReasoningHasAllItsNames) {
  const std::string_view source = "{{ messages[0].reasoning_content }},{{ messages[0].thinking }}";
  EXPECT_EQ(*chat(source, json::parse(R"([{"reasoning_content": "a"}])")), "a,a");
  EXPECT_EQ(*chat(source, json::parse(R"([{"thinking": "b"}])")), "b,b");
  EXPECT_EQ(*chat(source, json::parse(R"([{"reasoning": "c"}])")), "c,c");
  EXPECT_EQ(*chat(source, json::parse(R"([{"reasoning": "c", "thinking": "b"}])")), "b,b");
  EXPECT_EQ(*chat("{{ messages[0] | list }}", json::parse(R"([{"role": "x", "reasoning": "c"}])")),
            "['thinking', 'role', 'reasoning', 'reasoning_content']");
}

TEST(ChatTemplate, TokensToolsAndKwargs) {
  const auto parsed = ChatTemplate::parse(
      "{{ bos_token }}|{{ eos_token }}|{{ tools }}|{{ extra }}|{{ documents }}");
  const auto messages = json::parse("[]");
  const auto tools = json::parse(R"([{"a": 1.0}])");
  const json::object kwargs{{"extra", true}, {"eos_token", "E"}};
  EXPECT_EQ(*parsed->render_chat({.messages = &messages,
                                  .tools = &tools,
                                  .chat_template_kwargs = &kwargs,
                                  .bos_token = "<s>",
                                  .eos_token = "</s>"}),
            "<s>|E|[{'a': 1.0}]|True|None");
  EXPECT_EQ(*parsed->render_chat({.messages = &messages}), "||None||None");
}

TEST(ChatTemplate, ContinuesTheFinalMessage) {
  const std::string_view kept = "{% for m in messages %}<{{ m.content }}>{% endfor %}end";
  const std::string_view trimmed = "{% for m in messages %}<{{ m.content | trim }}>{% endfor %}end";
  const auto messages = json::parse(R"([{"content": "q"}, {"content": "one, "}])");
  EXPECT_EQ(*chat(kept, messages, true), "<q><one, ");
  EXPECT_EQ(*chat(trimmed, messages, true), "<q><one,");
  const auto parts =
      json::parse(R"([{"content": [{"type": "text", "text": "a"}, {"type": "image"}]}])");
  EXPECT_EQ(*chat("{% for p in messages[0].content %}{{ p.text }}{% endfor %}!", parts, true), "a");
  EXPECT_EQ(chat("{{ messages[0].content }}", messages, true).error().kind, Kind::kValue);
  EXPECT_EQ(chat("nothing", messages, true).error().kind, Kind::kValue);
  EXPECT_EQ(chat(kept, json::parse("[]"), true).error().kind, Kind::kValue);
  EXPECT_EQ(chat(kept, json::parse(R"([{"role": "x"}])"), true).error().kind, Kind::kValue);
  EXPECT_EQ(chat(kept, json::parse(R"([{"content": 3}])"), true).error().kind, Kind::kValue);
}

TEST(ChatTemplate, BadMessagesAreErrors) {
  EXPECT_FALSE(chat(kChatMl, json::parse("3")).has_value());
  EXPECT_FALSE(chat(kChatMl, json::parse("[3]")).has_value());
}

TEST(ChatTemplate, SixtyFourBitIntegersAreExact) {
  const auto context =
      json::parse(R"({"a": 18446744073709551615, "b": -9223372036854775808})").as_object();
  EXPECT_EQ(
      *render("{{ a }} {{ b }} {{ [a] | tojson }} {{ a > b }} {{ a - 1 }}", context),
      "18446744073709551615 -9223372036854775808 [18446744073709551615] True 18446744073709551614");
  EXPECT_EQ(render("{{ a + 1 }}", context).error().kind, Kind::kRuntime);
  EXPECT_EQ(render("{{ 2 ** 64 }}").error().kind, Kind::kRuntime);
  EXPECT_EQ(render("{{ 99999999999999999999 }}").error().kind, Kind::kSyntax);
}

struct BadCase {
  std::string source;
  Kind kind;
  int line;
};

TEST(Errors, NameKindAndLine) {
  const BadCase cases[] = {
      {"a\n\n{% endif %}", Kind::kSyntax, 3},
      {"{% if x %}\n", Kind::kSyntax, 1},
      {"\n{{ 1 + }}", Kind::kSyntax, 2},
      {"\n\n{{ 'abc' | nope }}", Kind::kSyntax, 3},
      {"{{ 1 is nope }}", Kind::kSyntax, 1},
      {"{{ 'abc }}", Kind::kSyntax, 1},
      {"x\n{# never closed", Kind::kSyntax, 2},
      {"{% raw %}{{", Kind::kSyntax, 1},
      {"{{ (1, 2] }}", Kind::kSyntax, 1},
      {"{% break %}", Kind::kSyntax, 1},
      {"{% for true in x %}{% endfor %}", Kind::kSyntax, 1},
      {"{{ f(a=1, 2) }}", Kind::kSyntax, 1},
      {"\xff", Kind::kSyntax, 1},
      {"a\n\xc3(", Kind::kSyntax, 2},
      {"{{ '\\x4' }}", Kind::kSyntax, 1},
      {"\n{{ x.y }}", Kind::kRuntime, 2},
      {"{% macro f() %}\n{{ 1 / 0 }}{% endmacro %}\n\n{{ f() }}", Kind::kRuntime, 2},
      {"{{ 'a' + 1 }}", Kind::kRuntime, 1},
      {"{% if true %}{{ 'a' | nope }}{% endif %}", Kind::kRuntime, 1},
      {"{{ undefined_function() }}", Kind::kRuntime, 1},
      {"{% include 'x' %}", Kind::kRuntime, 1},
      {"\n{{ raise_exception('no') }}", Kind::kRaise, 2},
  };
  for (const BadCase& c : cases) {
    const Rendered got = render(c.source);
    ASSERT_FALSE(got.has_value()) << c.source;
    EXPECT_EQ(got.error().kind, c.kind) << c.source << ": " << got.error().message;
    EXPECT_EQ(got.error().line, c.line) << c.source << ": " << got.error().message;
    EXPECT_FALSE(got.error().message.empty());
  }
  EXPECT_EQ(*render("{% if false %}{{ 'a' | nope }}{% endif %}ok"), "ok");
  EXPECT_EQ(*render("{{ 'a' | nope if false else 'ok' }}"), "ok");
}

TEST(Sandbox, RefusesWhatReachesPython) {
  for (const char* source :
       {"{{ x.__class__.__mro__ }}", "{{ ''.__class__() }}", "{{ x.update({'a': 1}) }}",
        "{{ l.append(1) }}", "{{ l.clear() }}", "{{ 'a'.format_map({}) }}",
        "{{ '{0.__class__.__name__}'.format(1) }}", "{% set ns = namespace() %}{% set ns._a = 1 %}",
        "{{ namespace(_a=1) }}", "{% set x.a = 1 %}"}) {
    const Rendered got = render(source, json::parse(R"({"x": {}, "l": []})").as_object());
    ASSERT_FALSE(got.has_value()) << source << " gave " << *got;
    EXPECT_EQ(got.error().kind, Kind::kRuntime) << source;
  }
  EXPECT_EQ(*render("{{ ''.__class__ }}"), "");
  EXPECT_FALSE(render("{{ open }}{{ open('/etc/passwd') }}").has_value());
}

// Each must end with a limit error, quickly and without much memory.
TEST(Budgets, HostileTemplatesEndInALimit) {
  const std::string grow = "{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}";
  const std::string sources[] = {
      "{% for i in range(10**9) %}{% endfor %}",
      "{{ range(100001) }}",
      "{{ 'a' * 10**9 }}",
      "{{ [1] * 10**9 }}",
      "{{ 'a' * 100000000 * 100000000 }}",
      "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f() %}{{ caller is defined }}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}",
      "{% set ns = namespace(x='ab') %}" + grow,
      "{% set ns = namespace(x=[1]) %}" + grow,
      "{% set ns = namespace(x=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% "
      "endfor %}{{ ns.x }}",
      "{% set ns = namespace(x=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% "
      "endfor %}{{ ns.x | tojson }}",
      "{% set ns = namespace(x=[], y=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
      "{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
      "{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor "
      "%}{{ ns.x }}",
      "{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor "
      "%}{{ ns.x | tojson }}",
      "{% set ns = namespace(x='a') %}{% for i in range(5000) %}{% set ns.x = ns.x | map('upper') "
      "%}{% endfor %}{{ ns.x | list }}",
      "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
      "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
      "{% set s = 'a' * 1000000 %}{% for i in range(100) %}{{ s }}{% endfor %}",
      "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% set x = s.replace('a', 'bb') %}{% "
      "endfor %}",
      "{% set s = 'a' * 4000000 %}{% set t = 'a' * 2000000 + 'b' %}{% for i in range(100000) %}{{ "
      "s.rfind(t) }}{% endfor %}",
      "{{ '%1000000000d' % 1 }}",
      "{{ '{:>1000000000}'.format(1) }}",
      "{{ ('a' * 1000000) | indent(1000000000) }}",
      "{{ 'a'.center(1000000000) }}",
      "{{ [1] | batch(1000000000, 'x') | list }}",
      "{{ [1] | slice(1000000000) | list }}",
      "{{ " + repeat("(", 6000) + "1" + repeat(")", 6000) + " }}",
      "{{ " + repeat("[", 6000) + repeat("]", 6000) + " }}",
      "{{ " + repeat("not ", 6000) + "1 }}",
      "{{ " + repeat("-", 6000) + "1 }}",
      "{{ " + repeat("1 if x else ", 6000) + "1 }}",
      "{{ x" + repeat(".a", 6000) + " }}",
      "{{ x" + repeat("|upper", 6000) + " }}",
      "{{ 1" + repeat("-1", 6000) + " }}",
      repeat("{% if true %}", 5500) + repeat("{% endif %}", 5500),
      repeat("{% for i in [1] %}", 5500) + repeat("{% endfor %}", 5500),
      repeat("{{ 1 }}", 60000),
      std::string(2 << 20, 'x'),
  };
  for (const std::string& source : sources) {
    const auto start = std::chrono::steady_clock::now();
    const Rendered got = render(source);
    const auto spent = std::chrono::steady_clock::now() - start;
    ASSERT_FALSE(got.has_value()) << source.substr(0, 150);
    EXPECT_EQ(got.error().kind, Kind::kLimit)
        << source.substr(0, 150) << ": " << got.error().message;
    EXPECT_LT(spent, std::chrono::seconds(5)) << source.substr(0, 150);
  }
}

TEST(Budgets, AreTheCallers) {
  const auto loop = ChatTemplate::parse("{% for i in range(50) %}{{ 'abcd' }}{% endfor %}");
  EXPECT_TRUE(loop->render({}, {}, {}).has_value());
  EXPECT_EQ(loop->render({}, {}, {.max_steps = 40}).error().kind, Kind::kLimit);
  EXPECT_EQ(loop->render({}, {}, {.max_output_bytes = 100}).error().kind, Kind::kLimit);
  EXPECT_EQ(loop->render({}, {}, {.max_range = 49}).error().kind, Kind::kLimit);
  EXPECT_EQ(loop->render({}, {}, {.max_memory_bytes = 100}).error().kind, Kind::kLimit);
}

TEST(Budgets, LongChainsAreNotDeep) {
  EXPECT_EQ(*render("{{ 1" + repeat(" + 1", 5000) + " }}"), "5001");
  EXPECT_EQ(render("{{ ''" + repeat(" ~ 'a'", 5000) + " }}")->size(), 5000);
  EXPECT_EQ(*render("{{ false" + repeat(" or false", 5000) + " }}"), "False");
  EXPECT_EQ(*render("{% if false %}" + repeat("{% elif false %}", 5000) + "{% else %}x{% endif %}"),
            "x");
}

// A template is shared by many threads.
TEST(ChatTemplate, RendersFromManyThreads) {
  const auto parsed = ChatTemplate::parse(
      "{% macro f(x) %}{{ x | upper }}{% endmacro %}{% for i in l %}{{ f(i) }}{% endfor %}");
  const json::object context{{"l", json::array{"a", "b", "c"}}};
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) right += *parsed->render(context) == "ABC" ? 1 : 0;
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(right, 800);
}

// Broken pieces of templates: any result will do, but no crash.
TEST(Hostile, EveryPrefixOfATemplate) {
  const std::string source =
      "{%- macro f(a, b='x') -%}{{ a ~ b }}{% endmacro %}{% for k, v in {'é': [1, (2,)]}.items() "
      "recursive %}"
      "{{ loop.index }}{% raw %}{{{% endraw %}{# c -#}{{ '\\u00e9\\x41' | replace('é', "
      "\"q\")[1:-1:2] }}{% endfor %}"
      "{% set ns.x = 1e5 %}{% call(x) f(1, **{}) %}{{ not x is none }}{% endcall %}{%+ if 1 <= 2 "
      "!= 3 %}{% endif +%}";
  for (size_t n = 0; n <= source.size(); ++n) {
    render(source.substr(0, n));
    render(source.substr(n));
    std::string changed = source;
    for (const char c : {'\0', '{', '}', '%', '\'', '(', '\xff'}) {
      if (n < source.size()) changed[n] = c;
      render(changed);
    }
  }
}

}  // namespace
}  // namespace atom
