#include "atom/models/scheme_support.h"

#include <cmath>

#include "kernels/cpu/kernels.h"

namespace atom::schemes {

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

void wrong_type(TensorSource& source, const CheckpointTensor& tensor, const std::string& expected) {
  source.fail(str_format("{}: tensor {} has type {}, expected {}", tensor.file, tensor.name,
                         dtype_name(tensor.dtype), expected));
}

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
static bool check_finite(TensorSource& source, const CheckpointTensor& tensor, DType dtype) {
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

uint32_t word_at(const CheckpointTensor& tensor, int64_t index) {
  uint32_t word = 0;
  std::memcpy(&word, static_cast<const uint8_t*>(tensor.data) + index * 4, sizeof(word));
  return word;
}

}  // namespace atom::schemes
