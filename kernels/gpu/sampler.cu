// The device sampler's kernels: a block per chunk of a row scans it (sampler/scan.h), and the last
// one of a greedy row picks the token; then a block per other row draws (sampler/draw.h) and takes
// log probabilities.
#include "kernels/gpu/sampler/draw.h"
#include "kernels/gpu/sampler/scan.h"

namespace atom::gpu {
namespace {

using namespace sampler;

// What all chunks say of a row.
struct RowResult {
  float max;
  int32_t token_id;  // of the maximum
  bool broken;
  float raw_max;
  double log_total;  // of exp(raw - raw_max)
};

__device__ RowResult merge_chunks(const ChunkResult* chunks, int num_chunks) {
  RowResult result{negative_infinity(), 0x7fffffff, false, negative_infinity(), 0.0};
  for (int c = 0; c < num_chunks; ++c) {
    const ChunkResult& chunk = chunks[c];
    if (chunk.max > result.max) {
      result.max = chunk.max;
      result.token_id = chunk.token_id;
    }
    result.broken = result.broken || chunk.broken != 0;
    result.raw_max = fmaxf(result.raw_max, chunk.raw_max);
  }
  return result;
}

// As merge_chunks without log_total, by 32 lanes that call together; the first has the result.
__device__ RowResult merge_chunks_by_lanes(const ChunkResult* chunks, int num_chunks) {
  Candidate top = {negative_infinity(), 0x7fffffff};
  int broken = 0;
  for (int c = lane_index(); c < num_chunks; c += kLanes) {
    const Candidate chunk = {chunks[c].max, chunks[c].token_id};
    top = ranks_before(chunk, top) ? chunk : top;
    broken |= chunks[c].broken;
  }
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    const Candidate other = {shuffle_xor(top.value, step), shuffle_xor(top.token_id, step)};
    top = ranks_before(other, top) ? other : top;
    broken |= shuffle_xor(broken, step);
  }
  return {top.value, top.token_id, broken != 0, negative_infinity(), 0.0};
}

__device__ void load_block_max(Shared& shared, const float* block_max, int num_blocks) {
  __syncthreads();
  for (int b = static_cast<int>(threadIdx.x); b < num_blocks; b += kThreads) {
    shared.block_max[b] = block_max[b];
  }
  __syncthreads();
}

// Few candidates are enough for most rows: those down to the k-th value, or to a guess that holds
// the mass. -1 when they are not.
__device__ int draw_among_few(Shared& shared, const RowView& view, RowDraw& row,
                              const SamplerRow& params, bool top_k_on, const float* block_sums,
                              uint64_t bits) {
  if (top_k_on) {
    if (params.top_k > kMaxCandidates) {
      return -1;
    }
    const int count = row.gather(row.kth_group_max(params.top_k), view.max, RowDraw::everything());
    return count <= kMaxCandidates ? row.draw_candidates(count, params, true, 0, bits) : -1;
  }
  const Weight total = params.top_p < 1.0F ? row.total_weight(block_sums) : 0;
  const float temperature = params.temperature;
  constexpr float kDistances[] = {3.0F, 8.0F, 16.0F};
  for (const float distance : kDistances) {
    float low = view.max - distance * temperature;
    if (!(params.top_p < 1.0F)) {
      low = view.max + (logf(params.min_p) - 1e-3F) * temperature;
    }
    const int count = row.gather(low, view.max, RowDraw::everything());
    if (count > kMaxCandidates) {
      return -1;
    }
    const int token = row.draw_candidates(count, params, false, total, bits);
    if (token >= 0) {
      return token;
    }
  }
  return -1;
}

__device__ int draw_token(Shared& shared, const RowView& view, const SamplerRow& params,
                          const float* block_sums) {
  RowDraw row(shared, view);
  const uint64_t bits = random_bits(params.seed, params.position);
  const bool top_k_on = params.top_k > 0 && params.top_k < view.vocab_size;
  if (!top_k_on && params.top_p >= 1.0F && !(params.min_p > 0.0F)) {
    return row.draw_unfiltered(block_sums, bits);
  }
  const int token = draw_among_few(shared, view, row, params, top_k_on, block_sums, bits);
  if (token >= 0) {
    return token;
  }
  Boundary kept = RowDraw::everything();
  if (top_k_on) {
    kept = row.top_k(params.top_k);
  }
  if (params.top_p < 1.0F) {
    kept = row.top_mass(RowDraw::mass_needed(row.mass(kept), params.top_p), kept);
  }
  return row.draw(kept, params.min_p, bits);
}

__device__ void write_logprobs(Shared& shared, const SampleTokensArgs& args,
                               const Workspace& workspace, const SamplerRow& params, int row_index,
                               int token, const RowResult& result) {
  const float* raw = args.logits + row_index * args.logit_stride;
  const ChunkResult* chunks =
      workspace.chunks + static_cast<int64_t>(row_index) * workspace.num_chunks;
  double total = 0.0;
  for (int c = 0; c < workspace.num_chunks; ++c) {
    const double distance =
        chunks[c].raw_max == result.raw_max
            ? 0.0
            : static_cast<double>(chunks[c].raw_max) - static_cast<double>(result.raw_max);
    total +=
        chunks[c].raw_sum > 0.0F ? static_cast<double>(chunks[c].raw_sum) * exp(distance) : 0.0;
  }
  const double log_total = log(total);
  const auto logprob = [&](float x) {
    const double distance =
        x == result.raw_max ? 0.0 : static_cast<double>(x) - static_cast<double>(result.raw_max);
    return static_cast<float>(distance - log_total);
  };
  load_block_max(shared,
                 workspace.raw_block_max + static_cast<int64_t>(row_index) * workspace.num_blocks,
                 workspace.num_blocks);
  const RowView view{raw, args.vocab_size, workspace.num_blocks, result.raw_max, 1.0F};
  RowDraw row(shared, view);
  const float value = raw[token];
  const int rank = row.count_before(value, token) + 1;
  if (args.logprobs != nullptr && threadIdx.x == 0) {
    args.logprobs[row_index] = {logprob(value), rank};
  }
  int wanted = params.num_logprobs < kMaxTopLogprobs ? params.num_logprobs : kMaxTopLogprobs;
  wanted = wanted < args.vocab_size ? wanted : args.vocab_size;
  if (args.top_logprobs == nullptr || wanted <= 0) {
    return;
  }
  const Boundary kept = row.top_k(wanted);
  const int count = row.gather(kept.last.value, result.raw_max, kept);
  const int i = static_cast<int>(threadIdx.x);
  if (i < count && i < kMaxCandidates) {
    int place = 0;
    for (int j = 0; j < count; ++j) {
      place += ranks_before(shared.candidates[j], shared.candidates[i]) ? 1 : 0;
    }
    if (place < wanted) {
      args.top_logprobs[static_cast<int64_t>(row_index) * kMaxTopLogprobs + place] = {
          shared.candidates[i].token_id, logprob(shared.candidates[i].value)};
    }
  }
}

// One thread: the row's token goes out, and into its sequence's counts.
__device__ void finish_token(const SampleTokensArgs& args, const SamplerRow& params, int row_index,
                             int token) {
  if (args.token_ids != nullptr) {
    args.token_ids[row_index] = token;
  }
  if (token >= 0 && args.targets == nullptr && args.token_counts.counts != nullptr &&
      params.count_slot >= 0) {
    uint16_t& entry =
        args.token_counts.counts[static_cast<int64_t>(params.count_slot) * args.vocab_size + token];
    entry = (entry & 0x7fffU) == 0x7fffU ? entry : static_cast<uint16_t>(entry + 1);
  }
}

__device__ void finish_row(Shared& shared, const SampleTokensArgs& args, const Workspace& workspace,
                           const RowContext& row, int row_index) {
  const int64_t blocks = static_cast<int64_t>(row_index) * workspace.num_blocks;
  const RowResult result =
      merge_chunks(workspace.chunks + static_cast<int64_t>(row_index) * workspace.num_chunks,
                   workspace.num_chunks);
  int token = -1;
  if (!result.broken && result.max > negative_infinity()) {
    if (args.targets != nullptr) {
      token = args.targets[row_index];
    } else if (row.greedy) {
      token = result.token_id;
    } else {
      load_block_max(shared, workspace.block_max + blocks, workspace.num_blocks);
      const float* values =
          row.edited ? workspace.edited + static_cast<int64_t>(row_index) * workspace.edited_stride
                     : args.logits + row_index * args.logit_stride;
      const RowView view{values, args.vocab_size, workspace.num_blocks, result.max,
                         1.0F / row.params.temperature};
      token = draw_token(shared, view, row.params, workspace.block_sum + blocks);
    }
  }
  if (token >= 0 && row.params.num_logprobs >= 0) {
    write_logprobs(shared, args, workspace, row.params, row_index, token, result);
  }
  if (threadIdx.x == 0) {
    finish_token(args, row.params, row_index, token);
  }
}

// Rows that the scan alone answers.
__device__ bool needs_draw(const SampleTokensArgs& args, const RowContext& row) {
  return !row.greedy || row.params.num_logprobs >= 0 || args.targets != nullptr;
}

__global__ void ATOM_LAUNCH_BOUNDS(kThreads, 2)
    scan_kernel(const SampleTokensArgs args, const Workspace workspace) {
  __shared__ ScanShared shared;
  allow_next();
  wait_previous();
  const int row_index = static_cast<int>(blockIdx.y);
  const RowContext row(args, row_index);
  ChunkScan(args, workspace, row, shared).run(row_index, static_cast<int>(blockIdx.x));
  if (needs_draw(args, row)) {
    return;
  }
  if (warp_index() != 0) {
    return;
  }
  int ticket = 0;
  if (lane_index() == 0) {  // which wrote the chunk's result
    __threadfence();
    ticket = atomicAdd(workspace.tickets + row_index, 1);
  }
  if (shuffle(ticket, 0) == workspace.num_chunks - 1) {
    __threadfence();
    const RowResult result = merge_chunks_by_lanes(
        workspace.chunks + static_cast<int64_t>(row_index) * workspace.num_chunks,
        workspace.num_chunks);
    if (lane_index() == 0) {
      finish_token(args, row.params, row_index,
                   !result.broken && result.max > negative_infinity() ? result.token_id : -1);
      workspace.tickets[row_index] = 0;
    }
  }
}

__global__ void ATOM_LAUNCH_BOUNDS(kThreads, 1)
    draw_kernel(const SampleTokensArgs args, const Workspace workspace) {
  __shared__ Shared shared;
  allow_next();
  wait_previous();
  const int row_index = static_cast<int>(blockIdx.x);
  const RowContext row(args, row_index);
  if (needs_draw(args, row)) {
    finish_row(shared, args, workspace, row, row_index);
  }
}

constexpr int kCountThreads = 1024;

// One block per slot, so that clearing, marking and counting need no more than its barriers.
__global__ void __launch_bounds__(kCountThreads)
    set_token_counts_kernel(const SetTokenCountsArgs args) {
  uint16_t* counts = args.token_counts.counts + static_cast<int64_t>(args.slot) * args.vocab_size;
  const auto thread = static_cast<int64_t>(threadIdx.x);
  const auto in_vocab = [&](int32_t id) { return id >= 0 && id < args.vocab_size; };
  for (int64_t i = thread; i < args.vocab_size; i += kCountThreads) {
    counts[i] = 0;
  }
  __syncthreads();
  for (int64_t i = thread; i < args.num_prompt_tokens; i += kCountThreads) {
    const int32_t id = args.prompt_token_ids[i];
    if (in_vocab(id)) {
      counts[id] = 0x8000U;
    }
  }
  __syncthreads();
  // Neighbours share a word, so a plain 16-bit add would lose counts.
  for (int64_t i = thread; i < args.num_output_tokens; i += kCountThreads) {
    const int32_t id = args.output_token_ids[i];
    if (!in_vocab(id)) {
      continue;
    }
    const auto address = reinterpret_cast<uintptr_t>(counts + id);
    auto* word = reinterpret_cast<unsigned int*>(address & ~uintptr_t{3});
    const unsigned int shift = (address & 2U) != 0 ? 16 : 0;
    unsigned int seen = *word;
    for (;;) {
      if ((seen >> shift & 0x7fffU) == 0x7fffU) {
        break;
      }
      const unsigned int before = atomicCAS(word, seen, seen + (1U << shift));
      if (before == seen) {
        break;
      }
      seen = before;
    }
  }
}

}  // namespace

int64_t sampler_workspace_bytes(int32_t max_rows, int32_t vocab_size) {
  return layout(nullptr, max_rows, vocab_size).bytes;
}

void sample_tokens(const SampleTokensArgs& args, int32_t max_rows, void* stream) {
  if (args.num_rows <= 0) {
    return;
  }
  const Workspace workspace = layout(args.workspace, max_rows, args.vocab_size);
  const dim3 grid(static_cast<unsigned>(workspace.num_chunks),
                  static_cast<unsigned>(args.num_rows));
  const auto on = static_cast<cudaStream_t>(stream);
  (void)launch_chained(scan_kernel, {.grid = grid, .block = dim3(kThreads), .stream = on}, args,
                       workspace);
  if (!args.greedy_only) {
    (void)launch_chained(
        draw_kernel,
        {.grid = dim3(static_cast<unsigned>(args.num_rows)), .block = dim3(kThreads), .stream = on},
        args, workspace);
  }
}

void set_token_counts(const SetTokenCountsArgs& args, void* stream) {
  set_token_counts_kernel<<<1, kCountThreads, 0, static_cast<cudaStream_t>(stream)>>>(args);
}

}  // namespace atom::gpu
