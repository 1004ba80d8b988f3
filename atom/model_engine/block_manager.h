// BlockManager: the KV blocks of one device: who holds which, and which unreferenced ones still
// hold a prefix worth finding (prefix cache). Blocks are shared by reference count and never
// copied: only full blocks are shared, and nobody writes to a full block. Knows nothing of
// sequences or devices. Owned by the Scheduler, engine thread only.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace atom {

// Where a sequence stands in the chain of cached blocks: its first `num_blocks` blocks are known.
struct PrefixChain {
  int64_t num_blocks = 0;
  uint64_t hash = 0;        // xxhash64 of the last known block, seeded with the hash before it
  uint64_t content_id = 0;  // names the whole prefix up to here; 0 = the empty prefix
};

class BlockManager {
 public:
  struct Options {
    int64_t num_blocks = 0;
    int64_t block_size = 16;  // tokens
    bool enable_prefix_caching = true;
    uint64_t salt = 0;  // random per process: nobody outside can choose colliding prefixes
  };

  explicit BlockManager(const Options& options);

  int64_t block_size() const { return options_.block_size; }
  int64_t num_blocks() const { return options_.num_blocks; }
  bool prefix_caching() const { return options_.enable_prefix_caching; }
  int64_t blocks_for(int64_t num_tokens) const {
    return (num_tokens + options_.block_size - 1) / options_.block_size;
  }
  // Blocks that allocate() can give: empty ones and cached ones that nobody holds.
  int64_t num_free() const { return num_free_; }

  // The longest cached prefix of `token_ids`, at most `max_blocks` blocks. Takes no reference.
  struct Match {
    std::vector<int32_t> blocks;
    PrefixChain chain;
    int64_t num_unreferenced = 0;  // of `blocks`: these count as free until acquired
  };
  Match match_prefix(std::span<const int32_t> token_ids, int64_t max_blocks) const;

  // One more reference on each of `blocks`.
  void acquire(std::span<const int32_t> blocks);
  // A block with one reference and unknown content; the least recently used cached block when no
  // other is free. The caller checked num_free().
  int32_t allocate();
  // Gives every reference back, last block first, so that a prefix outlives its continuations.
  void release(std::span<const int32_t> blocks);

  // Makes the full blocks of a sequence findable: `token_ids` are its tokens as far as they are
  // known and scheduled. Advances `chain`.
  void cache_full_blocks(std::span<const int32_t> block_table, std::span<const int32_t> token_ids,
                         PrefixChain& chain);
  // Blocks whose content cannot be trusted (a failed sequence): no longer findable.
  void forget(std::span<const int32_t> blocks);
  // Forgets every cached prefix (the device lost its memory).
  void forget_all();
  // As after construction, whatever state an exception left behind. Allocates nothing.
  void restart();

  // free + referenced + cached = total, reference counts = owners[block], lists and table
  // consistent, no duplicates. Empty when all is well, otherwise the first fault.
  std::string find_fault(std::span<const int32_t> owners) const;

 private:
  struct Block {
    int32_t ref_count = 0;
    int32_t prev = -1, next = -1;  // in the free list
    uint64_t hash = 0;
    uint64_t parent_id = 0;
    uint64_t content_id = 0;  // 0 = not findable
  };

  bool holds(int32_t block, uint64_t parent_id, std::span<const int32_t> token_ids) const;
  uint64_t hash_of(const PrefixChain& parent, std::span<const int32_t> token_ids) const;
  std::span<const int32_t> tokens_of(std::span<const int32_t> token_ids, int64_t index) const;
  void forget_block(int32_t block);
  void push_free(int32_t block);
  void unlink_free(int32_t block);

  Options options_;
  std::vector<Block> blocks_;
  std::vector<int32_t> block_tokens_;            // [num_blocks, block_size] of findable blocks
  std::unordered_map<uint64_t, int32_t> table_;  // hash -> findable block
  // Free list, least recently used first; blocks that are not findable are at the front.
  int32_t free_head_ = -1, free_tail_ = -1;
  int64_t num_free_ = 0;
  uint64_t next_content_id_ = 1;
};

}  // namespace atom
