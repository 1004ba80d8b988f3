// One linear product per head, on the kernels of linear layers: a head's slices of x are gathered
// into a small tile on the stack, its panels of the weight are computed straight into `out`.
#include <algorithm>

#include "atom/model_ops/cpu/cpu_ops.h"

namespace atom {
namespace {

constexpr int64_t kHeadTokens = 32;  // of a work item

int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One head, up to kHeadTokens tokens from `token`, some panels of its weight.
void run_head(const cpu::Kernels& kernels, const HeadsWeight& weights,
              const LinearHeadsParams& params, int64_t head, int64_t token, cpu::Range panels) {
  const int64_t cols = weights.in_features;
  const LinearSegment& segment = weights.weight.segments.front();
  const int64_t x_row = params.x.dim(1);
  const int64_t out_row = params.out.dim(1);
  const int64_t count = std::min(kHeadTokens, params.x.dim(0) - token);
  alignas(64) float x[kHeadTokens * cpu::kMaxLatentRank];
  alignas(64) uint8_t input[kHeadTokens * cpu::kMaxLatentRank * 4];
  const float* from = params.x.data_as<float>() + token * x_row + head * params.x_stride;
  for (int64_t t = 0; t < count; ++t) {
    std::copy_n(from + t * x_row, cols, x + t * cols);
  }
  const int64_t head_bytes =
      kernels.packed_bytes(segment.kernel, segment.format, weights.row_stride(), cols);
  cpu::LinearArgs args{
      .x = x,
      .num_tokens = count,
      .weight = static_cast<const uint8_t*>(weights.weight.packed.data()) + segment.offset +
                head * head_bytes,
      .format = segment.format,
      .rows = weights.out_features,
      .cols = cols,
      .out = params.out.data_as<float>() + token * out_row + head * params.out_stride,
      .out_stride = out_row};
  const int64_t input_bytes = kernels.input_bytes(segment.kernel, count, cols);
  if (input_bytes > 0) {
    ATOM_CHECK(input_bytes <= static_cast<int64_t>(sizeof(input))) << input_bytes;
    kernels.prepare_input(segment.kernel, args, input, {0, count});
    args.input = input;
  }
  kernels.linear(segment.kernel, args, {0, count}, panels);
}

}  // namespace

void linear_heads_cpu(const ExecContext& ctx, const HeadsWeight& weights,
                      const LinearHeadsParams& params) {
  ATOM_CHECK(weights.weight.segments.size() == 1 && weights.in_features <= cpu::kMaxLatentRank &&
             params.x_stride >= weights.in_features && params.out_stride >= weights.out_features)
      << weights.out_features << " by " << weights.in_features;
  const int64_t num_tokens = params.x.dim(0);
  const int64_t token_tiles = div_up(num_tokens, kHeadTokens);
  const int64_t panels = div_up(weights.out_features, cpu::kPanelRows);
  // Few tokens and heads: a head's panels are divided too.
  const int64_t busy = int64_t{ctx.parallel.num_threads} * 4;
  const int64_t items = std::max<int64_t>(1, weights.num_heads * token_tiles);
  const int64_t pieces = std::clamp<int64_t>(busy / items, 1, div_up(panels, 4));
  const int64_t step = div_up(panels, pieces);
  ctx.parallel(weights.num_heads * token_tiles * pieces, [&](int64_t i) {
    const int64_t tile = i / pieces;
    const cpu::Range range{i % pieces * step, std::min(panels, (i % pieces + 1) * step)};
    if (range.begin < range.end) {
      run_head(kernels_of(ctx), weights, params, tile % weights.num_heads,
               tile / weights.num_heads * kHeadTokens, range);
    }
  });
}

}  // namespace atom
