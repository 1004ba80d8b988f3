#include "atom/structured_output/bounded_strings.h"

#include <algorithm>
#include <limits>

#include "atom/core/format.h"

namespace atom {
namespace {

bool begins_character(char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }

int64_t characters(std::string_view text) { return std::ranges::count_if(text, begins_character); }

void forbid(std::span<uint32_t> mask, int32_t id) {
  mask[static_cast<size_t>(id) / 32] &= ~(1U << id % 32);
}

}  // namespace

// U+0001 is in no token that an answer of JSON may have, and the two stand together in no grammar.
std::string length_marker(int64_t index) {
  return std::string("\x01\r") + static_cast<char>(index < 26 ? 'A' + index : 'a' + index - 26);
}

// The raw control characters keep the library from reading the expression as one of a JSON string,
// in which the marker could not stand.
std::string bounded_string_pattern(int64_t index, std::string_view char_class) {
  return str_format("^{}*({})?$", char_class, length_marker(index));
}

LengthBound tightest(std::span<const LengthBound> bounds) {
  LengthBound all{.min = 0, .max = std::numeric_limits<int64_t>::max()};
  for (const LengthBound& bound : bounds) {
    all = {.min = std::max(all.min, bound.min), .max = std::min(all.max, bound.max)};
  }
  return all;
}

TokenLengths::TokenLengths(std::span<const std::string> tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::string_view token = tokens[i];
    const auto id = static_cast<int32_t>(i);
    size_t quote = token.find('"');
    const int64_t before = characters(token.substr(0, quote));
    if (!token.empty()) {
      by_length_.push_back({.id = id, .before = before});
    }
    if (quote == std::string_view::npos) {
      continue;
    }
    Quoted row{.id = id, .before = before, .shortest_whole = std::numeric_limits<int64_t>::max()};
    while (quote != std::string_view::npos) {
      const size_t next = token.find('"', quote + 1);
      const int64_t length = characters(
          token.substr(quote + 1, next == std::string_view::npos ? next : next - quote - 1));
      row.longest_after = std::max(row.longest_after, length);
      if (next != std::string_view::npos) {
        row.shortest_whole = std::min(row.shortest_whole, length);
      }
      quote = next;
    }
    quoted_.push_back(row);
  }
  std::ranges::stable_sort(by_length_, std::ranges::greater(), &Sized::before);
}

void TokenLengths::forbid_within_token(std::span<const LengthBound> bounds,
                                       std::span<uint32_t> mask) const {
  const LengthBound all = tightest(bounds);
  for (const Quoted& row : quoted_) {
    if (row.longest_after > all.max || row.shortest_whole < all.min) {
      forbid(mask, row.id);
    }
  }
}

void TokenLengths::forbid_next(LengthBound bound, int64_t length, std::span<uint32_t> mask) const {
  const int64_t left = std::max<int64_t>(0, bound.max - length);  // the rest of a character fits
  for (size_t i = 0; i < by_length_.size() && by_length_[i].before > left; ++i) {
    forbid(mask, by_length_[i].id);
  }
  if (length >= bound.min) {
    return;
  }
  for (const Quoted& row : quoted_) {
    if (length + row.before < bound.min) {
      forbid(mask, row.id);
    }
  }
}

void StringPosition::follow(std::string_view token) {
  const size_t quote = token.rfind('"');
  length = quote == std::string_view::npos ? length + characters(token)
                                           : characters(token.substr(quote + 1));
  for (const char c : token) {
    const auto byte = static_cast<unsigned char>(c);
    if (begins_character(c))
      missing = byte >= 0xf0 ? 3 : byte >= 0xe0 ? 2 : byte >= 0xc0 ? 1 : 0;
    else if (missing > 0)
      --missing;
  }
}

}  // namespace atom
