// SeamTable: where a word may be cut before byte-pair encoding without changing the result. No
// merge can join two characters that stand next to each other in no token, so such a place is a
// seam. Short pieces between seams repeat far more often than whole words do (Chinese, or
// SentencePiece text, which is one word), so the word cache and short merges do most of the work.
// Never wrong, sometimes unaware of a seam.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "atom/tokenizer/hash.h"

namespace atom {

class SeamTable {
 public:
  void add_token(std::string_view bytes);

  // `left` and `right` are neighbouring whole characters of well-formed UTF-8.
  bool is_seam(std::string_view left, std::string_view right) const {
    if (test(pack(left), pack(right))) return false;
    const size_t coarse = coarse_index(left.back(), right.front());
    if (((partial_[coarse / 64] >> (coarse % 64)) & 1) == 0) return true;
    return !crossed_by_part(left, right);
  }

 private:
  static constexpr int kBits = 20;

  static uint32_t pack(std::string_view c) {
    uint32_t value = 0;
    for (size_t i = 0; i < c.size(); ++i) value |= uint32_t{static_cast<uint8_t>(c[i])} << (8 * i);
    return value;
  }
  static size_t bit_of(uint32_t left, uint32_t right) {
    return ((uint64_t{left} << 32 | right) * 0x9E3779B97F4A7C15u) >> (64 - kBits);
  }
  static size_t coarse_index(char last, char first) {
    return size_t{static_cast<uint8_t>(last)} << 8 | static_cast<uint8_t>(first);
  }
  bool test(uint32_t left, uint32_t right) const {
    const size_t bit = bit_of(left, right);
    return (pairs_[bit / 64] >> (bit % 64)) & 1;
  }
  bool crossed_by_part(std::string_view left, std::string_view right) const;

  // Hashed set of (end of the left character, start of the right one) that occur inside tokens.
  std::vector<uint64_t> pairs_ = std::vector<uint64_t>((size_t{1} << kBits) / 64);
  // (last byte, first byte) of those where a character is not whole in the token.
  std::vector<uint64_t> partial_ = std::vector<uint64_t>(256 * 256 / 64);
};

}  // namespace atom
