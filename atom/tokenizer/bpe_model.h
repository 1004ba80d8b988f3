// BpeModel: the byte-pair encoding of one word. Owns the vocabulary and the merges; knows nothing
// of normalisation, word splitting or special tokens. Immutable after load; callers bring a
// BpeScratch each.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "atom/core/error.h"
#include "atom/tokenizer/seam_table.h"
#include "atom/tokenizer/vocab.h"
#include "atom/tokenizer/word_cache.h"

namespace atom {

struct BpeOptions {
  bool byte_level = false;     // the input is raw bytes and the vocabulary is in the byte alphabet
  bool byte_fallback = false;  // characters without an entry become <0xNN> tokens
  bool fuse_unk = false;       // a run of unknown characters is one unknown token
  bool ignore_merges = false;  // a word that is an entry is that token, whatever the merges say
  int32_t unk_id = -1;         // -1: unknown characters vanish
};

// Working memory of one encode call at a time; reused between calls.
struct BpeScratch {
  WordCache cache;
  std::vector<int32_t> symbols;
  std::vector<uint64_t> pairs;  // rank << 32 | merged id of the pair that starts at this symbol
  std::vector<uint32_t> next, previous;
  std::vector<uint64_t> heap;  // rank << 32 | position
};

class BpeModel {
 public:
  // Merges in order of rank. Left, right and their concatenation must be entries of the vocabulary.
  // Errors name the entry that is missing.
  struct Merge {
    std::string_view left, right;
  };
  Status add_merges(std::span<const Merge> merges);
  // Merges of a vocabulary of ranks (tiktoken): any two entries whose concatenation is an entry
  // merge, the lowest id of the concatenation first. Instead of add_merges().
  void add_rank_merges();
  // The vocabulary is finished (Vocab::finish) before the first merge is added.
  Vocab& vocab() { return vocab_; }
  const Vocab& vocab() const { return vocab_; }
  // After the merges.
  void set_options(const BpeOptions& options);
  const BpeOptions& options() const { return options_; }

  // The byte that token `id` is the <0xNN> fallback of, or -1.
  int fallback_byte(int32_t id) const;

  // Appends the ids of `word`: bytes (byte_level) or well-formed UTF-8.
  void encode_word(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& out) const;

 private:
  struct MergeSlot {
    uint64_t pair = kNoPair;  // left id << 32 | right id
    uint64_t value = 0;       // rank << 32 | merged id
  };
  static constexpr uint64_t kNoPair = UINT64_MAX;
  static constexpr uint64_t kNoMerge = UINT64_MAX;

  void reserve_merges(size_t n);
  Status add_merge_block(std::span<const Merge> merges);
  uint64_t merge_of(int32_t left, int32_t right) const;
  void grow_merges();
  void insert_merge(uint64_t pair, uint64_t value);
  bool seams_are_safe() const;
  void encode_piece(std::string_view piece, bool whole_word, BpeScratch& scratch,
                    std::vector<int32_t>& out) const;
  void first_symbols(std::string_view word, std::vector<int32_t>& symbols) const;
  void merge_short(BpeScratch& scratch) const;
  void merge_long(BpeScratch& scratch) const;

  Vocab vocab_;
  BpeOptions options_;
  std::vector<MergeSlot> merges_;
  size_t merge_mask_ = 0;
  uint32_t num_merges_ = 0;
  size_t filled_ = 0;
  int32_t byte_ids_[256];  // byte_level: entry of the byte; else <0xNN>; -1 when there is none
  bool all_bytes_ = false;
  std::unique_ptr<SeamTable> seams_;  // null: words are never cut
};

}  // namespace atom
