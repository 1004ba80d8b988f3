// Structured output at the size of a real vocabulary: what compiling a grammar costs, what a step
// of its matcher costs, and what hostile texts cost until they are refused.
//   grammar_benchmark TOKENIZER_FOLDER [VOCAB_SIZE] [STEPS]
// Times are CPU times. Prints one Markdown row per grammar. Steps follow a random walk over the
// allowed tokens.
#include <sys/resource.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "atom/structured_output/grammar_compiler.h"
#include "atom/tokenizer/tokenizer.h"

namespace {

using atom::GrammarSpec;
using Kind = GrammarSpec::Kind;

// CPU time of the process: the same on a busy machine.
double now_ms() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return 1e3 * static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_nsec);
}
double ms_since(double start) { return now_ms() - start; }

std::string repeat(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) {
    out += text;
  }
  return out;
}

template <class Make>
std::string join(int count, Make make) {
  std::string out;
  for (int i = 0; i < count; ++i) {
    out += (i > 0 ? "," : "") + make(std::to_string(i));
  }
  return out;
}

struct Case {
  const char* name;
  Kind kind;
  std::string text;
};

std::vector<Case> typical_cases() {
  return {
      {"json_object", Kind::kJsonObject, ""},
      {"flat object, 3 fields", Kind::kJsonSchema,
       R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"},
       "ok":{"type":"boolean"}},"required":["name","age","ok"]})"},
      {"nested, arrays, enum, anyOf, $ref", Kind::kJsonSchema,
       R"({"type":"object","properties":{"title":{"type":"string","maxLength":80},"tags":{"type":"array",
       "items":{"type":"string"},"maxItems":8},"state":{"enum":["open","closed","merged"]},
       "owner":{"$ref":"#/$defs/person"},"due":{"anyOf":[{"type":"string","format":"date"},
       {"type":"null"}]},"score":{"type":"number"}},"required":["title","tags","state","owner"],
       "$defs":{"person":{"type":"object","properties":{"name":{"type":"string"},"friends":{"type":
       "array","items":{"$ref":"#/$defs/person"}}},"required":["name"]}}})"},
      {"maxLength 20", Kind::kJsonSchema, R"({"type":"string","maxLength":20})"},
      {"maxLength 80", Kind::kJsonSchema, R"({"type":"string","maxLength":80})"},
      {"maxLength 300", Kind::kJsonSchema, R"({"type":"string","maxLength":300})"},
      {"maxItems 8", Kind::kJsonSchema,
       R"({"type":"array","items":{"type":"string"},"maxItems":8})"},
      {"anyOf date", Kind::kJsonSchema,
       R"({"anyOf":[{"type":"string","format":"date"},{"type":"null"}]})"},
      {"recursive ref", Kind::kJsonSchema, R"({"$ref":"#/$defs/person",
       "$defs":{"person":{"type":"object","properties":{"name":{"type":"string"},"friends":{"type":
       "array","items":{"$ref":"#/$defs/person"}}},"required":["name"]}}})"},
      {"object of 40 fields", Kind::kJsonSchema,
       R"({"type":"object","properties":{)" +
           join(40,
                [](const std::string& i) { return "\"field_" + i + "\":{\"type\":\"string\"}"; }) +
           R"(},"required":[)" +
           join(40, [](const std::string& i) { return "\"field_" + i + "\""; }) + "]}"},
      {"pattern", Kind::kJsonSchema,
       R"({"type":"object","properties":{"mail":{"type":"string",
       "pattern":"^[a-z0-9._]+@[a-z0-9]+\\.[a-z]{2,6}$"}},"required":["mail"]})"},
      {"pattern of any text", Kind::kJsonSchema, R"({"type":"string","pattern":"^.*$"})"},
      {"pattern .{1,80}", Kind::kJsonSchema, R"({"type":"string","pattern":"^.{1,80}$"})"},
      {"pattern .{1,500}", Kind::kJsonSchema, R"({"type":"string","pattern":"^.{1,500}$"})"},
      {"pattern of quotes", Kind::kJsonSchema,
       R"({"type":"string","pattern":"^\"[^\"]{1,80}\"$"})"},
      {"pattern [A-Z].{1,500}", Kind::kJsonSchema,
       R"({"type":"string","pattern":"^[A-Z].{1,500}$"})"},
      {"pattern [a-z]{1,80}", Kind::kJsonSchema, R"({"type":"string","pattern":"^[a-z]{1,80}$"})"},
      {"choice of 4", Kind::kChoice, R"(["red","green","blue","something else"])"},
      {"regex", Kind::kRegex, R"((\d{1,3}\.){3}\d{1,3})"},
      {"EBNF arithmetic", Kind::kGrammar,
       "root ::= term (\" + \" term)*\nterm ::= [0-9]+ | \"(\" root \")\"\n"},
  };
}

std::vector<Case> hostile_cases() {
  const auto rules = [](const std::string& i) {
    return "\"r" + i + "\":{\"$ref\":\"#/$defs/r" + std::to_string(std::stoi(i) + 1) + "\"}";
  };
  std::string chain = "root ::= a0\n";
  for (int i = 0; i < 4000; ++i) {
    chain += "a" + std::to_string(i) + " ::= a" + std::to_string(i + 1) + "\n";
  }
  chain += "a4000 ::= \"x\"\n";
  return {
      {"enum of 4,000", Kind::kJsonSchema,
       "{\"enum\":[" + join(4000, [](const std::string& i) { return "\"value" + i + "\""; }) +
           "]}"},
      {"choice of 6,000", Kind::kChoice,
       "[" + join(6000, [](const std::string& i) { return "\"ab" + i + "\""; }) + "]"},
      {"anyOf of 1,200 objects", Kind::kJsonSchema,
       "{\"anyOf\":[" +
           join(1200,
                [](const std::string& i) {
                  return "{\"type\":\"object\",\"properties\":{\"" + i + "\":{}}}";
                }) +
           "]}"},
      {"2,000 optional properties", Kind::kJsonSchema,
       "{\"type\":\"object\",\"properties\":{" +
           join(2000,
                [](const std::string& i) { return "\"p" + i + "\":{\"type\":\"integer\"}"; }) +
           "}}"},
      {"60 nested arrays", Kind::kJsonSchema,
       repeat(R"({"type":"array","items":)", 60) + "{}" + repeat("}", 60)},
      {"depth 1,000", Kind::kJsonSchema,
       repeat(R"({"type":"array","items":)", 1000) + "{}" + repeat("}", 1000)},
      {"$ref to itself", Kind::kJsonSchema, R"({"$ref":"#"})"},
      {"$ref loop", Kind::kJsonSchema,
       R"({"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"})"},
      {"$ref chain of 1,000", Kind::kJsonSchema,
       "{\"$defs\":{" + join(1000, rules) +
           ",\"r1000\":{\"type\":\"null\"}},\"$ref\":\"#/$defs/r0\"}"},
      {"recursive tree", Kind::kJsonSchema,
       R"({"type":"object","properties":{"l":{"$ref":"#"},"r":{"$ref":"#"}}})"},
      {"maxItems 1e9", Kind::kJsonSchema, R"({"type":"array","maxItems":1000000000})"},
      {"minItems 60,000", Kind::kJsonSchema,
       R"({"type":"array","items":{"type":"string"},"minItems":60000,"maxItems":65000})"},
      {"maxLength 65,536", Kind::kJsonSchema,
       R"({"type":"string","minLength":65000,"maxLength":65536})"},
      {"pattern {0,65000}", Kind::kJsonSchema, R"({"type":"string","pattern":"^[a-z]{0,65000}$"})"},
      {"regex {0,65000}", Kind::kRegex, "[a-z]{0,65000}"},
      {"regex ((a{0,200}){0,200}){0,200}", Kind::kRegex, "((a{0,200}){0,200}){0,200}"},
      {"regex (x+x+)+y", Kind::kRegex, "(x+x+)+y"},
      {"regex (a|aa)+ ambiguous", Kind::kRegex, "((a|aa)+)+b"},
      {"regex (.*a){24}", Kind::kRegex, "(.*a){24}"},
      {"regex [ab]*a[ab]{40}", Kind::kRegex, "[ab]*a[ab]{40}"},
      {"regex of 1,900 bytes, alternatives", Kind::kRegex, repeat("(ab|cd)?|", 210) + "x"},
      {"regex ^+[a-z]$", Kind::kRegex, "^+[a-z]$"},
      {"regex lookahead", Kind::kRegex, "(?=x)x"},
      {"regex 64 groups of {0,99}", Kind::kRegex, repeat("(a{0,99}b?){0,99}", 60)},
      {"EBNF rule chain of 4,000", Kind::kGrammar, chain},
      {"EBNF left recursion", Kind::kGrammar, "root ::= root \"a\" | \"a\""},
      {"EBNF empty loop", Kind::kGrammar,
       "root ::= a a a a\na ::= b* c*\nb ::= c*\nc ::= \"\" | b"},
      {"EBNF S = S S S | a | empty", Kind::kGrammar, "root ::= root root root | \"a\" | \"\""},
      {"EBNF of 60,000 alternatives", Kind::kGrammar, "root ::= \"a\"" + repeat("|\"b\"", 16000)},
      {"EBNF nested repeats", Kind::kGrammar, "root ::= ((([a-z]{1,50}){1,50}){1,50}){1,50}"},
      {"endless only", Kind::kGrammar, "root ::= \"a\" root"},
      {"nothing matches", Kind::kJsonSchema, R"({"type":"string","minLength":5,"maxLength":2})"},
      {"false", Kind::kJsonSchema, "false"},
      {"32 patterns", Kind::kJsonSchema,
       "{\"type\":\"object\",\"properties\":{" +
           join(32,
                [](const std::string& i) {
                  return "\"p" + i + "\":{\"type\":\"string\",\"pattern\":\"^([a-z]+[0-9]*)+x" + i +
                         "$\"}";
                }) +
           "}}"},
  };
}

struct Walk {
  int64_t steps = 0;
  double mean = 0, p99 = 0, max = 0;  // microseconds
  std::string error;
};

Walk walk(const std::shared_ptr<const atom::CompiledGrammar>& grammar, int64_t steps,
          double& first) {
  Walk out;
  std::mt19937_64 random(1);
  std::vector<double> times;
  const auto begin = now_ms();
  atom::GrammarMatcher matcher(grammar);
  atom::Status status = matcher.start();
  first = ms_since(begin);
  while (status && out.steps < steps) {
    std::vector<int32_t> allowed;
    for (size_t word = 0; word < matcher.mask().size(); ++word) {
      for (uint32_t bits = matcher.mask()[word]; bits != 0; bits &= bits - 1) {
        allowed.push_back(static_cast<int32_t>(word * 32) + std::countr_zero(bits));
      }
    }
    if (allowed.empty() || matcher.terminated()) {
      matcher = atom::GrammarMatcher(grammar);
      status = matcher.start();
      continue;
    }
    const int32_t token = allowed[random() % allowed.size()];
    const auto start = now_ms();
    status = matcher.advance(token);
    times.push_back(1000 * ms_since(start));
    ++out.steps;
  }
  if (!status) {
    out.error = status.error().message;
  }
  if (!times.empty()) {
    std::ranges::sort(times);
    for (const double time : times) {
      out.mean += time / static_cast<double>(times.size());
    }
    out.p99 = times[times.size() * 99 / 100];
    out.max = times.back();
  }
  return out;
}

void print(const Case& row, atom::GrammarCompiler& compiler, int64_t steps) {
  const int64_t before = compiler.stats().live_bytes;
  const auto start = now_ms();
  const auto grammar = compiler.compile({.kind = row.kind, .text = row.text});
  const double compile = ms_since(start);
  if (!grammar) {
    std::printf("| %s | %.1f | | | | | | %s |\n", row.name, compile,
                grammar.error().message.c_str());
    return;
  }
  double first = 0;
  const int64_t bytes = compiler.stats().live_bytes - before;
  const Walk result = walk(*grammar, steps, first);
  std::printf("| %s | %.1f | %.2f | %.2f | %.0f | %.0f | %.0f | %s%lld steps |\n", row.name,
              compile, static_cast<double>(bytes) / 1048576, first, result.mean, result.p99,
              result.max, result.error.empty() ? "" : (result.error + " after ").c_str(),
              static_cast<long long>(result.steps));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: grammar_benchmark TOKENIZER_FOLDER [VOCAB_SIZE] [STEPS]\n");
    return 2;
  }
  const auto tokenizer = atom::Tokenizer::from_directory(argv[1]);
  if (!tokenizer) {
    std::fprintf(stderr, "%s\n", tokenizer.error().message.c_str());
    return 1;
  }
  const int64_t vocab_size = argc > 2 ? std::atoll(argv[2]) : (*tokenizer)->vocab_size();
  const int64_t steps = argc > 3 ? std::atoll(argv[3]) : 1000;
  std::vector<int32_t> stop;
  if (const auto eos = (*tokenizer)->token_to_id((*tokenizer)->eos_token())) {
    stop.push_back(*eos);
  }
  atom::GrammarCompiler compiler(*tokenizer, vocab_size, stop);
  const auto start = now_ms();
  if (!compiler.compile({.kind = Kind::kRegex, .text = "a"})) {
    return 1;
  }
  std::printf("vocabulary of %lld tokens: %.0f ms for the first grammar\n\n",
              static_cast<long long>(vocab_size), ms_since(start));
  std::printf(
      "| Grammar | compile ms | MiB | first mask ms | step mean us | p99 | max | outcome |\n");
  std::printf("|---|---:|---:|---:|---:|---:|---:|---|\n");
  for (const Case& row : typical_cases()) {
    print(row, compiler, steps);
  }
  for (const Case& row : hostile_cases()) {
    std::fflush(stdout);
    print(row, compiler, steps);
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf("\npeak resident memory: %ld MiB\n", usage.ru_maxrss / 1024);
  return 0;
}
