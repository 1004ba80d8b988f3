// How a step's inputs reach the device and its results come back, without the host waiting. The
// host fills one staging area per step (two, used in turn) and copies it while the step before
// runs; prepare_step unpacks it into arrays at fixed addresses, so that a captured step can be
// replayed; publish_step, the last kernel of a step, brings what was sampled to pinned memory and
// counts the step. Which of the two areas is meant follows from the count on the device. C++20.
#pragma once

#include <cstdint>

#include "kernels/common/device_runtime.h"
#include "kernels/gpu/sampler.h"

namespace atom::gpu {

using Stream = DeviceStream;

// Lies in device memory; zero at start. Written by publish_step only.
struct StepState {
  uint32_t step = 0;  // steps that are done: staging area and result area are step & 1
  uint32_t padding = 0;
};

// A run of block-table entries that changed since the last step.
struct TableUpdate {
  int32_t row = 0;
  int32_t begin = 0;  // first entry of the row
  int32_t count = 0;
  int32_t source = 0;  // first value, index into the staging area's table values
};

// Head of a staging area; arrays follow at byte offsets from its start.
struct StagingHeader {
  int32_t num_tokens = 0;       // padded; rows beyond the real ones have slot -1
  int32_t num_seqs = 0;         // padded; rows beyond the real ones have context length 0
  int32_t num_sample_rows = 0;  // padded
  int32_t num_table_updates = 0;
  // i32 [num_tokens]: >= 0 is the token; < 0 means the token sampled in row ~value of the step
  // before.
  int32_t token_ids = 0;
  int32_t positions = 0;      // i32 [num_tokens]
  int32_t slot_mapping = 0;   // i64 [num_tokens]
  int32_t query_start = 0;    // i32 [num_seqs + 1]
  int32_t context_lens = 0;   // i32 [num_seqs]
  int32_t sample_rows = 0;    // i32 [num_sample_rows], rows of the hidden states
  int32_t table_updates = 0;  // TableUpdate [num_table_updates]
  int32_t table_values = 0;   // i32
  int32_t sampling = 0;       // bytes [sampling_bytes], the sampler's rows
  int32_t sampling_bytes = 0;
  int32_t num_top_logprobs = -1;  // the most that a row asks for; -1: no row wants logprobs
};

// What prepare_step writes; fixed device addresses.
struct StepInputs {
  int32_t* token_ids = nullptr;     // [max_tokens]
  int32_t* positions = nullptr;     // [max_tokens]
  int64_t* slot_mapping = nullptr;  // [max_tokens]
  int32_t* query_start = nullptr;   // [max_seqs + 1]
  int32_t* context_lens = nullptr;  // [max_seqs]
  int32_t* sample_rows = nullptr;   // [max_seqs]
  int32_t* block_tables = nullptr;  // [max_seqs, block_table_stride]
  int64_t block_table_stride = 0;
  uint8_t* sampling = nullptr;  // the sampler's rows, 16-byte aligned
};

struct PrepareStepArgs {
  const StepState* state = nullptr;
  const uint8_t* staging = nullptr;  // two areas of staging_bytes
  int64_t staging_bytes = 0;
  const int32_t* sampled = nullptr;  // [max_seqs] tokens of the step before
  StepInputs inputs;
};

// One result area: i32 token_ids [max_rows], SamplerLogprob [max_rows], SamplerTopToken [max_rows,
// kMaxTopLogprobs]. The last two are written when the staging header asks for logprobs.
struct PublishStepArgs {
  StepState* state = nullptr;
  const uint8_t* staging = nullptr;  // as in PrepareStepArgs
  int64_t staging_bytes = 0;
  const int32_t* token_ids = nullptr;  // [max_rows] on the device
  const SamplerLogprob* logprobs = nullptr;
  const SamplerTopToken* top_logprobs = nullptr;
  uint8_t* results = nullptr;  // pinned, two areas of result_bytes(max_rows)
  int32_t max_rows = 0;
};

constexpr int64_t result_bytes(int64_t max_rows) {
  return (max_rows * (4 + 8 + 8 * kMaxTopLogprobs) + 255) / 256 * 256;
}

void prepare_step(const PrepareStepArgs& args, Stream stream);
void publish_step(const PublishStepArgs& args, Stream stream);

}  // namespace atom::gpu
