#include "atom/models/weight_schemes.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <optional>

#include "atom/model_loader/text.h"
#include "kernels/cpu/kernels.h"

namespace atom {
namespace {

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

void wrong_type(TensorSource& source, const CheckpointTensor& tensor, const std::string& expected) {
  source.fail(str_format("{}: tensor {} has type {}, expected {}", tensor.file, tensor.name,
                         dtype_name(tensor.dtype), expected));
}

// A tensor of one type; nullptr after reporting.
const CheckpointTensor* take_typed(TensorSource& source, const std::string& name,
                                   std::initializer_list<int64_t> shape, DType dtype) {
  const CheckpointTensor* tensor = source.take(name, shape);
  if (tensor != nullptr && tensor->dtype != dtype) {
    wrong_type(source, *tensor, dtype_name(dtype));
    return nullptr;
  }
  return tensor;
}

// Every scale is a number.
bool check_finite(TensorSource& source, const CheckpointTensor& tensor, DType dtype) {
  const auto* bytes = static_cast<const uint8_t*>(tensor.data);
  const int64_t count = tensor.nbytes / dtype_bytes(dtype, 1);
  bool finite = true;
  if (dtype == DType::kF8E8M0) {
    finite = count == 0 || std::memchr(bytes, 255, static_cast<size_t>(count)) == nullptr;
  }
  constexpr int64_t kChunk = 1024;
  float values[kChunk];
  for (int64_t i = 0; i < count && dtype != DType::kF8E8M0 && finite; i += kChunk) {
    const int64_t size = std::min(kChunk, count - i);
    cpu::dequantize(dtype, bytes, i, size, values);
    finite = std::all_of(values, values + size, [](float value) { return std::isfinite(value); });
  }
  if (!finite) {
    source.fail(str_format("{}: tensor {} has a scale that is not a finite number", tensor.file,
                           tensor.name));
  }
  return finite;
}

// Scales of any float type, or bytes that are powers of two where `mx`.
const CheckpointTensor* take_scales(TensorSource& source, const std::string& name,
                                    std::initializer_list<int64_t> shape, bool mx,
                                    StoredWeight& out) {
  const CheckpointTensor* tensor = source.take(name, shape);
  if (tensor == nullptr) {
    return nullptr;
  }
  const bool right =
      mx ? tensor->dtype == DType::kU8 || tensor->dtype == DType::kF8E8M0 : is_float(tensor->dtype);
  if (!right) {
    wrong_type(source, *tensor, mx ? "u8" : "f32, f16 or bf16");
    return nullptr;
  }
  out.part.format.scale_dtype = mx ? DType::kF8E8M0 : tensor->dtype;
  out.part.scales = tensor->data;
  out.tensors.push_back(tensor);
  return check_finite(source, *tensor, out.part.format.scale_dtype) ? tensor : nullptr;
}

// Groups along a row, all of one size; 0 after reporting.
int64_t whole_groups(TensorSource& source, const LinearShape& shape, int64_t group) {
  if (group > 0 && shape.cols % group != 0) {
    source.fail(str_format("{}: group_size {} does not divide the {} columns", shape.prefix, group,
                           shape.cols));
    return 0;
  }
  return group <= 0 ? 1 : shape.cols / group;
}

uint8_t* allocate(TensorSource& source, int64_t bytes, StoredWeight& out) {
  auto buffer = Buffer::allocate(bytes);
  if (!buffer) {
    source.fail(buffer.error().message);
    return nullptr;
  }
  out.memory.push_back(std::move(*buffer));
  return static_cast<uint8_t*>(out.memory.back().data());
}

// Runs body(begin, end) over [0, count) in pieces on all threads.
template <class Body>
void in_pieces(TensorSource& source, int64_t count, int64_t piece, const Body& body) {
  source.parallel()((count + piece - 1) / piece,
                    [&](int64_t i) { body(i * piece, std::min(count, (i + 1) * piece)); });
}

// out [cols][rows] = in [rows][cols], of values of kSize bytes, in tiles that stay in the cache.
template <int64_t kSize>
void transpose(TensorSource& source, const void* from, int64_t rows, int64_t cols, uint8_t* out) {
  constexpr int64_t kTile = 16;
  const auto* in = static_cast<const uint8_t*>(from);
  in_pieces(source, cols, kTile, [&](int64_t begin, int64_t end) {
    for (int64_t r0 = 0; r0 < rows; r0 += kTile) {
      for (int64_t c = begin; c < end; ++c) {
        for (int64_t r = r0; r < std::min(rows, r0 + kTile); ++r) {
          std::memcpy(out + (c * rows + r) * kSize, in + (r * cols + c) * kSize, kSize);
        }
      }
    }
  });
}

uint32_t word_at(const CheckpointTensor& tensor, int64_t index) {
  uint32_t word = 0;
  std::memcpy(&word, static_cast<const uint8_t*>(tensor.data) + index * 4, sizeof(word));
  return word;
}

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
  static const ScaledScheme kScaled;
  static const PackedInt4Scheme kPackedInt4;
  static const GptqScheme kGptq(1);
  static const GptqScheme kGptqV2(0);
  static const AwqScheme kAwq;
  switch (layout) {
    case WeightLayout::kScaled:
      return kScaled;
    case WeightLayout::kPackedInt4:
      return kPackedInt4;
    case WeightLayout::kGptq:
      return kGptq;
    case WeightLayout::kGptqV2:
      return kGptqV2;
    case WeightLayout::kAwq:
      return kAwq;
  }
  return kScaled;
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
