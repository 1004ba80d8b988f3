#include "atom/tokenizer/seam_table.h"

#include <algorithm>

#include "atom/tokenizer/unicode.h"

namespace atom {
namespace {

bool is_continuation(char c) { return (c & 0xC0) == 0x80; }

}  // namespace

void SeamTable::add_token(std::string_view t) {
  for (size_t p = 1; p < t.size(); ++p) {
    if (is_continuation(t[p])) continue;
    size_t start = p - 1;
    while (start > 0 && is_continuation(t[start]) && p - start < 4) --start;
    const size_t want = utf8_length(t[p]);
    const std::string_view left = t.substr(start, p - start), right = t.substr(p, want);
    const size_t bit = bit_of(pack(left), pack(right));
    pairs_[bit / 64] |= uint64_t{1} << (bit % 64);
    if (!is_continuation(left.front()) && right.size() == want) continue;
    const size_t coarse = coarse_index(left.back(), right.front());
    partial_[coarse / 64] |= uint64_t{1} << (coarse % 64);
  }
}

bool SeamTable::crossed_by_part(std::string_view left, std::string_view right) const {
  for (size_t from = 0; from < left.size(); ++from) {
    for (size_t n = right.size(); n > 0; --n) {
      if (test(pack(left.substr(from)), pack(right.substr(0, n)))) return true;
    }
  }
  return false;
}

}  // namespace atom
