#include "atom/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

namespace atom {
namespace {

constexpr size_t kMaxPattern = 64 * 1024;
constexpr uint32_t kMatchLimit = 20'000'000;
constexpr uint32_t kHeapLimitKib = 64 * 1024;

struct MatchContextDeleter {
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
};
struct MatchDataDeleter {
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
};

// JIT code runs on this stack, not on the thread's.
struct JitStack {
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 * 1024, 16 * 1024 * 1024, nullptr);
  ~JitStack() { pcre2_jit_stack_free(stack); }
};
pcre2_jit_stack* thread_jit_stack(void*) {
  thread_local JitStack jit;
  return jit.stack;
}

// `[A&&[^B]]` (class intersection) is `(?:(?![B])[A])` to PCRE2. Only this one form is rewritten.
std::string rewrite_intersections(std::string_view pattern) {
  std::string out(pattern);
  for (size_t mid; (mid = out.find("&&[^")) != std::string::npos;) {
    const size_t open = out.rfind('[', mid);
    const size_t close = out.find("]]", mid);
    if (open == std::string::npos || close == std::string::npos) break;
    const std::string in = out.substr(open + 1, mid - open - 1);
    const std::string excluded = out.substr(mid + 4, close - mid - 4);
    out.replace(open, close + 2 - open, "(?:(?![" + excluded + "])[" + in + "])");
  }
  return out;
}

// \p{Han} is the script to Oniguruma, and the wider set of script extensions to PCRE2.
std::string rewrite_scripts(std::string pattern) {
  for (const std::string_view script : {"Han", "Hiragana", "Katakana", "Hangul", "Latin", "Greek",
                                        "Cyrillic", "Arabic", "Hebrew", "Thai", "Devanagari"}) {
    const std::string name = "{" + std::string(script) + "}";
    for (size_t at = 0; (at = pattern.find(name, at)) != std::string::npos; at += name.size()) {
      if (at >= 2 && pattern[at - 2] == '\\' && (pattern[at - 1] | 32) == 'p')
        pattern.insert(at + 1, "sc:");
    }
  }
  return pattern;
}

// x{1,3}+ takes no characters back in PCRE2 and repeats in Oniguruma.
bool has_possessive_count(std::string_view pattern) {
  for (size_t end = 0; (end = pattern.find("}+", end)) != std::string_view::npos; ++end) {
    const size_t open = pattern.rfind('{', end);
    if (open == std::string_view::npos) continue;
    const std::string_view count = pattern.substr(open + 1, end - open - 1);
    if (!count.empty() && count.find_first_not_of("0123456789,") == std::string_view::npos)
      return true;
  }
  return false;
}

}  // namespace

struct Regex::Code {
  pcre2_code* code = nullptr;
  std::unique_ptr<pcre2_match_context, MatchContextDeleter> context;
  ~Code() { pcre2_code_free(code); }
};

Regex::Regex(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

Result<Regex> Regex::compile(std::string_view pattern) {
  const std::string_view shown = pattern.substr(0, 200);
  if (pattern.size() > kMaxPattern) {
    return make_error(ErrorCode::kInvalidArgument,
                      "the regular expression \"{}...\" has {} bytes (limit {})", shown,
                      pattern.size(), kMaxPattern);
  }
  if (has_possessive_count(pattern)) {
    return make_error(
        ErrorCode::kUnsupported,
        "the regular expression \"{}\" has a + after {{n,m}}, which engines read differently",
        shown);
  }
  const std::string text = rewrite_scripts(rewrite_intersections(pattern));
  int error = 0;
  size_t offset = 0;
  auto code = std::make_unique<Code>();
  code->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                             PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_DOLLAR_ENDONLY,
                             &error, &offset, nullptr);
  if (code->code == nullptr) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    return make_error(ErrorCode::kInvalidArgument,
                      "the regular expression \"{}\" is invalid at byte {}: {}", shown, offset,
                      reinterpret_cast<const char*>(message));
  }
  pcre2_jit_compile(code->code,
                    PCRE2_JIT_COMPLETE);  // without JIT the interpreter runs: slower, same result
  code->context.reset(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(code->context.get(), kMatchLimit);
  pcre2_set_heap_limit(code->context.get(), kHeapLimitKib);
  pcre2_jit_stack_assign(code->context.get(), thread_jit_stack, nullptr);
  return Regex(std::move(code));
}

Result<Regex> Regex::literal(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    if (c == '\0') {
      pattern += "\\x00";
      continue;
    }
    if (static_cast<unsigned char>(c) < 0x80 && !std::isalnum(static_cast<unsigned char>(c)))
      pattern += '\\';
    pattern += c;
  }
  return compile(pattern);
}

bool Regex::find(std::string_view text, size_t from, Match& match) const {
  thread_local std::unique_ptr<pcre2_match_data, MatchDataDeleter> data(
      pcre2_match_data_create(1, nullptr));
  const int rc = pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                             from, PCRE2_NO_UTF_CHECK, data.get(), code_->context.get());
  if (rc < 0) return false;
  const size_t* ends = pcre2_get_ovector_pointer(data.get());
  match = {ends[0], std::max(ends[0], ends[1])};  // \K can put the start behind the end
  return true;
}

}  // namespace atom
