// Regex: a compiled search pattern on PCRE2 (JIT, UTF, Unicode properties) in the dialect of
// Oniguruma, the engine of `tokenizers`, as far as the two agree; a construct on which they differ
// is refused, not guessed. For patterns without a hand-written scanner (split_scanners.h). Matching
// is bounded: a pattern that backtracks without end stops matching instead of hanging.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "atom/core/error.h"

namespace atom {

class Regex {
 public:
  // The error names the pattern and the offset.
  static Result<Regex> compile(std::string_view pattern);
  // Matches exactly this text.
  static Result<Regex> literal(std::string_view text);
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  struct Match {
    size_t begin, end;
  };
  // Leftmost match at or after `from`. False when there is none (or the match limit was hit).
  bool find(std::string_view text, size_t from, Match& match) const;

 private:
  struct Code;
  explicit Regex(std::unique_ptr<Code> code);
  std::unique_ptr<Code> code_;
};

}  // namespace atom
