// What a request may demand of its text, through every check and the grammar library. A refusal is
// one clean line, the same when asked again; time and memory stay within the limits; a text drawn
// from the masks is never stuck for a reason of our own, and a finished one is JSON or one of the
// choices. Bits of the first byte: three for the kind, exact, any whitespace; the next seeds the
// walk.
#include <time.h>

#include <bit>
#include <boost/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "atom/structured_output/grammar_compiler.h"
#include "tests/fuzz/check.h"
#include "tests/support/byte_tokenizer.h"

namespace {

using namespace atom;
using Kind = GrammarSpec::Kind;
using testing_support::kByteEos;

// Small, so that an input takes milliseconds; sanitizers make everything ten times as slow.
constexpr GrammarLimits kLimits = {.compile_seconds = 0.25,
                                   .compile_bytes = 48 << 20,
                                   .cache_bytes = 4 << 20,
                                   .total_bytes = 64 << 20,
                                   .matcher_seconds = 0.25,
                                   .matcher_bytes = 8 << 20};
// Work between two looks at the clock, and what frees memory after the end.
constexpr double kGraceSeconds = 4;
constexpr int kMaxTokens = 160;

double process_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

GrammarCompiler& compiler() {
  static GrammarCompiler instance(testing_support::make_byte_tokenizer(),
                                  testing_support::kByteVocabSize, {kByteEos}, kLimits);
  return instance;
}

// The budgets must be in force in this build too: a sanitizer brings its own operator new.
bool budgets_work() {
  GrammarLimits tiny = kLimits;
  tiny.compile_bytes = 4096;
  GrammarCompiler bounded(testing_support::make_byte_tokenizer(), testing_support::kByteVocabSize,
                          {kByteEos}, tiny);
  return !bounded.compile({.kind = Kind::kRegex, .text = "[a-z]{1,50}"});
}

std::vector<int32_t> allowed(const GrammarMatcher& matcher) {
  std::vector<int32_t> out;
  for (size_t word = 0; word < matcher.mask().size(); ++word) {
    for (uint32_t bits = matcher.mask()[word]; bits != 0; bits &= bits - 1) {
      out.push_back(static_cast<int32_t>(word * 32) + std::countr_zero(bits));
    }
  }
  return out;
}

void check_error(const Error& error) {
  FUZZ_CHECK(error.code == ErrorCode::kInvalidArgument ||
             error.code == ErrorCode::kResourceExhausted);
  FUZZ_CHECK(fuzz::is_clean_message(error.message, 400));
}

void check_text(const GrammarSpec& spec, const std::string& bytes) {
  const std::string text = fuzz::well_formed(bytes);  // as a client sees it
  if (spec.kind == Kind::kChoice) {
    bool found = false;
    const boost::json::value choices = boost::json::parse(spec.text);
    for (const boost::json::value& choice : choices.get_array()) {
      found = found || choice.get_string() == bytes;
    }
    FUZZ_CHECK(found);
  }
  if (spec.kind == Kind::kJsonObject || spec.kind == Kind::kJsonSchema) {
    boost::system::error_code failure;
    boost::json::parse_options options;
    options.max_depth = 2 * kMaxTokens;
    const boost::json::value value = boost::json::parse(text, failure, {}, options);
    FUZZ_CHECK(!failure || failure == boost::json::error::exponent_overflow);
    if (spec.kind == Kind::kJsonObject && !failure) FUZZ_CHECK(value.is_object());
  }
}

void walk(const GrammarSpec& spec, const std::shared_ptr<const CompiledGrammar>& grammar,
          uint64_t seed) {
  std::mt19937_64 random(seed);
  GrammarMatcher matcher(grammar);
  Status status = matcher.start();
  std::string text;
  for (int step = 0; status && step < kMaxTokens && !matcher.terminated(); ++step) {
    const std::vector<int32_t> ids = allowed(matcher);
    FUZZ_CHECK(!ids.empty());
    // The end and closing characters more often than chance, so that walks end.
    int32_t next = ids[random() % ids.size()];
    for (const int32_t id : ids) {
      FUZZ_CHECK(id < 256 || id == kByteEos);
      const bool closes = id == '"' || id == ']' || id == '}' || id == kByteEos;
      if (closes && random() % 4 == 0) next = id;
    }
    if (next != kByteEos) text += static_cast<char>(next);
    status = matcher.advance(next);
  }
  if (!status) return check_error(status.error());
  if (!matcher.terminated()) return;
  FUZZ_CHECK(allowed(matcher).empty());
  check_text(spec, text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const bool bounded = budgets_work();
  FUZZ_CHECK(bounded);
  if (size < 2 || size > 16384) return 0;
  const GrammarSpec spec{.kind = static_cast<Kind>((data[0] & 7) % 6),
                         .text = {reinterpret_cast<const char*>(data) + 2, size - 2},
                         .exact = (data[0] & 8) == 0,
                         .any_whitespace = (data[0] & 16) == 0,
                         .param = "field"};
  const double started = process_seconds();
  const auto grammar = compiler().compile(spec);
  FUZZ_CHECK(process_seconds() - started < kLimits.compile_seconds + kGraceSeconds);
  FUZZ_CHECK(compiler().stats().cached_bytes <= kLimits.cache_bytes);
  FUZZ_CHECK(compiler().stats().live_bytes <= kLimits.total_bytes);
  if (!grammar) {
    check_error(grammar.error());
    FUZZ_CHECK(grammar.error().param == "field");
    const auto again = compiler().compile(spec);
    FUZZ_CHECK(!again && again.error().message == grammar.error().message);
    return 0;
  }
  walk(spec, *grammar, data[1]);
  return 0;
}
