#include "atom/model_ops/cpu/sampler_select.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

#include "atom/core/check.h"

namespace atom {
namespace {

// Floats as integers of the same order, so that bisection ends after 32 steps whatever the values
// are.
int32_t order_key(float value) {
  const auto bits = std::bit_cast<int32_t>(value);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

float from_order_key(int32_t key) { return std::bit_cast<float>(key ^ ((key >> 31) & 0x7fffffff)); }

// The highest float in [-inf, max] for which `enough` holds; it holds for -inf and is monotone.
template <class Enough>
float bisect_threshold(float max, const Enough& enough) {
  int64_t low = order_key(-std::numeric_limits<float>::infinity());
  int64_t high = order_key(max);
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (enough(from_order_key(static_cast<int32_t>(middle)))) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return from_order_key(static_cast<int32_t>(low));
}

}  // namespace

void collect_candidates(std::span<const float> x, std::span<const float> block_max, int64_t num,
                        std::vector<Candidate>& out) {
  const auto num_blocks = static_cast<int64_t>(block_max.size());
  ATOM_CHECK(num >= 1 && num <= num_blocks) << num << " of " << num_blocks;
  std::vector<float> sorted(block_max.begin(), block_max.end());
  const auto nth = sorted.begin() + (num - 1);
  std::nth_element(sorted.begin(), nth, sorted.end(), std::greater<>());
  const float threshold = *nth;
  out.clear();
  const auto size = static_cast<int64_t>(x.size());
  for (int64_t block = 0; block < num_blocks; ++block) {
    if (!(block_max[static_cast<size_t>(block)] >= threshold)) {
      continue;
    }
    const int64_t end = std::min(size, (block + 1) * kRowBlock);
    for (int64_t i = block * kRowBlock; i < end; ++i) {
      const float logit = x[static_cast<size_t>(i)];
      if (logit >= threshold) {
        out.push_back({.logit = logit, .id = static_cast<int32_t>(i)});
      }
    }
  }
}

void select_top(std::span<const float> x, std::span<const float> block_max, int64_t num,
                std::vector<Candidate>& out) {
  num = std::min(num, static_cast<int64_t>(x.size()));
  out.clear();
  if (num <= 0) {
    return;
  }
  if (num <= static_cast<int64_t>(block_max.size())) {
    collect_candidates(x, block_max, num, out);
  } else {
    for (size_t i = 0; i < x.size(); ++i) {
      out.push_back({.logit = x[i], .id = static_cast<int32_t>(i)});
    }
  }
  if (static_cast<int64_t>(out.size()) > num) {
    std::nth_element(out.begin(), out.begin() + (num - 1), out.end(), ranks_before);
    out.resize(static_cast<size_t>(num));
  }
  std::sort(out.begin(), out.end(), ranks_before);
}

float kth_largest(const RowScanKernels& kernels, std::span<const float> x, int64_t num, float max) {
  const auto size = static_cast<int64_t>(x.size());
  return bisect_threshold(max, [&](float threshold) {
    const RowCount count = kernels.count(x.data(), size, threshold);
    return count.greater + count.equal >= num;
  });
}

float mass_threshold(const RowScanKernels& kernels, std::span<const float> x, const float* weights,
                     double mass, float max) {
  const auto size = static_cast<int64_t>(x.size());
  return bisect_threshold(max, [&](float threshold) {
    return kernels.mass(x.data(), weights, size, threshold) >= mass;
  });
}

}  // namespace atom
