// PreTokenizer: cuts normalised text into the words that the model encodes one by one. A chain of
// stages, each refining the words of the one before. Immutable; callers bring a WordList each. To
// add a stage: a struct in PreStage, its branch in apply(), its reader in tokenizer_json.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "atom/tokenizer/regex.h"
#include "atom/tokenizer/split_scanners.h"
#include "atom/tokenizer/unicode.h"

namespace atom {

// Words in order, as pieces of `text`; stages that change the text use `buffer`.
struct WordList {
  struct Span {
    size_t begin, end;
  };
  std::string_view text;
  std::vector<Span> words;
  bool at_start = true;  // `text` begins where the whole input begins

  std::string_view word(const Span& s) const { return text.substr(s.begin, s.end - s.begin); }

  std::string buffer[2];  // working memory of the stages
  std::vector<Span> scratch;
  std::vector<Span> matches;
};

enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// Cuts at the matches of a pattern.
struct SplitStage {
  Scanner scanner = nullptr;  // preferred
  std::optional<Regex> regex;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;
};
// Cuts at characters of a set.
struct CharSplitStage {
  CharSet set = 0;
  SplitBehavior behavior = SplitBehavior::kIsolated;
};
// A space in front of every word that has none.
struct PrefixSpaceStage {};
struct MetaspaceStage {
  enum class Prepend { kNever, kFirst, kAlways };
  std::string replacement = "\xE2\x96\x81";
  Prepend prepend = Prepend::kAlways;
  bool split = true;
};
using PreStage = std::variant<SplitStage, CharSplitStage, PrefixSpaceStage, MetaspaceStage>;

class PreTokenizer {
 public:
  void add(PreStage stage);
  bool empty() const { return stages_.empty(); }
  // Fills list.words for `text`. `list.text` may point into list.buffer afterwards.
  void run(std::string_view text, bool at_start, WordList& list) const;

 private:
  std::vector<PreStage> stages_;
};

}  // namespace atom
