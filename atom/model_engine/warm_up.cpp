#include "atom/model_engine/warm_up.h"

namespace atom {

WarmUpBatch::WarmUpBatch(int64_t num_seqs, int64_t num_tokens, int64_t block_size)
    : greedy_{.temperature = 0.0F} {
  const int64_t longest = (num_tokens + num_seqs - 1) / num_seqs;
  token_ids_.assign(static_cast<size_t>(longest), 0);
  block_table_.assign(static_cast<size_t>((longest + block_size - 1) / block_size), 0);
  for (int64_t i = 0; i < num_seqs; ++i) {
    const int64_t length = num_tokens / num_seqs + (i < num_tokens % num_seqs ? 1 : 0);
    batch_.sequences.push_back(
        {.id = static_cast<SequenceId>(i + 1),
         .token_ids = std::span(token_ids_).first(static_cast<size_t>(length)),
         .num_prompt_tokens = length,
         .num_scheduled_tokens = length,
         .block_table = std::span(block_table_)
                            .first(static_cast<size_t>((length + block_size - 1) / block_size)),
         .sample = true,
         .sampling = &greedy_});
  }
  batch_.num_tokens = num_tokens;
}

}  // namespace atom
