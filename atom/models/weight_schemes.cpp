#include "atom/models/weight_schemes.h"

#include "atom/model_loader/text.h"
#include "atom/models/scheme_support.h"

namespace atom {

using namespace schemes;

namespace {

bool read_plain(TensorSource& source, const LinearShape& shape, StoredWeight& out) {
  const CheckpointTensor* tensor = source.take(shape.prefix + ".weight", {shape.rows, shape.cols});
  if (tensor == nullptr) {
    return false;
  }
  if (!is_float(tensor->dtype) && dtype_info(tensor->dtype).block_size < 32) {
    wrong_type(source, *tensor,
               "f32, f16, bf16, a GGUF block type or what quantization_config says");
    return false;
  }
  out.tensors.push_back(tensor);
  out.part = {
      .data = tensor->data,
      .format = {.dtype = tensor->dtype},
      .rows = shape.rows,
      .cols = shape.cols,
      .rotary_heads = tensor->row_order == RowOrder::kInterleavedRotary ? tensor->rotary_heads : 0};
  return true;
}

}  // namespace

const WeightScheme& scheme_of(WeightLayout layout) {
  switch (layout) {
    case WeightLayout::kScaled:
      return scaled_scheme();
    case WeightLayout::kPackedInt4:
      return packed_int4_scheme();
    case WeightLayout::kGptq:
      return gptq_scheme();
    case WeightLayout::kGptqV2:
      return gptq_v2_scheme();
    case WeightLayout::kAwq:
      return awq_scheme();
  }
  return scaled_scheme();
}

bool read_weight(TensorSource& source, const LinearShape& shape, const QuantizationConfig& config,
                 StoredWeight& out) {
  for (const QuantizationGroup& group : config.groups) {
    const WeightScheme& scheme = scheme_of(group.layout);
    if (scheme.stores(source, shape.prefix, group)) {
      return scheme.read(source, shape, group, out);
    }
  }
  return read_plain(source, shape, out);
}

bool read_stacked_weight(TensorSource& source, const LinearShape& name, int64_t count,
                         StoredWeight& out) {
  out.part = {.rows = count * name.rows, .cols = name.cols};
  if (source.find(name.prefix + ".weight") != nullptr) {  // GGUF files
    const CheckpointTensor* tensor =
        source.take(name.prefix + ".weight", {count, name.rows, name.cols});
    if (tensor == nullptr) {
      return false;
    }
    out.part.format = {.dtype = tensor->dtype};
    out.part.data = tensor->data;
    out.tensors.push_back(tensor);
    return true;
  }
  if (source.find(name.prefix) != nullptr) {
    const CheckpointTensor* tensor = source.take(name.prefix, {count, name.cols, name.rows});
    if (tensor != nullptr && !is_float(tensor->dtype)) {
      wrong_type(source, *tensor, "f32, f16 or bf16");
      return false;
    }
    uint8_t* rows = tensor == nullptr ? nullptr : allocate(source, tensor->nbytes, out);
    if (rows == nullptr) {
      return false;
    }
    const int64_t bytes = tensor->nbytes / count;
    for (int64_t i = 0; i < count; ++i) {
      const auto* from = static_cast<const uint8_t*>(tensor->data) + i * bytes;
      tensor->dtype == DType::kF32
          ? transpose<4>(source, from, name.cols, name.rows, rows + i * bytes)
          : transpose<2>(source, from, name.cols, name.rows, rows + i * bytes);
    }
    out.part.format = {.dtype = tensor->dtype};
    out.part.data = rows;
    out.tensors.push_back(tensor);
    return true;
  }
  out.part.format = {.dtype = DType::kF4E2M1, .block_n = 1, .block_k = 32};
  const int64_t groups = whole_groups(source, name, 32);
  if (groups == 0) {
    return false;
  }
  const CheckpointTensor* blocks =
      take_typed(source, name.prefix + "_blocks", {count, name.rows, groups, 16}, DType::kU8);
  const bool scales = take_scales(source, name.prefix + "_scales", {count, name.rows, groups}, true,
                                  out) != nullptr;
  if (blocks == nullptr || !scales) {
    return false;
  }
  out.part.data = blocks->data;
  out.tensors.push_back(blocks);
  return true;
}

}  // namespace atom
