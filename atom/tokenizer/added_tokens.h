// AddedTokens: the tokens that are found in the text itself, before it is cut into words (special
// tokens and user-defined ones). Leftmost-longest, raw text first (normalized = false), then
// normalised text. Time is linear in the text times the longest token. Not the vocabulary of the
// model.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "atom/core/error.h"

namespace atom {

struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool single_word = false;  // only between characters that are not of words
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;
  bool normalized = false;  // looked for in the normalised text, in its normalised form
  bool special = false;
};

// Leftmost-longest search for a set of strings: a trie whose nodes live in one array.
class TokenMatcher {
 public:
  void add(std::string_view text, int32_t value);
  bool empty() const { return nodes_.size() <= 1; }
  // The longest string of the set that starts at text[at]: its value and length, or {-1, 0}.
  struct Hit {
    int32_t value = -1;
    size_t length = 0;
  };
  Hit match_at(std::string_view text, size_t at) const;
  // First position >= from where some string of the set may start; text.size() when there is none.
  size_t next_candidate(std::string_view text, size_t from) const;

 private:
  struct Node {
    int32_t value = -1;
    int32_t first_child = -1;
    int32_t sibling = -1;
    uint8_t byte = 0;
  };
  int32_t child(int32_t node, uint8_t byte) const;

  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::vector<int32_t> root_ = std::vector<int32_t>(256, -1);
  std::string first_bytes_;
};

class AddedTokens {
 public:
  // `normalized_content` is what `content` becomes under the normaliser. Errors: content already
  // present with another id, id already present with another content.
  Status add(AddedToken token, std::string_view normalized_content);

  struct Part {
    int32_t token;  // index into tokens(), or -1: text between tokens
    size_t begin, end;
  };
  // Cuts `text` at the tokens with this value of `normalized`.
  void split(std::string_view text, bool normalized, std::vector<Part>& parts) const;
  bool any(bool normalized) const { return !matchers_[normalized].empty(); }

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  // nullptr when this id, or text, is no added token.
  const AddedToken* by_id(int32_t id) const;
  const AddedToken* by_content(std::string_view content) const;

 private:
  std::vector<AddedToken> tokens_;
  std::unordered_map<int32_t, size_t> by_id_;
  std::unordered_map<std::string, size_t> by_content_;
  TokenMatcher matchers_[2];
};

}  // namespace atom
