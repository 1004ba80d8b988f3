// The passes over one row of logits that sampling is made of: maximum, exponentials, counts and
// masses above a threshold. Not the sampler itself (atom/model_ops/cpu/sampler_row.h), which only
// looks at their results. Compiled per instruction set (row_scan.inc) with a fixed lane and block
// order, so that every set returns the same bits. To add an instruction set: an include in
// row_scan.cpp and a row in its dispatch.
#pragma once

#include <cstdint>

namespace atom {

// Values are looked at in blocks of this many; the last block may be shorter.
inline constexpr int64_t kRowBlock = 128;

constexpr int64_t row_blocks(int64_t vocab_size) {
  return (vocab_size + kRowBlock - 1) / kRowBlock;
}

struct RowMax {
  float max;  // of the values that are no NaN; -inf when there is none
  bool has_nan;
};

// weight(x) = exp((x - max) * inv_temperature), 1 where x == max (also when both are +inf), 0 below
// about e^-86 and where smaller than min_weight.
struct WeightParams {
  float max = 0.0F;
  float inv_temperature = 1.0F;
  float min_weight = 0.0F;
};

struct RowCount {
  int64_t greater;
  int64_t equal;
};

struct RowScanKernels {
  const char* name;
  // block_max [row_blocks(n)]
  RowMax (*max)(const float* x, int64_t n, float* block_max);
  // block_sum [row_blocks(n)]; weights [n] or none
  void (*weights)(const float* x, int64_t n, const WeightParams& params, float* block_sum,
                  float* weights);
  // block_sum [row_blocks(n)] of the weights that are >= min_weight
  void (*sum)(const float* weights, int64_t n, float min_weight, float* block_sum);
  RowCount (*count)(const float* x, int64_t n, float threshold);
  // sum of weights[i] where x[i] >= threshold
  double (*mass)(const float* x, const float* weights, int64_t n, float threshold);
  // weights[i] = 0 where x[i] < threshold
  void (*cut)(const float* x, int64_t n, float threshold, float* weights);
};

// The best set of this processor.
const RowScanKernels& row_scan_kernels();
// Every set that this processor can run, the baseline first (for tests).
int row_scan_kernel_sets(const RowScanKernels** sets, int capacity);

}  // namespace atom
