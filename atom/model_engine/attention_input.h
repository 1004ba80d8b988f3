// AttentionInput: the attention metadata of one pass on the host, sequence by sequence: positions,
// cache slots, lengths and block tables. Buffers are reused from pass to pass. One thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/common/params.h"

namespace atom {

class AttentionInput {
 public:
  void begin(int64_t block_size);
  // `count` tokens of a sequence from `first_position` on; `block_table` lives until finish().
  void add(std::span<const int32_t> block_table, int64_t first_position, int64_t count);
  // Valid until the next begin().
  const AttentionMetadata& finish();

  const AttentionMetadata& metadata() const { return metadata_; }
  int64_t num_tokens() const { return static_cast<int64_t>(positions_.size()); }

 private:
  AttentionMetadata metadata_;
  std::vector<std::span<const int32_t>> tables_;
  std::vector<int32_t> positions_;
  std::vector<int64_t> slot_mapping_;
  std::vector<int32_t> query_start_;
  std::vector<int32_t> context_lens_;
  std::vector<int32_t> block_tables_;
};

}  // namespace atom
