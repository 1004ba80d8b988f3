// BoundedStrings: minLength and maxLength of JSON strings, and patterns like ^[a-z]{1,80}$, by
// counting. A grammar that counts needs a state, and a mask over the whole vocabulary, for every
// character: seconds of compilation. Here the grammar has an unbounded string instead that says
// which one it is (a marker: bytes that no answer holds, as one more token behind the vocabulary),
// and the tokens that would pass the bound are taken out of the mask. A bounded string holds no
// escapes, so the characters since the last quote are its length. Not the grammar itself: that is
// the library's.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace atom {

// Both in characters; `max` is there always.
struct LengthBound {
  int64_t min = 0;
  int64_t max = 0;
  bool operator==(const LengthBound&) const = default;
};

constexpr int64_t kMaxLengthBounds = 52;  // different ones in a grammar

// The text of marker `index`: what token vocab_size + index of the library's vocabulary reads.
std::string length_marker(int64_t index);
// A regular expression of a schema for the string with that marker, of characters of `char_class`.
inline constexpr std::string_view kUnescaped = "[^\"\\\\\\x01-\\x1f]";
std::string bounded_string_pattern(int64_t index, std::string_view char_class = kUnescaped);

// What bounds need to know of the tokens. Immutable; shared by all grammars of a vocabulary.
class TokenLengths {
 public:
  explicit TokenLengths(std::span<const std::string> tokens);

  // Takes those tokens out of `mask` [(vocab_size + 31) / 32] in which a bounded string begins and
  // is too long already, or begins and ends and is too short.
  void forbid_within_token(std::span<const LengthBound> bounds, std::span<uint32_t> mask) const;
  // In a bounded string of `length` characters so far: takes out what would pass `bound`.
  void forbid_next(LengthBound bound, int64_t length, std::span<uint32_t> mask) const;

 private:
  struct Quoted {  // a token with a quote
    int32_t id = 0;
    int64_t before = 0;          // characters before its first quote
    int64_t longest_after = 0;   // characters between two of its quotes or after the last
    int64_t shortest_whole = 0;  // between two quotes; large when it has only one
  };
  struct Sized {
    int32_t id = 0;
    int64_t before = 0;
  };
  std::vector<Quoted> quoted_;
  std::vector<Sized> by_length_;  // every token that is not empty; the longest `before` first
};

// Where a text stands in its string, if it is in one.
struct StringPosition {
  int64_t length = 0;  // characters since the last quote
  int missing = 0;     // bytes of the last one
  void follow(std::string_view token);
};

// What fits whichever of `bounds` holds.
LengthBound tightest(std::span<const LengthBound> bounds);

}  // namespace atom
