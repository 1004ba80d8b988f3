// The key and value up-projection of latent attention: one checkpoint matrix, of any format, split
// into the products that an absorbed layer needs.
#include <algorithm>
#include <span>
#include <utility>

#include "atom/models/weight_loader.h"
#include "kernels/common/convert.h"

namespace atom {
namespace {

// Quantised values go to bf16, which rounds them once more, where bf16 rounding is allowed at all.
DType packed_type(const DataFormat& stored, ComputeType compute) {
  if (stored.dtype == DType::kBF16 || stored.dtype == DType::kF32) {
    return stored.dtype;
  }
  return stored.dtype == DType::kF16 || compute == ComputeType::kFloat32 ? DType::kF32
                                                                         : DType::kBF16;
}

// Head `head` of kv_b_proj, [nope + v_head_dim, rank] in `rows`: the first go transposed into the
// head's rows of `keys` [row_stride, nope], the others into those of `values` [row_stride, rank].
void split_head(std::span<const float> rows, int64_t head, const HeadsWeight& keys,
                const HeadsWeight& values, float* key_rows, float* value_rows) {
  const int64_t nope = keys.in_features;
  const int64_t rank = keys.out_features;
  float* key = key_rows + head * keys.row_stride() * nope;
  for (int64_t n = 0; n < nope; ++n) {
    for (int64_t r = 0; r < rank; ++r) {
      key[r * nope + n] = rows[static_cast<size_t>(n * rank + r)];
    }
  }
  std::ranges::copy(rows.subspan(static_cast<size_t>(nope * rank)),
                    value_rows + head * values.row_stride() * rank);
}

// f32 rows [num_heads * row_stride, in_features] as a part of type `dtype`, in place of `rows`.
Result<WeightPart> narrow(Buffer& rows, DType dtype, const HeadsWeight& heads) {
  const int64_t count = heads.num_heads * heads.row_stride() * heads.in_features;
  if (dtype == DType::kBF16) {
    ATOM_ASSIGN_OR_RETURN(Buffer rounded,
                          Buffer::allocate(count * static_cast<int64_t>(sizeof(uint16_t))));
    const auto* values = static_cast<const float*>(rows.data());
    std::transform(values, values + count, static_cast<uint16_t*>(rounded.data()), f32_to_bf16);
    rows = std::move(rounded);
  }
  return WeightPart{.data = rows.data(),
                    .format = {.dtype = dtype},
                    .rows = heads.num_heads * heads.row_stride(),
                    .cols = heads.in_features};
}

}  // namespace

void WeightLoader::latent_up(MlaAttention& layer, const std::string& prefix) {
  const MlaShape& shape = layer.shape;
  const int64_t head_rows = shape.nope + layer.v_head_dim;
  layer.key_up = {.num_heads = shape.num_heads,
                  .out_features = shape.rank,
                  .in_features = shape.nope,
                  .weight = {}};
  layer.value_up = {.num_heads = shape.num_heads,
                    .out_features = layer.v_head_dim,
                    .in_features = shape.rank,
                    .weight = {}};
  if (options_.dummy != DummyWeights::kNone && ctx_.runtime != nullptr) {
    return make_up_heads(layer, prefix);
  }
  const std::optional<StoredWeight> stored =
      stored_weight(prefix, shape.num_heads * head_rows, shape.rank);
  if (!stored) {
    return;
  }
  const auto rows_of = [](const HeadsWeight& heads) {
    return Buffer::allocate(heads.num_heads * heads.row_stride() * heads.in_features *
                            static_cast<int64_t>(sizeof(float)));
  };
  auto keys = rows_of(layer.key_up);
  auto values = rows_of(layer.value_up);
  if (!keys || !values) {
    return fail((keys ? values : keys).error().message);
  }
  const WeightPart& part = stored->part;
  ctx_.parallel(shape.num_heads, [&](int64_t head) {
    std::vector<float> rows(static_cast<size_t>(head_rows * shape.rank));
    dequantize_rows(part, head * head_rows, head_rows, rows.data());
    split_head(rows, head, layer.key_up, layer.value_up, static_cast<float*>(keys->data()),
               static_cast<float*>(values->data()));
  });
  done_with(*stored);
  const DType dtype = packed_type(part.format, options_.compute);
  for (const auto& [rows, heads] :
       {std::pair{&*keys, &layer.key_up}, std::pair{&*values, &layer.value_up}}) {
    const Result<WeightPart> packed = narrow(*rows, dtype, *heads);
    if (!packed) {
      return fail(packed.error().message);
    }
    pack_parts(heads->weight, {&*packed, 1}, prefix, Precision::kKeep);
  }
}

// Dummy weights of a device are made there, each product's for itself.
void WeightLoader::make_up_heads(MlaAttention& layer, const std::string& prefix) {
  for (HeadsWeight* heads : {&layer.key_up, &layer.value_up}) {
    Buffer memory;
    const WeightPart part =
        dummy_part(heads->num_heads * heads->row_stride(), heads->in_features, memory);
    if (part.data == nullptr) {
      return;
    }
    pack_parts(heads->weight, {&part, 1}, prefix, Precision::kKeep);
  }
}

}  // namespace atom
