// Structured output: GrammarCompiler turns what a request demands of its text (GrammarSpec) into a
// CompiledGrammar for one vocabulary; a GrammarMatcher follows one sequence through it and says
// which tokens may come next. The grammars themselves are the xgrammar library's; this room bounds
// what it may cost and never lets its exceptions out. Built without the library
// (ATOM_WITH_XGRAMMAR=OFF), compile() refuses every spec. Nothing here knows requests or logits.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "atom/core/error.h"
#include "atom/structured_output/grammar_spec.h"
#include "atom/tokenizer/tokenizer.h"

namespace atom {

// Limits of one grammar and of all of them together. README.md says what each is measured against.
struct GrammarLimits {
  int64_t max_text_bytes = 64 << 10;  // schema, grammar, list of choices
  int64_t max_regex_bytes = 2 << 10;  // a regular expression, also inside a schema
  int64_t max_depth = 64;             // nesting
  int64_t max_repetitions = 1 << 16;  // {m,n}, minLength, maxItems, ...
  int64_t max_patterns = 64;          // regular expressions in one schema
  double compile_seconds = 1;         // CPU time
  int64_t compile_bytes = 128 << 20;  // working memory and result of one compilation
  int64_t cache_bytes = 128 << 20;    // compiled grammars kept for later requests
  int64_t total_bytes = 512 << 20;    // compiled grammars alive, in the cache or in use
  // Time that one sequence may spend in its matcher: what it starts with, and what a token adds.
  double matcher_seconds = 0.1;
  double matcher_seconds_per_token = 0.004;
  int64_t matcher_bytes = 16 << 20;  // that one call may add
};

// CPU time that the matchers of one step may take together, so that no grammar holds up the step of
// everyone else. A call has `seconds_each` whatever the others do, and at most half of what
// `seconds_left` still holds: the calls after an expensive one find something too.
struct GrammarStepBudget {
  double seconds_each = 0.0005;
  double seconds_left = 0.02;
  double seconds_spent = 0;  // so far, by all
};

// Immutable; shared by every sequence that uses it.
class CompiledGrammar;

class GrammarCompiler {
 public:
  // `tokenizer` gives the bytes of every token, `vocab_size` is the width of the logits;
  // `stop_token_ids` (EOS) may end the text where the grammar may end.
  GrammarCompiler(std::shared_ptr<const Tokenizer> tokenizer, int64_t vocab_size,
                  std::vector<int32_t> stop_token_ids, GrammarLimits limits = {});
  ~GrammarCompiler();
  GrammarCompiler(const GrammarCompiler&) = delete;
  GrammarCompiler& operator=(const GrammarCompiler&) = delete;

  // Thread-safe; may take limits.compile_seconds of CPU time, and one compilation runs at a time.
  // kInvalidArgument with the reason (and spec.param) for a text that cannot be compiled exactly.
  // `seconds_left`: what it may take instead; what it took is subtracted.
  Result<std::shared_ptr<const CompiledGrammar>> compile(const GrammarSpec& spec,
                                                         double* seconds_left = nullptr);
  // Only what is compiled already; nullptr otherwise. Never waits for a compilation.
  std::shared_ptr<const CompiledGrammar> find(const GrammarSpec& spec);

  struct Stats {
    int64_t num_cached = 0;
    int64_t cached_bytes = 0;
    int64_t live_bytes = 0;  // cached or in use
    int64_t hits = 0;
    int64_t misses = 0;
    int64_t refused = 0;
  };
  Stats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Follows one sequence. One thread at a time. Copies are independent.
class GrammarMatcher {
 public:
  explicit GrammarMatcher(std::shared_ptr<const CompiledGrammar> grammar);
  ~GrammarMatcher();
  GrammarMatcher(GrammarMatcher&&) noexcept;
  GrammarMatcher& operator=(GrammarMatcher&&) noexcept;

  // Bit t % 32 of word t / 32 is set where token t may come next; mask [(vocab_size + 31) / 32].
  // Computed by advance() and start(); all zero once terminated.
  std::span<const uint32_t> mask() const;
  // The mask of the first token. Errors are advance()'s.
  Status start();
  // Moves on by a token that mask() allowed and computes the next mask. kResourceExhausted: this
  // grammar costs more time or memory than a sequence has, or more time than `step` (which may be
  // null) leaves to it. After an error the matcher is dead.
  Status advance(int32_t token_id, GrammarStepBudget* step = nullptr);
  // The text is complete and nothing may follow.
  bool terminated() const;
  // May any token follow that is not one of `ids`?
  bool allows_other_than(std::span<const int32_t> ids) const;
  // A copy at the same place, for the other choices of a request.
  GrammarMatcher fork() const;

 private:
  struct Impl;
  explicit GrammarMatcher(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace atom
