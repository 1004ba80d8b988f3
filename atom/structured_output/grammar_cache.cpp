#include "atom/structured_output/grammar_cache.h"

#include <utility>

namespace atom {

std::string GrammarCache::key_of(const GrammarSpec& spec) {
  std::string key;
  key.reserve(spec.text.size() + 3);
  key += static_cast<char>('0' + static_cast<int>(spec.kind));
  key += spec.exact ? 'e' : 'l';
  key += spec.any_whitespace ? 'w' : 'c';
  return key += spec.text;
}

const GrammarCache::Value* GrammarCache::find(const std::string& key) {
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) {
    return nullptr;
  }
  entries_.splice(entries_.begin(), entries_, found->second);
  return &found->second->value;
}

void GrammarCache::put(const std::string& key, Value value, int64_t bytes) {
  constexpr int64_t kOverhead = 256;  // the entry itself
  bytes += static_cast<int64_t>(key.size()) + kOverhead;
  if (bytes > max_bytes_ || by_key_.contains(key)) {
    return;
  }
  while (bytes_ + bytes > max_bytes_ && drop_oldest()) {
  }
  entries_.push_front({.key = key, .value = std::move(value), .bytes = bytes});
  by_key_.emplace(entries_.front().key, entries_.begin());
  bytes_ += bytes;
}

bool GrammarCache::drop_oldest() {
  if (entries_.empty()) {
    return false;
  }
  bytes_ -= entries_.back().bytes;
  by_key_.erase(entries_.back().key);
  entries_.pop_back();
  return true;
}

}  // namespace atom
