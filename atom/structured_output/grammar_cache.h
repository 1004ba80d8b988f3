// GrammarCache: what was compiled, and what was refused, for the specs used last, within a budget
// of bytes. Not thread-safe. It knows nothing of grammars; a value brings its size along.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>

#include "atom/core/error.h"
#include "atom/structured_output/grammar_compiler.h"

namespace atom {

class GrammarCache {
 public:
  using Value = Result<std::shared_ptr<const CompiledGrammar>>;

  explicit GrammarCache(int64_t max_bytes) : max_bytes_(max_bytes) {}

  static std::string key_of(const GrammarSpec& spec);

  // nullptr when it is not there; valid until the next put().
  const Value* find(const std::string& key);
  void put(const std::string& key, Value value, int64_t bytes);
  // Drops the entry used longest ago; false when there is none.
  bool drop_oldest();

  int64_t bytes() const { return bytes_; }
  int64_t size() const { return static_cast<int64_t>(entries_.size()); }

 private:
  struct Entry {
    std::string key;
    Value value;
    int64_t bytes = 0;
  };
  int64_t max_bytes_;
  int64_t bytes_ = 0;
  std::list<Entry> entries_;                                                 // newest use first
  std::unordered_map<std::string_view, std::list<Entry>::iterator> by_key_;  // keys of entries_
};

}  // namespace atom
