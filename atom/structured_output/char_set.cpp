#include "atom/structured_output/char_set.h"

#include <algorithm>

namespace atom {

CharSet::CharSet(std::initializer_list<Range> ranges) {
  for (const Range& range : ranges) add(range);
}

void CharSet::add(Range range) {
  // Those that touch it: from the first that ends at its begin or later to the first beyond it.
  const auto begin = std::ranges::find_if(
      ranges_, [&](const Range& r) { return int64_t{r.last} + 1 >= range.first; });
  const auto end = std::find_if(begin, ranges_.end(),
                                [&](const Range& r) { return r.first > int64_t{range.last} + 1; });
  if (begin != end) {
    range.first = std::min(range.first, begin->first);
    range.last = std::max(range.last, std::prev(end)->last);
  }
  ranges_.insert(ranges_.erase(begin, end), range);
}

void CharSet::add(const CharSet& other) {
  for (const Range& range : other.ranges_) add(range);
}

CharSet CharSet::complement() const {
  CharSet out;
  uint32_t next = 0;
  for (const Range& range : ranges_) {
    if (range.first > next) out.ranges_.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kMaxCharacter) out.ranges_.push_back({next, kMaxCharacter});
  return out;
}

CharSet CharSet::without(const CharSet& other) const {
  CharSet united = complement();
  united.add(other);
  return united.complement();
}

CharSet CharSet::any_case() const {
  CharSet out = *this;
  for (const Range& range : ranges_) {
    for (const auto& [from, to] : {std::pair{'a', 'A'}, std::pair{'A', 'a'}}) {
      const uint32_t first = std::max<uint32_t>(range.first, from);
      const uint32_t last = std::min<uint32_t>(range.last, from + 25);
      if (first <= last) out.add({first - from + to, last - from + to});
    }
  }
  return out;
}

bool CharSet::contains(uint32_t character) const {
  return std::ranges::any_of(
      ranges_, [&](const Range& r) { return r.first <= character && character <= r.last; });
}

}  // namespace atom
