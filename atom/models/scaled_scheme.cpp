// Weights with scales beside them: per tensor, per channel or per block, FP8, INT8 and MXFP4.
#include <atomic>

#include "atom/models/scheme_support.h"

namespace atom {
namespace {

using namespace schemes;

// weight + weight_scale or weight_scale_inv, and input_scale where activations are static: they are
// kept in more than 8 bits here, so the scale is only checked.
class ScaledScheme final : public WeightScheme {
 public:
  bool stores(const TensorSource& source, const std::string& prefix,
              const QuantizationGroup& group) const override {
    const CheckpointTensor* weight = source.find(prefix + ".weight");
    return weight != nullptr && weight->dtype == stored_type(group);
  }

  bool read(TensorSource& source, const LinearShape& shape, const QuantizationGroup& group,
            StoredWeight& out) const override {
    const DataFormat& format = group.format;
    const bool nibbles = format.dtype == DType::kF4E2M1;
    out.part = {.format = format, .rows = shape.rows, .cols = shape.cols};
    if (nibbles && shape.cols % format.block_k != 0) {
      return whole_groups(source, shape, format.block_k) != 0;
    }
    const CheckpointTensor* weight =
        take_typed(source, shape.prefix + ".weight",
                   {shape.rows, nibbles ? shape.cols / 2 : shape.cols}, stored_type(group));
    const bool scales = take_scale(source, shape, out);
    const bool inputs = take_optional_scale(source, shape.prefix + ".input_scale") &&
                        take_optional_scale(source, shape.prefix + ".output_scale");
    if (weight == nullptr || !scales || !inputs || !check_numbers(source, *weight)) {
      return false;
    }
    out.part.data = weight->data;
    out.tensors.push_back(weight);
    return true;
  }

 private:
  static DType stored_type(const QuantizationGroup& group) {
    return group.format.dtype == DType::kF4E2M1 ? DType::kU8 : group.format.dtype;
  }

  // Kernels convert e4m3 without a thought for NaN (0x7f, 0xff).
  static bool check_numbers(TensorSource& source, const CheckpointTensor& weight) {
    if (weight.dtype != DType::kF8E4M3) {
      return true;
    }
    const auto* bytes = static_cast<const uint8_t*>(weight.data);
    std::atomic<bool> found = false;
    in_pieces(source, weight.nbytes, 1 << 20, [&](int64_t begin, int64_t end) {
      uint8_t any = 0;
      for (int64_t i = begin; i < end; ++i) {
        any |= static_cast<uint8_t>((bytes[i] & 0x7f) + 1);  // bit 7: NaN
      }
      if ((any & 0x80) != 0) {
        found = true;
      }
    });
    if (found) {
      source.fail(str_format("{}: tensor {} holds NaN", weight.file, weight.name));
    }
    return !found;
  }

  static bool take_scale(TensorSource& source, const LinearShape& shape, StoredWeight& out) {
    const DataFormat& format = out.part.format;
    std::string name = shape.prefix + ".weight_scale";
    if (source.find(name) == nullptr &&
        (format.block_n > 1 || source.find(name + "_inv") != nullptr)) {
      name += "_inv";
    }
    const CheckpointTensor* stored = source.find(name);
    const size_t rank = stored == nullptr ? 0 : stored->shape.size();
    const bool mx = format.scale_dtype == DType::kF8E8M0;
    if (format.block_n == -1) {
      return (rank == 0 && stored != nullptr ? take_scales(source, name, {}, mx, out)
                                             : take_scales(source, name, {1}, mx, out)) != nullptr;
    }
    if (format.block_n == 1 && format.block_k == -1 && rank == 1) {
      return take_scales(source, name, {shape.rows}, mx, out) != nullptr;
    }
    const int64_t tile_rows = (shape.rows + format.block_n - 1) / format.block_n;
    return take_scales(source, name, {tile_rows, scales_per_row(format, shape.cols)}, mx, out) !=
           nullptr;
  }

  static bool take_optional_scale(TensorSource& source, const std::string& name) {
    const CheckpointTensor* stored = source.find(name);
    if (stored == nullptr) {
      return true;
    }
    StoredWeight unused;
    return (stored->shape.empty() ? take_scales(source, name, {}, false, unused)
                                  : take_scales(source, name, {1}, false, unused)) != nullptr;
  }
};

}  // namespace

const WeightScheme& scaled_scheme() {
  static const ScaledScheme kScheme;
  return kScheme;
}

}  // namespace atom
