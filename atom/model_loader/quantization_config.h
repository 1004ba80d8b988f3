// `quantization_config` of a checkpoint, as data: the forms in which its Linear layers may be
// stored. Which layer has which form, and which has none, the stored tensors tell (weight_schemes.h
// in models/), so ignore lists and the names of targets are not needed. To add a method: a row in
// the table of quantization_config.cpp and, for a new form, an object in models/weight_schemes.cpp.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/common/data_format.h"

namespace atom {

// Which tensors a Linear has in place of `weight`, and how they hold its values.
enum class WeightLayout : uint8_t {
  kScaled,      // weight + weight_scale (weight_scale_inv for blocks): FP8, INT8, MXFP4
  kPackedInt4,  // compressed-tensors: weight_packed + weight_scale + weight_shape +
                // weight_zero_point
  kGptq,        // qweight + qzeros + scales + g_idx; zero points stored minus one
  kGptqV2,      // the same with plain zero points
  kAwq,         // qweight + qzeros + scales, eight output features a word
};

struct QuantizationGroup {
  WeightLayout layout = WeightLayout::kScaled;
  DataFormat format = {};  // scale_dtype: the scale tensor's own
};

struct QuantizationConfig {
  std::string method = {};  // as the checkpoint names it; empty: not quantised
  std::string name = {};    // for people: "fp8 [128, 128]"
  std::vector<QuantizationGroup> groups = {};
};

// Whether linear layers may be FP8 with scales of whole rows, or quantised otherwise.
inline bool has_fp8_rows(const QuantizationConfig& config) {
  return std::ranges::any_of(config.groups, [](const QuantizationGroup& group) {
    return group.format.dtype == DType::kF8E4M3 && group.format.block_k <= 0;
  });
}
inline bool has_packed(const QuantizationConfig& config) {
  return std::ranges::any_of(config.groups, [](const QuantizationGroup& group) {
    return group.format.dtype != DType::kF8E4M3 || group.format.block_k > 0;
  });
}

}  // namespace atom
