#include "atom/model_engine/block_manager.h"

#include <algorithm>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "atom/core/check.h"
#include "atom/core/format.h"

namespace atom {

BlockManager::BlockManager(const Options& options)
    : options_(options), blocks_(static_cast<size_t>(options.num_blocks)) {
  ATOM_CHECK(options.num_blocks > 0 && options.block_size > 0);
  if (options.enable_prefix_caching) {
    block_tokens_.resize(static_cast<size_t>(options.num_blocks * options.block_size));
  }
  restart();
}

void BlockManager::restart() {
  table_.clear();
  std::ranges::fill(blocks_, Block{});
  free_head_ = free_tail_ = -1;
  num_free_ = 0;
  // Pushed to the front one by one: block 0 is given first.
  for (int64_t block = options_.num_blocks; block-- > 0;) {
    push_free(static_cast<int32_t>(block));
  }
}

std::span<const int32_t> BlockManager::tokens_of(std::span<const int32_t> token_ids,
                                                 int64_t index) const {
  return token_ids.subspan(static_cast<size_t>(index * options_.block_size),
                           static_cast<size_t>(options_.block_size));
}

uint64_t BlockManager::hash_of(const PrefixChain& parent,
                               std::span<const int32_t> token_ids) const {
  const uint64_t seed = parent.num_blocks == 0 ? options_.salt : parent.hash;
  return XXH64(token_ids.data(), token_ids.size_bytes(), seed);
}

bool BlockManager::holds(int32_t block, uint64_t parent_id,
                         std::span<const int32_t> token_ids) const {
  const int64_t begin = block * options_.block_size;
  return blocks_[static_cast<size_t>(block)].parent_id == parent_id &&
         std::equal(token_ids.begin(), token_ids.end(), block_tokens_.begin() + begin);
}

BlockManager::Match BlockManager::match_prefix(std::span<const int32_t> token_ids,
                                               int64_t max_blocks) const {
  Match match;
  if (!options_.enable_prefix_caching) {
    return match;
  }
  const int64_t full = static_cast<int64_t>(token_ids.size()) / options_.block_size;
  for (int64_t i = 0; i < std::min(full, max_blocks); ++i) {
    const std::span<const int32_t> tokens = tokens_of(token_ids, i);
    const uint64_t hash = hash_of(match.chain, tokens);
    const auto found = table_.find(hash);
    if (found == table_.end() || !holds(found->second, match.chain.content_id, tokens)) {
      break;
    }
    const Block& block = blocks_[static_cast<size_t>(found->second)];
    match.blocks.push_back(found->second);
    match.num_unreferenced += block.ref_count == 0 ? 1 : 0;
    match.chain = {.num_blocks = i + 1, .hash = hash, .content_id = block.content_id};
  }
  return match;
}

void BlockManager::acquire(std::span<const int32_t> blocks) {
  for (const int32_t id : blocks) {
    if (blocks_[static_cast<size_t>(id)].ref_count++ == 0) {
      unlink_free(id);
    }
  }
}

int32_t BlockManager::allocate() {
  ATOM_CHECK(free_head_ >= 0) << "no free KV block";
  const int32_t id = free_head_;
  unlink_free(id);
  forget_block(id);
  blocks_[static_cast<size_t>(id)].ref_count = 1;
  return id;
}

void BlockManager::release(std::span<const int32_t> blocks) {
  for (size_t i = blocks.size(); i-- > 0;) {
    Block& block = blocks_[static_cast<size_t>(blocks[i])];
    ATOM_CHECK(block.ref_count > 0) << "block " << blocks[i] << " released twice";
    if (--block.ref_count == 0) {
      push_free(blocks[i]);
    }
  }
}

void BlockManager::cache_full_blocks(std::span<const int32_t> block_table,
                                     std::span<const int32_t> token_ids, PrefixChain& chain) {
  if (!options_.enable_prefix_caching) {
    return;
  }
  const int64_t full = static_cast<int64_t>(token_ids.size()) / options_.block_size;
  for (int64_t i = chain.num_blocks; i < full; ++i) {
    const std::span<const int32_t> tokens = tokens_of(token_ids, i);
    const uint64_t hash = hash_of(chain, tokens);
    const auto found = table_.find(hash);
    if (found == table_.end() || !holds(found->second, chain.content_id, tokens)) {
      // New content, or a hash whose old owner's prefix is gone: the newer block takes its place.
      if (found != table_.end()) {
        const int32_t stale = found->second;
        forget(std::span(&stale, 1));
      }
      const int32_t id = block_table[static_cast<size_t>(i)];
      Block& block = blocks_[static_cast<size_t>(id)];
      forget_block(id);
      block.hash = hash;
      block.parent_id = chain.content_id;
      block.content_id = next_content_id_++;
      std::ranges::copy(tokens, block_tokens_.begin() + id * options_.block_size);
      table_.emplace(hash, id);
      chain.content_id = block.content_id;
    } else {
      // The same prefix is cached in another block: this one stays private.
      chain.content_id = blocks_[static_cast<size_t>(found->second)].content_id;
    }
    chain.hash = hash;
    chain.num_blocks = i + 1;
  }
}

void BlockManager::forget_block(int32_t id) {
  Block& block = blocks_[static_cast<size_t>(id)];
  if (block.content_id != 0) {
    table_.erase(block.hash);
    block.content_id = 0;
  }
}

void BlockManager::forget(std::span<const int32_t> blocks) {
  for (const int32_t id : blocks) {
    const Block& block = blocks_[static_cast<size_t>(id)];
    if (block.content_id == 0) {
      continue;
    }
    const bool is_free = block.ref_count == 0;
    if (is_free) {
      unlink_free(id);
    }
    forget_block(id);
    if (is_free) {
      push_free(id);
    }
  }
}

void BlockManager::forget_all() {
  for (int64_t id = 0; id < options_.num_blocks; ++id) {
    const auto block = static_cast<int32_t>(id);
    forget(std::span(&block, 1));
  }
}

void BlockManager::push_free(int32_t id) {
  Block& block = blocks_[static_cast<size_t>(id)];
  const bool findable = block.content_id != 0;
  block.prev = findable ? free_tail_ : -1;
  block.next = findable ? -1 : free_head_;
  (block.prev < 0 ? free_head_ : blocks_[static_cast<size_t>(block.prev)].next) = id;
  (block.next < 0 ? free_tail_ : blocks_[static_cast<size_t>(block.next)].prev) = id;
  ++num_free_;
}

void BlockManager::unlink_free(int32_t id) {
  Block& block = blocks_[static_cast<size_t>(id)];
  (block.prev < 0 ? free_head_ : blocks_[static_cast<size_t>(block.prev)].next) = block.next;
  (block.next < 0 ? free_tail_ : blocks_[static_cast<size_t>(block.next)].prev) = block.prev;
  block.prev = block.next = -1;
  --num_free_;
}

std::string BlockManager::find_fault(std::span<const int32_t> owners) const {
  std::vector<bool> in_list(blocks_.size());
  int64_t listed = 0;
  for (int32_t id = free_head_; id >= 0; id = blocks_[static_cast<size_t>(id)].next) {
    if (in_list[static_cast<size_t>(id)]) {
      return str_format("block {} is twice in the free list", id);
    }
    in_list[static_cast<size_t>(id)] = true;
    ++listed;
  }
  int64_t referenced = 0;
  size_t findable = 0;
  for (size_t id = 0; id < blocks_.size(); ++id) {
    const Block& block = blocks_[id];
    if (block.ref_count != owners[id]) {
      return str_format("block {} has {} references but {} owners", id, block.ref_count,
                        owners[id]);
    }
    if ((block.ref_count == 0) != in_list[id]) {
      return str_format("block {} with {} references: free list says otherwise", id,
                        block.ref_count);
    }
    referenced += block.ref_count > 0 ? 1 : 0;
    if (block.content_id != 0) {
      ++findable;
      const auto found = table_.find(block.hash);
      if (found == table_.end() || found->second != static_cast<int32_t>(id)) {
        return str_format("cached block {} is not in the table", id);
      }
    }
  }
  if (listed != num_free_ || referenced + listed != options_.num_blocks) {
    return str_format("{} referenced + {} free (counted {}) of {} blocks", referenced, listed,
                      num_free_, options_.num_blocks);
  }
  return findable == table_.size() ? "" : "the prefix table has entries without blocks";
}

}  // namespace atom
