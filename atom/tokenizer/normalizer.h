// Normalizer: rewrites text before it is cut into words. A chain of steps, as in tokenizer.json.
// To add a step: a struct in NormStep, its branch in normalizer.cpp, its reader in tokenizer_json.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "atom/core/error.h"
#include "atom/tokenizer/regex.h"

namespace atom {

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

struct UnicodeStep {
  UnicodeForm form = UnicodeForm::kNfc;
};
struct PrependStep {
  std::string text;  // put in front unless the text is empty
};
struct ReplaceStep {
  std::string literal;  // used when there is no regex
  std::optional<Regex> regex;
  std::string content;
};
struct StripStep {
  bool left = true;
  bool right = true;
};
using NormStep = std::variant<UnicodeStep, PrependStep, ReplaceStep, StripStep>;

class Normalizer {
 public:
  void add(NormStep step);
  bool empty() const { return steps_.empty(); }
  // The normalised text: `text` itself when nothing changes, else a view of `buffer`.
  std::string_view run(std::string_view text, std::string& buffer) const;

 private:
  std::vector<NormStep> steps_;
};

// True when `text` is certainly in normal form C already (quick check; false may be a false alarm).
bool is_certainly_nfc(std::string_view text);

// Bytes of white space (Unicode White_Space) at the front and at the end of `text`.
size_t leading_space(std::string_view text);
size_t trailing_space(std::string_view text);

}  // namespace atom
