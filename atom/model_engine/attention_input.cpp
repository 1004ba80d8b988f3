#include "atom/model_engine/attention_input.h"

#include <algorithm>

#include "atom/core/check.h"

namespace atom {

void AttentionInput::begin(int64_t block_size) {
  metadata_ = {.block_size = block_size};
  tables_.clear();
  positions_.clear();
  slot_mapping_.clear();
  query_start_.assign(1, 0);
  context_lens_.clear();
}

void AttentionInput::add(std::span<const int32_t> block_table, int64_t first_position,
                         int64_t count) {
  ATOM_CHECK(count > 0);
  const int64_t block_size = metadata_.block_size;
  for (int64_t position = first_position; position < first_position + count; ++position) {
    const int64_t block = block_table[static_cast<size_t>(position / block_size)];
    positions_.push_back(static_cast<int32_t>(position));
    slot_mapping_.push_back(block * block_size + position % block_size);
  }
  tables_.push_back(block_table);
  query_start_.push_back(static_cast<int32_t>(positions_.size()));
  context_lens_.push_back(static_cast<int32_t>(first_position + count));
  metadata_.max_query_len = std::max(metadata_.max_query_len, count);
  metadata_.max_context_len = std::max(metadata_.max_context_len, first_position + count);
}

const AttentionMetadata& AttentionInput::finish() {
  size_t stride = 0;
  for (const std::span<const int32_t> table : tables_) {
    stride = std::max(stride, table.size());
  }
  block_tables_.assign(stride * tables_.size(), 0);
  for (size_t i = 0; i < tables_.size(); ++i) {
    std::ranges::copy(tables_[i], block_tables_.begin() + static_cast<ptrdiff_t>(i * stride));
  }
  metadata_.num_tokens = num_tokens();
  metadata_.num_seqs = static_cast<int64_t>(tables_.size());
  metadata_.block_table_stride = static_cast<int64_t>(stride);
  metadata_.query_start = query_start_.data();
  metadata_.context_lens = context_lens_.data();
  metadata_.block_tables = block_tables_.data();
  metadata_.positions = positions_.data();
  metadata_.slot_mapping = slot_mapping_.data();
  return metadata_;
}

}  // namespace atom
