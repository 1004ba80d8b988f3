#include "tests/support/fake_sampler.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "atom/core/check.h"
#include "atom/model_ops/cpu/sampler_ops.h"

namespace atom::testing_support {
namespace {

constexpr uint16_t kInPrompt = 0x8000;
constexpr uint16_t kMaxCount = 0x7fff;

template <class T>
std::span<const T> array_at(const uint8_t* base, int32_t offset, int64_t count) {
  return {reinterpret_cast<const T*>(base + offset), static_cast<size_t>(count)};
}

template <class T>
void copy_out(std::span<const T> from, T* to) {
  std::ranges::copy(from, to);
}

// The lists that a row's counts stand for, in any order: the CPU sampler only counts.
struct History {
  std::vector<int32_t> prompt, output;
};

History history_of(const gpu::TokenCounts& counts, int32_t slot, int32_t vocab_size) {
  History history;
  if (slot < 0 || counts.counts == nullptr) {
    return history;
  }
  ATOM_CHECK(slot < counts.num_slots) << slot;
  const uint16_t* row = counts.counts + int64_t{slot} * vocab_size;
  for (int32_t id = 0; id < vocab_size; ++id) {
    if ((row[id] & kInPrompt) != 0) {
      history.prompt.push_back(id);
    }
    history.output.insert(history.output.end(), row[id] & kMaxCount, id);
  }
  return history;
}

SampledToken sample_row(const gpu::SampleTokensArgs& args, const gpu::SamplerRow& row,
                        std::vector<float>& logits) {
  const History history = history_of(args.token_counts, row.count_slot, args.vocab_size);
  std::vector<std::pair<int32_t, float>> biases;
  for (const gpu::SamplerBias& bias :
       array_at<gpu::SamplerBias>(args.blob, row.biases, row.num_biases)) {
    biases.emplace_back(bias.token_id, bias.bias);
  }
  const SamplingRow cpu{
      .temperature = row.temperature,
      .top_p = row.top_p,
      .top_k = row.top_k,
      .min_p = row.min_p,
      .presence_penalty = row.presence_penalty,
      .frequency_penalty = row.frequency_penalty,
      .repetition_penalty = row.repetition_penalty,
      .seed = row.seed,
      .position = row.position,
      .prompt_token_ids = history.prompt,
      .output_token_ids = history.output,
      .logit_bias = biases,
      .banned_token_ids = array_at<int32_t>(args.blob, row.banned, row.num_banned),
      .token_bitmask =
          array_at<uint32_t>(args.blob, row.mask, row.mask > 0 ? (args.vocab_size + 31) / 32 : 0),
      .num_logprobs = row.num_logprobs};
  SampledToken token;
  const ExecContext ctx;
  sample_cpu(ctx, Tensor(logits.data(), DType::kF32, {1, args.vocab_size}), {&cpu, 1}, {&token, 1});
  return token;
}

void write_logprobs(const gpu::SampleTokensArgs& args, int32_t i, int32_t num_logprobs,
                    const SampledToken& token) {
  if (args.logprobs == nullptr || num_logprobs < 0) {
    return;
  }
  args.logprobs[i] = {.logprob = token.logprobs.logprob, .rank = token.logprobs.rank};
  for (size_t k = 0; k < token.logprobs.top.size(); ++k) {
    const auto& [id, logprob] = token.logprobs.top[k];
    args.top_logprobs[static_cast<size_t>(i) * gpu::kMaxTopLogprobs + k] = {.token_id = id,
                                                                            .logprob = logprob};
  }
}

}  // namespace

void fake_prepare_step(const gpu::PrepareStepArgs& args) {
  const uint8_t* area = args.staging + (args.state->step & 1) * args.staging_bytes;
  gpu::StagingHeader head;
  std::memcpy(&head, area, sizeof(head));
  const gpu::StepInputs& in = args.inputs;
  copy_out(array_at<int32_t>(area, head.token_ids, head.num_tokens), in.token_ids);
  for (int32_t i = 0; i < head.num_tokens; ++i) {
    if (in.token_ids[i] < 0) {
      in.token_ids[i] = std::max(args.sampled[~in.token_ids[i]], 0);
    }
  }
  copy_out(array_at<int32_t>(area, head.positions, head.num_tokens), in.positions);
  copy_out(array_at<int64_t>(area, head.slot_mapping, head.num_tokens), in.slot_mapping);
  copy_out(array_at<int32_t>(area, head.query_start, head.num_seqs + 1), in.query_start);
  copy_out(array_at<int32_t>(area, head.context_lens, head.num_seqs), in.context_lens);
  copy_out(array_at<int32_t>(area, head.sample_rows, head.num_sample_rows), in.sample_rows);
  copy_out(array_at<uint8_t>(area, head.sampling, head.sampling_bytes), in.sampling);
  for (const gpu::TableUpdate& update :
       array_at<gpu::TableUpdate>(area, head.table_updates, head.num_table_updates)) {
    copy_out(array_at<int32_t>(area, head.table_values + update.source * 4, update.count),
             in.block_tables + update.row * in.block_table_stride + update.begin);
  }
}

void fake_publish_step(const gpu::PublishStepArgs& args) {
  const uint32_t area = args.state->step & 1;
  gpu::StagingHeader head;
  std::memcpy(&head, args.staging + area * args.staging_bytes, sizeof(head));
  uint8_t* results = args.results + area * gpu::result_bytes(args.max_rows);
  auto* token_ids = reinterpret_cast<int32_t*>(results);
  auto* logprobs = reinterpret_cast<gpu::SamplerLogprob*>(token_ids + args.max_rows);
  auto* top = reinterpret_cast<gpu::SamplerTopToken*>(logprobs + args.max_rows);
  const auto rows = static_cast<size_t>(head.num_sample_rows);
  std::copy_n(args.token_ids, rows, token_ids);
  if (head.num_top_logprobs >= 0) {
    std::copy_n(args.logprobs, rows, logprobs);
    std::copy_n(args.top_logprobs, rows * gpu::kMaxTopLogprobs, top);
  }
  ++args.state->step;
}

void fake_sample_tokens(const gpu::SampleTokensArgs& args) {
  const auto vocab_size = static_cast<size_t>(args.vocab_size);
  for (int32_t i = 0; i < args.num_rows; ++i) {
    gpu::SamplerRow row;
    std::memcpy(&row, args.blob + static_cast<size_t>(i) * sizeof(row), sizeof(row));
    const float* from = args.logits + i * args.logit_stride;
    std::vector<float> logits(from, from + vocab_size);
    SampledToken token;
    if (args.targets != nullptr) {
      const ExecContext ctx;
      token_logprobs_cpu(ctx, Tensor(logits.data(), DType::kF32, {1, args.vocab_size}),
                         {args.targets + i, 1}, row.num_logprobs, {&token, 1});
    } else {
      token = sample_row(args, row, logits);
      if (row.count_slot >= 0 && token.token_id >= 0) {
        uint16_t& count =
            args.token_counts.counts[static_cast<size_t>(row.count_slot) * vocab_size +
                                     static_cast<size_t>(token.token_id)];
        count = static_cast<uint16_t>(count + ((count & kMaxCount) < kMaxCount ? 1 : 0));
      }
    }
    args.token_ids[i] = token.token_id;
    write_logprobs(args, i, row.num_logprobs, token);
  }
}

void fake_set_token_counts(const gpu::SetTokenCountsArgs& args) {
  uint16_t* row = args.token_counts.counts + int64_t{args.slot} * args.vocab_size;
  std::fill_n(row, args.vocab_size, uint16_t{0});
  for (int64_t i = 0; i < args.num_output_tokens; ++i) {
    ++row[args.output_token_ids[i]];
  }
  for (int64_t i = 0; i < args.num_prompt_tokens; ++i) {
    row[args.prompt_token_ids[i]] |= kInPrompt;
  }
}

}  // namespace atom::testing_support
