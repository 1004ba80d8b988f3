#include "atom/tokenizer/vocab.h"

#include <algorithm>

#include "atom/tokenizer/hash.h"
#include "atom/tokenizer/unicode.h"

namespace atom {

void Vocab::reserve(size_t num_tokens, size_t num_bytes) {
  entries_.reserve(num_tokens);
  arena_.reserve(num_bytes);
}

Status Vocab::add(std::string_view token, int64_t id) {
  if (id < 0 || id > kMaxId) {
    return make_error(ErrorCode::kInvalidArgument, "token \"{}\" has id {} (ids are 0 to {})",
                      token.substr(0, 100), id, kMaxId);
  }
  if (id >= size()) entries_.resize(id + 1);
  Entry& entry = entries_[id];
  if (entry.length != kAbsent) {
    return make_error(ErrorCode::kInvalidArgument, "tokens \"{}\" and \"{}\" have the same id {}",
                      this->token(static_cast<int32_t>(id)).substr(0, 100), token.substr(0, 100),
                      id);
  }
  if (arena_.size() + token.size() >= kAbsent) {
    return make_error(ErrorCode::kInvalidArgument, "the vocabulary has more than 4 GiB of text");
  }
  entry = {static_cast<uint32_t>(arena_.size()), static_cast<uint32_t>(token.size())};
  arena_ += token;
  ++num_tokens_;
  return {};
}

Status Vocab::add_bytes(std::string_view bytes, int64_t id) {
  std::string written;
  written.reserve(bytes.size() * 2);
  for (const char c : bytes) append_utf8(byte_to_alphabet(static_cast<uint8_t>(c)), written);
  return add(written, id);
}

std::string_view Vocab::token(int32_t id) const {
  if (!has(id)) return {};
  return std::string_view(arena_).substr(entries_[id].offset, entries_[id].length);
}

std::string_view Vocab::bytes(int32_t id) const {
  if (!byte_level_ || !has(id) || byte_entries_[id].length == kAbsent) return token(id);
  return std::string_view(byte_arena_).substr(byte_entries_[id].offset, byte_entries_[id].length);
}

void Vocab::build_bytes() {
  byte_arena_.reserve(arena_.size());
  byte_entries_.resize(entries_.size());
  for (int32_t id = 0; id < size(); ++id) {
    if (!has(id)) continue;
    const auto offset = static_cast<uint32_t>(byte_arena_.size());
    if (!append_alphabet_bytes(token(id), byte_arena_)) continue;
    byte_entries_[id] = {offset, static_cast<uint32_t>(byte_arena_.size() - offset)};
  }
}

bool Vocab::insert(Index& index, int32_t id, int32_t* other) const {
  const std::string_view key = bytes(id);
  const uint64_t hash = hash_bytes(key);
  const auto tag = static_cast<uint32_t>(hash >> 32);
  for (size_t i = hash & index.mask;; i = (i + 1) & index.mask) {
    Slot& slot = index.slots[i];
    if (slot.id < 0) {
      slot = {id, tag};
      return true;
    }
    if (slot.tag == tag && bytes(slot.id) == key) {
      *other = slot.id;
      return false;
    }
  }
}

int32_t Vocab::lookup(const Index& index, std::string_view key) const {
  return index.slots.empty() ? -1 : lookup(index, key, hash_bytes(key));
}

int32_t Vocab::lookup(const Index& index, std::string_view key, uint64_t hash) const {
  const auto tag = static_cast<uint32_t>(hash >> 32);
  for (size_t i = hash & index.mask;; i = (i + 1) & index.mask) {
    const Slot& slot = index.slots[i];
    if (slot.id < 0 || (slot.tag == tag && bytes(slot.id) == key)) return slot.id;
  }
}

void Vocab::find_bytes_many(std::span<const std::string_view> keys, int32_t* ids) const {
  constexpr size_t kBatch = 32;
  uint64_t hashes[kBatch];
  const std::vector<Entry>& entries = byte_level_ ? byte_entries_ : entries_;
  const std::string& arena = byte_level_ ? byte_arena_ : arena_;
  for (size_t begin = 0; begin < keys.size(); begin += kBatch) {
    const size_t n = std::min(kBatch, keys.size() - begin);
    for (size_t i = 0; i < n; ++i) {
      hashes[i] = hash_bytes(keys[begin + i]);
      __builtin_prefetch(&index_.slots[hashes[i] & index_.mask]);
    }
    for (size_t i = 0; i < n; ++i) {
      const Slot& slot = index_.slots[hashes[i] & index_.mask];
      if (slot.id >= 0) __builtin_prefetch(&entries[slot.id]);
    }
    for (size_t i = 0; i < n; ++i) {
      const Slot& slot = index_.slots[hashes[i] & index_.mask];
      if (slot.id >= 0) __builtin_prefetch(arena.data() + entries[slot.id].offset);
    }
    for (size_t i = 0; i < n; ++i) ids[begin + i] = lookup(index_, keys[begin + i], hashes[i]);
  }
}

Status Vocab::finish(bool byte_level) {
  byte_level_ = byte_level;
  if (byte_level) build_bytes();
  size_t num_other = 0;
  for (const Entry& e : byte_entries_) num_other += e.length == kAbsent;
  index_.slots.assign(table_size(num_tokens_), {});
  index_.mask = index_.slots.size() - 1;
  other_index_.slots.assign(num_other ? table_size(num_other) : 0, {});
  other_index_.mask = other_index_.slots.size() - 1;
  for (int32_t id = 0; id < size(); ++id) {
    if (!has(id)) continue;
    const bool other_alphabet = byte_level && byte_entries_[id].length == kAbsent;
    int32_t twin = -1;
    if (!insert(other_alphabet ? other_index_ : index_, id, &twin)) {
      return make_error(ErrorCode::kInvalidArgument, "token \"{}\" has two ids, {} and {}",
                        token(id).substr(0, 100), twin, id);
    }
    longest_ = std::max(longest_, bytes(id).size());
  }
  return {};
}

int32_t Vocab::find(std::string_view token) const {
  if (!byte_level_) return lookup(index_, token);
  std::string raw;
  if (append_alphabet_bytes(token, raw)) return lookup(index_, raw);
  return lookup(other_index_, token);
}

int32_t Vocab::find_bytes(std::string_view bytes) const { return lookup(index_, bytes); }

}  // namespace atom
