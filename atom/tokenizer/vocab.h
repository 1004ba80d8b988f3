// Vocab: token strings <-> ids, in two arenas (no allocation per token). Knows nothing of merges,
// special tokens or text. Filled by a loader, then finish() builds the indexes and the object is
// read-only.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "atom/core/error.h"

namespace atom {

class Vocab {
 public:
  // Ids above this are refused: they could only make us allocate (the largest real vocabulary has
  // 263k).
  static constexpr int64_t kMaxId = (1 << 22) - 1;

  void reserve(size_t num_tokens, size_t num_bytes);
  // `token` is well-formed UTF-8. Errors: negative, huge or repeated id.
  Status add(std::string_view token, int64_t id);
  // For vocabularies of raw bytes (tiktoken): the entry is stored in the byte alphabet.
  Status add_bytes(std::string_view bytes, int64_t id);

  // byte_level: entries are written in the GPT-2 byte alphabet. Errors: two ids for one string.
  Status finish(bool byte_level);

  bool byte_level() const { return byte_level_; }
  int64_t size() const { return static_cast<int64_t>(entries_.size()); }  // largest id + 1
  size_t num_tokens() const { return num_tokens_; }
  bool has(int64_t id) const { return id >= 0 && id < size() && entries_[id].length != kAbsent; }
  // The entry itself; empty for ids that have none.
  std::string_view token(int32_t id) const;
  // The entry with the byte alphabet undone (byte_level), else the entry itself.
  std::string_view bytes(int32_t id) const;
  // -1 when there is none.
  int32_t find(std::string_view token) const;
  // Looks up raw bytes in a byte_level vocabulary, else the same as find().
  int32_t find_bytes(std::string_view bytes) const;
  // find_bytes() of many keys at once; faster than one by one, since the cache misses overlap.
  void find_bytes_many(std::span<const std::string_view> keys, int32_t* ids) const;
  size_t longest_token() const { return longest_; }  // in bytes(), largest length of all

 private:
  static constexpr uint32_t kAbsent = UINT32_MAX;
  struct Entry {
    uint32_t offset = 0;
    uint32_t length = kAbsent;
  };
  // Open addressing; an empty slot has id -1. The key of an id is bytes(id).
  struct Slot {
    int32_t id = -1;
    uint32_t tag = 0;  // upper half of the hash
  };
  struct Index {
    std::vector<Slot> slots;
    size_t mask = 0;
  };

  void build_bytes();
  bool insert(Index& index, int32_t id, int32_t* other) const;
  int32_t lookup(const Index& index, std::string_view key) const;
  int32_t lookup(const Index& index, std::string_view key, uint64_t hash) const;

  bool byte_level_ = false;
  size_t num_tokens_ = 0;
  size_t longest_ = 0;
  std::string arena_;
  std::vector<Entry> entries_;
  std::string byte_arena_;           // byte_level only
  std::vector<Entry> byte_entries_;  // absent: the entry is not written in the byte alphabet
  Index index_;                      // entries written in the alphabet (byte_level), else all
  Index other_index_;                // byte_level: entries outside the alphabet
};

}  // namespace atom
