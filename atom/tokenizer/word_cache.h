// WordCache: the ids of words seen before, in a direct-mapped table of one cache line per word.
// Exact (keys are compared), bounded, and only for short words with few ids. One thread at a time.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>

#include "atom/tokenizer/hash.h"

namespace atom {

class WordCache {
 public:
  static constexpr size_t kMaxWord = 30;
  static constexpr size_t kMaxIds = 8;
  static constexpr size_t kNumEntries = 1 << 14;  // 1 MiB

  struct alignas(64) Entry {
    uint64_t key[4] = {};  // the word, zero padded; byte 30: its length + 1, and the flag
    int32_t ids[kMaxIds] = {};
  };
  static_assert(sizeof(Entry) == 64);

  struct Key {
    uint64_t words[4];
  };

  // word.size() <= kMaxWord. The same word may have other ids with and without `flag`.
  static Key make_key(std::string_view word, bool flag) {
    Key key{};
    std::memcpy(key.words, word.data(), word.size());
    reinterpret_cast<uint8_t*>(key.words)[30] =
        static_cast<uint8_t>((word.size() + 1) | (flag ? 0x80 : 0));
    return key;
  }

  // The entry where this key lives; it holds the word when matches().
  Entry& slot(const Key& key) {
    if (!entries_) entries_ = std::make_unique<Entry[]>(kNumEntries);
    uint64_t h = key.words[0] * 0x9FB21C651E98DF25u ^ key.words[1] * 0xC2B2AE3D27D4EB4Fu;
    h ^= (key.words[2] * 0x9E3779B97F4A7C15u) ^ (key.words[3] * 0xBF58476D1CE4E5B9u);
    return entries_[mix_hash(h) % kNumEntries];
  }
  static bool matches(const Entry& entry, const Key& key) {
    return ((entry.key[0] ^ key.words[0]) | (entry.key[1] ^ key.words[1]) |
            (entry.key[2] ^ key.words[2]) | ((entry.key[3] ^ key.words[3]) << 8)) == 0;
  }
  // Byte 31 of the key holds the number of ids.
  static size_t num_ids(const Entry& entry) { return entry.key[3] >> 56; }
  static void store(Entry& entry, const Key& key, const int32_t* ids, size_t n) {
    std::memcpy(entry.key, key.words, sizeof(key.words));
    entry.key[3] |= uint64_t{n} << 56;
    if (n > 0) std::memcpy(entry.ids, ids, n * sizeof(int32_t));  // none: `ids` may be null
  }

 private:
  std::unique_ptr<Entry[]> entries_;
};

}  // namespace atom
