// CharSet: a set of Unicode characters, as sorted ranges that do not touch. For regular
// expressions; knows nothing of JSON or of grammars.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

namespace atom {

inline constexpr uint32_t kMaxCharacter = 0x10ffff;

class CharSet {
 public:
  struct Range {
    uint32_t first = 0;
    uint32_t last = 0;
    bool operator==(const Range&) const = default;
  };

  CharSet() = default;
  CharSet(std::initializer_list<Range> ranges);
  static CharSet one(uint32_t character) { return {{character, character}}; }

  void add(Range range);
  void add(const CharSet& other);
  CharSet complement() const;  // within 0 to kMaxCharacter
  CharSet without(const CharSet& other) const;
  CharSet within(const CharSet& other) const { return without(other.complement()); }
  // With the other case of every ASCII letter.
  CharSet any_case() const;

  bool empty() const { return ranges_.empty(); }
  bool contains(uint32_t character) const;
  bool is_one() const { return ranges_.size() == 1 && ranges_[0].first == ranges_[0].last; }
  std::span<const Range> ranges() const { return ranges_; }
  bool operator==(const CharSet&) const = default;

 private:
  std::vector<Range> ranges_;
};

}  // namespace atom
