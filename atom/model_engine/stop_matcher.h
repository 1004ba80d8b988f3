// StopMatcher: finds the first stop string in a text that arrives in pieces, in linear time, and
// holds back exactly what may still become one. The result does not depend on how the text is cut.
// Knows nothing of tokens. One object per choice, output thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace atom {

// The compiled stop strings of one request, shared by its choices. Empty strings are ignored.
class StopStrings {
 public:
  explicit StopStrings(const std::vector<std::string>& strings);
  bool empty() const { return patterns_.empty(); }

 private:
  friend class StopMatcher;
  struct Pattern {
    std::string text;
    std::vector<uint32_t> failure;  // Knuth-Morris-Pratt: longest border of text[0, i]
  };
  std::vector<Pattern> patterns_;
};

class StopMatcher {
 public:
  explicit StopMatcher(std::shared_ptr<const StopStrings> strings);

  // Appends to `out` what became certain. True when a stop string was completed: `out` then ends
  // before it (after it with `include_stop`), the rest of `text` is dropped and no further call is
  // allowed. Of several that end at the same byte the longest wins.
  bool append(std::string_view text, bool include_stop, std::string& out);
  // The text is over: what was held back is plain text.
  void flush(std::string& out);
  const std::string& matched() const { return strings_->patterns_[matched_].text; }

 private:
  void give_out(size_t end, std::string& out);  // held_ up to `end`

  std::shared_ptr<const StopStrings> strings_;
  std::vector<uint32_t> states_;  // characters matched, per pattern
  // From held_begin_ on: the longest suffix of the text that begins a stop string. What is before
  // was given out, and is cut off now and then, so that a long hold-back costs no copy per call.
  std::string held_;
  size_t held_begin_ = 0;
  size_t matched_ = 0;
};

}  // namespace atom
