#include "atom/model_engine/step_staging.h"

#include <algorithm>
#include <cstring>

#include "atom/core/check.h"

namespace atom {
namespace {

// Room for the sampler's lists (logit biases, banned ids) of all rows together.
constexpr int64_t kListBytes = 4 << 20;
constexpr int64_t kAlignment = 16;

int64_t align(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

// Takes arrays one after the other from an area.
struct StepStaging::Writer {
  uint8_t* area;
  int64_t used = align(sizeof(gpu::StagingHeader));
  gpu::StagingHeader header = {};

  template <class T>
  T* array(int64_t count, int32_t& offset) {
    offset = static_cast<int32_t>(used);
    auto* data = reinterpret_cast<T*>(area + used);
    used += align(count * static_cast<int64_t>(sizeof(T)));
    return data;
  }
};

StepStaging::StepStaging(const StagingLimits& limits)
    : limits_(limits), tables_(static_cast<size_t>(limits.max_seqs)) {
  const int64_t tokens = limits.max_tokens * (4 + 4 + 8);
  const int64_t row_bytes = sizeof(gpu::SamplerRow) + sizeof(gpu::TableUpdate) + 3 * 4;
  const int64_t mask_bytes = align((limits.vocab_size + 31) / 32 * 4);
  const int64_t seqs = limits.max_seqs * (row_bytes + limits.table_stride * 4 + mask_bytes);
  area_bytes_ = align(tokens + seqs + kListBytes + 4096);
}

void StepStaging::forget_tables() {
  for (std::vector<int32_t>& table : tables_) {
    table.clear();
  }
}

void StepStaging::write_tokens(const ScheduledBatch& batch, Writer& writer, StagedStep& step) {
  gpu::StagingHeader& header = writer.header;
  auto* ids = writer.array<int32_t>(step.num_tokens, header.token_ids);
  auto* positions = writer.array<int32_t>(step.num_tokens, header.positions);
  auto* slots = writer.array<int64_t>(step.num_tokens, header.slot_mapping);
  auto* query_start = writer.array<int32_t>(step.num_seqs + 1, header.query_start);
  auto* context_lens = writer.array<int32_t>(step.num_seqs, header.context_lens);
  auto* sample_rows = writer.array<int32_t>(step.num_sample_rows, header.sample_rows);
  const int64_t block_size = limits_.block_size;
  int32_t row = 0;
  for (const ScheduledSequence& s : batch.sequences) {
    *query_start++ = row;
    const int64_t end = s.num_computed_tokens + s.num_scheduled_tokens;
    for (int64_t position = s.num_computed_tokens; position < end; ++position, ++row) {
      const int64_t block = s.block_table[static_cast<size_t>(position / block_size)];
      ids[row] = s.pending_row >= 0 ? ~s.pending_row : s.token_ids[static_cast<size_t>(position)];
      positions[row] = static_cast<int32_t>(position);
      slots[row] = block * block_size + position % block_size;
    }
    *context_lens++ = static_cast<int32_t>(end);
    if (s.sample) {
      *sample_rows++ = row - 1;
    }
    step.max_query_len = std::max(step.max_query_len, s.num_scheduled_tokens);
    step.max_context_len = std::max(step.max_context_len, end);
    step.mean_context_len += end;
  }
  step.mean_context_len /= std::max<int64_t>(1, std::ssize(batch.sequences));
  const auto num_rows = static_cast<int64_t>(step.sample_ids.size());
  for (int64_t i = num_rows; i < step.num_sample_rows; ++i) {
    *sample_rows++ = static_cast<int32_t>(i);
  }
  for (auto i = static_cast<int64_t>(batch.sequences.size()); i < step.num_seqs; ++i) {
    ids[row] = 0;
    positions[row] = 0;
    slots[row] = -1;
    *query_start++ = row++;
    *context_lens++ = 0;
  }
  *query_start = row;
  ATOM_CHECK(row == step.num_tokens) << row << " of " << step.num_tokens;
}

void StepStaging::write_tables(const ScheduledBatch& batch, Writer& writer) {
  gpu::StagingHeader& header = writer.header;
  auto* updates = writer.array<gpu::TableUpdate>(static_cast<int64_t>(batch.sequences.size()),
                                                 header.table_updates);
  header.table_values = static_cast<int32_t>(writer.used);
  auto* values = reinterpret_cast<int32_t*>(writer.area + writer.used);
  int32_t num_values = 0;
  for (size_t row = 0; row < batch.sequences.size(); ++row) {
    const std::span<const int32_t> table = batch.sequences[row].block_table;
    std::vector<int32_t>& known = tables_[row];
    const auto begin = std::ranges::mismatch(table, known).in1 - table.begin();
    const auto count = static_cast<int32_t>(std::ssize(table) - begin);
    if (count == 0) {
      continue;  // what the device has beyond the end is not read
    }
    updates[header.num_table_updates++] = {.row = static_cast<int32_t>(row),
                                           .begin = static_cast<int32_t>(begin),
                                           .count = count,
                                           .source = num_values};
    std::ranges::copy(table.subspan(static_cast<size_t>(begin)), values + num_values);
    num_values += count;
    known.assign(table.begin(), table.end());
  }
  writer.used += align(num_values * int64_t{4});
}

Status StepStaging::write_sampling(const ScheduledBatch& batch,
                                   const std::vector<int32_t>& count_slots, Writer& writer,
                                   StagedStep& step) {
  gpu::StagingHeader& header = writer.header;
  const int64_t begin = writer.used;
  auto* rows = writer.array<gpu::SamplerRow>(step.num_sample_rows, header.sampling);
  const auto offset = [&] { return static_cast<int32_t>(writer.used - begin); };
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const ScheduledSequence& s = batch.sequences[i];
    if (!s.sample) {
      continue;
    }
    const SamplingParams& params = *s.sampling;
    const auto num_biases = static_cast<int32_t>(params.logit_bias.size());
    const auto num_banned = static_cast<int32_t>(s.banned_token_ids.size());
    const int64_t mask_words = std::ssize(s.token_bitmask);
    if (writer.used + align(num_biases * int64_t{8}) + align(num_banned * int64_t{4}) +
            align(mask_words * 4) >
        area_bytes_) {
      return make_error(ErrorCode::kResourceExhausted,
                        "the logit biases of a step take more than {} MiB", kListBytes >> 20);
    }
    const int32_t num_logprobs = std::min(params.logprobs.value_or(-1), gpu::kMaxTopLogprobs);
    gpu::SamplerRow& row = *rows++;
    row = {.temperature = params.temperature,
           .top_p = params.top_p,
           .top_k = params.top_k,
           .min_p = params.min_p,
           .presence_penalty = params.presence_penalty,
           .frequency_penalty = params.frequency_penalty,
           .repetition_penalty = params.repetition_penalty,
           .count_slot = count_slots[i],
           .seed = s.seed,
           .position = static_cast<uint64_t>(s.num_computed_tokens + s.num_scheduled_tokens -
                                             s.num_prompt_tokens),
           .num_logprobs = num_logprobs,
           .num_biases = num_biases,
           .biases = offset(),
           .num_banned = num_banned};
    int32_t unused = 0;
    auto* biases = writer.array<gpu::SamplerBias>(num_biases, unused);
    for (const auto& [id, bias] : params.logit_bias) {
      *biases++ = {.token_id = id, .bias = bias};
    }
    row.banned = offset();
    std::ranges::copy(s.banned_token_ids, writer.array<int32_t>(num_banned, unused));
    if (mask_words > 0) {
      row.mask = offset();
      std::ranges::copy(s.token_bitmask, writer.array<uint32_t>(mask_words, unused));
    }
    step.num_logprobs.push_back(num_logprobs);
    header.num_top_logprobs = std::max(header.num_top_logprobs, num_logprobs);
  }
  for (auto i = std::ssize(step.sample_ids); i < step.num_sample_rows; ++i) {
    *rows++ = {};
  }
  header.sampling_bytes = offset();
  return {};
}

Result<StagedStep> StepStaging::write(const ScheduledBatch& batch, int64_t padded_seqs,
                                      const std::vector<int32_t>& count_slots, uint8_t* area) {
  const auto num_seqs = static_cast<int64_t>(batch.sequences.size());
  const int64_t padding = std::max<int64_t>(0, padded_seqs - num_seqs);
  StagedStep step{.num_tokens = batch.num_tokens + padding, .num_seqs = num_seqs + padding};
  for (const ScheduledSequence& s : batch.sequences) {
    if (s.sample) {
      step.sample_ids.push_back(s.id);
    }
  }
  step.num_sample_rows = std::ssize(step.sample_ids) + padding;
  if (step.num_tokens > limits_.max_tokens || step.num_seqs > limits_.max_seqs) {
    return make_error(ErrorCode::kInternal, "a step of {} tokens and {} sequences; limits: {}, {}",
                      step.num_tokens, step.num_seqs, limits_.max_tokens, limits_.max_seqs);
  }
  Writer writer{.area = area};
  write_tokens(batch, writer, step);
  write_tables(batch, writer);
  ATOM_RETURN_IF_ERROR(write_sampling(batch, count_slots, writer, step));
  writer.header.num_tokens = static_cast<int32_t>(step.num_tokens);
  writer.header.num_seqs = static_cast<int32_t>(step.num_seqs);
  writer.header.num_sample_rows = static_cast<int32_t>(step.num_sample_rows);
  std::memcpy(area, &writer.header, sizeof(writer.header));
  step.bytes = writer.used;
  return step;
}

}  // namespace atom
