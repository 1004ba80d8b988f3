#include "atom/tokenizer/added_tokens.h"

#include <algorithm>
#include <cstring>

#include "atom/tokenizer/normalizer.h"
#include "atom/tokenizer/unicode.h"

namespace atom {

int32_t TokenMatcher::child(int32_t node, uint8_t byte) const {
  if (node == 0) return root_[byte];
  for (int32_t n = nodes_[node].first_child; n >= 0; n = nodes_[n].sibling) {
    if (nodes_[n].byte == byte) return n;
  }
  return -1;
}

void TokenMatcher::add(std::string_view text, int32_t value) {
  if (text.empty()) return;
  int32_t node = 0;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    int32_t next = child(node, byte);
    if (next < 0) {
      next = static_cast<int32_t>(nodes_.size());
      nodes_.push_back({.sibling = node == 0 ? -1 : nodes_[node].first_child, .byte = byte});
      if (node == 0) {
        root_[byte] = next;
        first_bytes_ += c;
      } else {
        nodes_[node].first_child = next;
      }
    }
    node = next;
  }
  nodes_[node].value = value;
}

TokenMatcher::Hit TokenMatcher::match_at(std::string_view text, size_t at) const {
  Hit hit;
  int32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    node = child(node, static_cast<uint8_t>(text[i]));
    if (node < 0) break;
    if (nodes_[node].value >= 0) hit = {nodes_[node].value, i + 1 - at};
  }
  return hit;
}

size_t TokenMatcher::next_candidate(std::string_view text, size_t from) const {
  if (from >= text.size()) return text.size();
  if (first_bytes_.size() == 1) {
    const void* p = std::memchr(text.data() + from, first_bytes_[0], text.size() - from);
    return p ? static_cast<const char*>(p) - text.data() : text.size();
  }
  while (from < text.size() && root_[static_cast<uint8_t>(text[from])] < 0) ++from;
  return from;
}

Status AddedTokens::add(AddedToken token, std::string_view normalized_content) {
  if (token.content.empty()) return {};
  if (const AddedToken* same = by_content(token.content)) {
    if (same->id == token.id) return {};
    return make_error(ErrorCode::kInvalidArgument, "added token \"{}\" has two ids, {} and {}",
                      token.content.substr(0, 100), same->id, token.id);
  }
  if (const AddedToken* same = by_id(token.id)) {
    return make_error(ErrorCode::kInvalidArgument,
                      "added tokens \"{}\" and \"{}\" have the same id {}",
                      same->content.substr(0, 100), token.content.substr(0, 100), token.id);
  }
  const size_t index = tokens_.size();
  by_id_[token.id] = index;
  by_content_[token.content] = index;
  matchers_[token.normalized].add(token.normalized ? normalized_content : token.content,
                                  static_cast<int32_t>(index));
  tokens_.push_back(std::move(token));
  return {};
}

const AddedToken* AddedTokens::by_id(int32_t id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &tokens_[it->second];
}

const AddedToken* AddedTokens::by_content(std::string_view content) const {
  const auto it = by_content_.find(std::string(content));
  return it == by_content_.end() ? nullptr : &tokens_[it->second];
}

namespace {

bool is_word_char(char32_t c) {
  return c == '_' || contains(kCharL | kCharM | kCharN, char_class(c));
}
bool starts_with_word(std::string_view text) {
  return !text.empty() && is_word_char(decode_utf8(text.data()).value);
}
bool ends_with_word(std::string_view text) {
  if (text.empty()) return false;
  size_t i = text.size() - 1;
  while (i > 0 && (text[i] & 0xC0) == 0x80) --i;
  return is_word_char(decode_utf8(text.data() + i).value);
}

}  // namespace

void AddedTokens::split(std::string_view text, bool normalized, std::vector<Part>& parts) const {
  const TokenMatcher& matcher = matchers_[normalized];
  size_t done = 0;
  size_t at = matcher.empty() ? text.size() : matcher.next_candidate(text, 0);
  while (at < text.size()) {
    const TokenMatcher::Hit hit = matcher.match_at(text, at);
    if (hit.value < 0) {
      at = matcher.next_candidate(text, at + 1);
      continue;
    }
    const AddedToken& token = tokens_[hit.value];
    size_t begin = at, end = at + hit.length;
    at = matcher.next_candidate(text, end);
    if (token.single_word &&
        (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) {
      continue;
    }
    if (token.lstrip) begin = std::max(begin - trailing_space(text.substr(0, begin)), done);
    if (token.rstrip) end += leading_space(text.substr(end));
    if (done < begin) parts.push_back({-1, done, begin});
    parts.push_back({hit.value, begin, end});
    done = end;
  }
  if (done < text.size()) parts.push_back({-1, done, text.size()});
}

}  // namespace atom
