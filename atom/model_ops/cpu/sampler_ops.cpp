#include "atom/model_ops/cpu/sampler_ops.h"

#include <algorithm>
#include <atomic>

#include "atom/core/check.h"
#include "atom/model_ops/cpu/sampler_row.h"

namespace atom {
namespace {

// Runs body(sampler, i) for every row; each worker has one SamplerRow and takes the next row that
// is left.
template <class Body>
void for_each_row(const ExecContext& ctx, int64_t num_rows, int64_t vocab_size, const Body& body) {
  std::atomic<int64_t> next{0};
  const int64_t num_workers =
      std::clamp<int64_t>(ctx.parallel.num_threads, 1, std::max<int64_t>(num_rows, 1));
  ctx.parallel(num_workers, [&](int64_t) {
    int64_t i = next.fetch_add(1, std::memory_order_relaxed);
    if (i >= num_rows) {
      return;
    }
    SamplerRow sampler(vocab_size);
    for (; i < num_rows; i = next.fetch_add(1, std::memory_order_relaxed)) {
      body(sampler, i);
    }
  });
}

void check_rows(const Tensor& logits, size_t rows, size_t out) {
  ATOM_CHECK(logits.rank() == 2 && logits.dtype() == DType::kF32);
  ATOM_CHECK(static_cast<int64_t>(rows) == logits.dim(0) && out == rows)
      << logits.dim(0) << " rows of logits, " << rows << " to sample, " << out << " results";
}

}  // namespace

void sample_cpu(const ExecContext& ctx, const Tensor& logits, std::span<const SamplingRow> rows,
                std::span<SampledToken> out) {
  check_rows(logits, rows.size(), out.size());
  const int64_t vocab_size = logits.dim(1);
  for_each_row(ctx, logits.dim(0), vocab_size, [&](SamplerRow& sampler, int64_t i) {
    const auto row = static_cast<size_t>(i);
    out[row] = sampler.sample(logits.data_as<float>() + i * vocab_size, rows[row]);
  });
}

void token_logprobs_cpu(const ExecContext& ctx, const Tensor& logits,
                        std::span<const int32_t> targets, int32_t num_top,
                        std::span<SampledToken> out) {
  check_rows(logits, targets.size(), out.size());
  const int64_t vocab_size = logits.dim(1);
  for_each_row(ctx, logits.dim(0), vocab_size, [&](SamplerRow& sampler, int64_t i) {
    const auto row = static_cast<size_t>(i);
    out[row] = sampler.score(logits.data_as<const float>() + i * vocab_size, targets[row], num_top);
  });
}

}  // namespace atom
