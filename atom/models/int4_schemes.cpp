// Packed 4-bit integers: compressed-tensors, GPTQ and AWQ.
#include "atom/model_loader/text.h"
#include "atom/models/scheme_support.h"

namespace atom {
namespace {

using namespace schemes;

// compressed-tensors pack-quantized: rows of nibbles, eight a word, low first; value + 8.
class PackedInt4Scheme final : public WeightScheme {
 public:
  bool stores(const TensorSource& source, const std::string& prefix,
              const QuantizationGroup&) const override {
    return source.find(prefix + ".weight_packed") != nullptr ||
           source.find(prefix + ".weight_shape") != nullptr;
  }

  bool read(TensorSource& source, const LinearShape& shape, const QuantizationGroup& group,
            StoredWeight& out) const override {
    const int64_t groups = whole_groups(source, shape, group.format.block_k);
    if (groups == 0) {
      return false;
    }
    const int64_t words = (shape.cols + 7) / 8;
    out.part = {
        .format = group.format, .rows = shape.rows, .cols = shape.cols, .row_bytes = words * 4};
    const CheckpointTensor* packed =
        take_typed(source, shape.prefix + ".weight_packed", {shape.rows, words}, DType::kI32);
    const bool scales = take_scales(source, shape.prefix + ".weight_scale", {shape.rows, groups},
                                    false, out) != nullptr;
    const bool rest = check_shape(source, shape) && read_zeros(source, shape, groups, out);
    if (packed == nullptr || !scales || !rest) {
      return false;
    }
    if (const CheckpointTensor* order = source.find(shape.prefix + ".weight_g_idx")) {
      source.fail(
          str_format("{}: tensor {}: activation order (actorder \"group\") is not supported",
                     order->file, order->name));
      return false;
    }
    out.part.data = packed->data;
    out.tensors.push_back(packed);
    return true;
  }

 private:
  static bool check_shape(TensorSource& source, const LinearShape& shape) {
    const CheckpointTensor* tensor = source.take(shape.prefix + ".weight_shape", {2});
    if (tensor == nullptr) {
      return false;
    }
    int64_t stored[2] = {};
    if (tensor->dtype == DType::kI64) {
      std::memcpy(stored, tensor->data, sizeof(stored));
    } else if (tensor->dtype == DType::kI32) {
      stored[0] = static_cast<int32_t>(word_at(*tensor, 0));
      stored[1] = static_cast<int32_t>(word_at(*tensor, 1));
    } else {
      wrong_type(source, *tensor, "i64 or i32");
      return false;
    }
    if (stored[0] != shape.rows || stored[1] != shape.cols) {
      source.fail(str_format("{}: tensor {} says [{}, {}], the model needs [{}, {}]", tensor->file,
                             tensor->name, stored[0], stored[1], shape.rows, shape.cols));
      return false;
    }
    return true;
  }

  // Eight output features a word, low nibble first.
  static bool read_zeros(TensorSource& source, const LinearShape& shape, int64_t groups,
                         StoredWeight& out) {
    if (!out.part.format.has_zeros) {
      return true;
    }
    const CheckpointTensor* packed = take_typed(source, shape.prefix + ".weight_zero_point",
                                                {(shape.rows + 7) / 8, groups}, DType::kI32);
    uint8_t* zeros = packed == nullptr ? nullptr : allocate(source, shape.rows * groups, out);
    if (zeros == nullptr) {
      return false;
    }
    for (int64_t row = 0; row < shape.rows; ++row) {
      for (int64_t g = 0; g < groups; ++g) {
        const uint32_t word = word_at(*packed, row / 8 * groups + g);
        zeros[row * groups + g] = static_cast<uint8_t>((word >> (row % 8 * 4)) & 15);
      }
    }
    out.part.zeros = zeros;
    out.tensors.push_back(packed);
    return true;
  }
};

// What GPTQ and AWQ share: qzeros [groups, rows / 8] and scales [groups, rows], input-major.
class InputMajorScheme : public WeightScheme {
 public:
  bool stores(const TensorSource& source, const std::string& prefix,
              const QuantizationGroup&) const override {
    return source.find(prefix + ".qweight") != nullptr ||
           source.find(prefix + ".scales") != nullptr;
  }

  bool read(TensorSource& source, const LinearShape& shape, const QuantizationGroup& group,
            StoredWeight& out) const override {
    const int64_t groups = whole_groups(source, shape, group.format.block_k);
    if (groups == 0) {
      return false;
    }
    if (shape.rows % 8 != 0 || shape.cols % 8 != 0) {
      source.fail(
          str_format("{}: {} rows and {} columns are not both multiples of 8, which packed "
                     "int4 needs",
                     shape.prefix, shape.rows, shape.cols));
      return false;
    }
    out.part = {.format = group.format, .rows = shape.rows, .cols = shape.cols};
    const bool scales = read_scales(source, shape, groups, out);
    const bool zeros = read_zeros(source, shape, groups, out);
    return read_values(source, shape, out) && scales && zeros;
  }

 protected:
  virtual bool read_values(TensorSource& source, const LinearShape& shape,
                           StoredWeight& out) const = 0;
  virtual uint32_t zero_of(uint32_t word, int64_t row) const = 0;

 private:
  static bool read_scales(TensorSource& source, const LinearShape& shape, int64_t groups,
                          StoredWeight& out) {
    const CheckpointTensor* stored =
        take_scales(source, shape.prefix + ".scales", {groups, shape.rows}, false, out);
    uint8_t* scales = stored == nullptr ? nullptr : allocate(source, stored->nbytes, out);
    if (scales == nullptr) {
      return false;
    }
    if (stored->dtype == DType::kF32) {
      transpose<4>(source, stored->data, groups, shape.rows, scales);
    } else {
      transpose<2>(source, stored->data, groups, shape.rows, scales);
    }
    out.part.scales = scales;
    return true;
  }

  bool read_zeros(TensorSource& source, const LinearShape& shape, int64_t groups,
                  StoredWeight& out) const {
    const CheckpointTensor* packed =
        take_typed(source, shape.prefix + ".qzeros", {groups, shape.rows / 8}, DType::kI32);
    uint8_t* zeros = packed == nullptr ? nullptr : allocate(source, shape.rows * groups, out);
    if (zeros == nullptr) {
      return false;
    }
    bool symmetric = true;
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t row = 0; row < shape.rows; ++row) {
        const uint32_t zero = zero_of(word_at(*packed, g * shape.rows / 8 + row / 8), row);
        zeros[row * groups + g] = static_cast<uint8_t>(zero);
        symmetric = symmetric && zero == 8;
      }
    }
    out.part.zeros = symmetric ? nullptr : zeros;
    out.part.format.has_zeros = !symmetric;
    out.tensors.push_back(packed);
    return true;
  }
};

// qweight [cols / 8, rows]: eight inputs a word, so that words only change places.
class GptqScheme final : public InputMajorScheme {
 public:
  explicit GptqScheme(uint32_t zero_offset) : zero_offset_(zero_offset) {}

 private:
  bool read_values(TensorSource& source, const LinearShape& shape,
                   StoredWeight& out) const override {
    const CheckpointTensor* packed =
        take_typed(source, shape.prefix + ".qweight", {shape.cols / 8, shape.rows}, DType::kI32);
    const bool ordered = check_order(source, shape, out.part.format.block_k);
    uint8_t* rows = packed == nullptr || !ordered ? nullptr : allocate(source, packed->nbytes, out);
    if (rows == nullptr) {
      return false;
    }
    transpose<4>(source, packed->data, shape.cols / 8, shape.rows, rows);
    out.part.data = rows;
    out.tensors.push_back(packed);
    return true;
  }

  uint32_t zero_of(uint32_t word, int64_t row) const override {
    return ((word >> (row % 8 * 4)) + zero_offset_) & 15;
  }

  // Inputs belong to groups in order; quantised by falling importance (desc_act) they do not.
  static bool check_order(TensorSource& source, const LinearShape& shape, int64_t group) {
    const std::string name = shape.prefix + ".g_idx";
    if (source.find(name) == nullptr) {
      return true;
    }
    const CheckpointTensor* index = take_typed(source, name, {shape.cols}, DType::kI32);
    if (index == nullptr) {
      return false;
    }
    for (int64_t i = 0; i < shape.cols; ++i) {
      if (word_at(*index, i) != static_cast<uint32_t>(group <= 0 ? 0 : i / group)) {
        source.fail(str_format("{}: tensor {}: activation order (desc_act) is not supported",
                               index->file, index->name));
        return false;
      }
    }
    return true;
  }

  uint32_t zero_offset_;
};

// qweight [cols, rows / 8]: nibble j of a word is output feature kOrder[j] of its eight.
class AwqScheme final : public InputMajorScheme {
  static constexpr int kNibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // of output feature i of a word

  bool read_values(TensorSource& source, const LinearShape& shape,
                   StoredWeight& out) const override {
    const int64_t words = shape.rows / 8;
    const CheckpointTensor* packed =
        take_typed(source, shape.prefix + ".qweight", {shape.cols, words}, DType::kI32);
    uint8_t* rows = packed == nullptr ? nullptr : allocate(source, packed->nbytes, out);
    if (rows == nullptr) {
      return false;
    }
    const int64_t bytes = shape.cols / 2;  // of a row
    in_pieces(source, words, 16, [&](int64_t begin, int64_t end) {
      for (int64_t c = 0; c < shape.cols; c += 2) {
        for (int64_t w = begin; w < end; ++w) {
          const uint32_t even = word_at(*packed, c * words + w);
          const uint32_t odd = word_at(*packed, (c + 1) * words + w);
          for (int64_t i = 0; i < 8; ++i) {
            const int shift = kNibble[i] * 4;
            rows[(w * 8 + i) * bytes + c / 2] =
                static_cast<uint8_t>(((even >> shift) & 15) | (((odd >> shift) & 15) << 4));
          }
        }
      }
    });
    out.part.data = rows;
    out.tensors.push_back(packed);
    return true;
  }

  uint32_t zero_of(uint32_t word, int64_t row) const override {
    return (word >> (kNibble[row % 8] * 4)) & 15;
  }
};

}  // namespace

const WeightScheme& packed_int4_scheme() {
  static const PackedInt4Scheme kScheme;
  return kScheme;
}
const WeightScheme& gptq_scheme() {
  static const GptqScheme kScheme(1);
  return kScheme;
}
const WeightScheme& gptq_v2_scheme() {
  static const GptqScheme kScheme(0);
  return kScheme;
}
const WeightScheme& awq_scheme() {
  static const AwqScheme kScheme;
  return kScheme;
}

}  // namespace atom
