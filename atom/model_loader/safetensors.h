// Safetensors header: 8 bytes of length, JSON, then the data without holes. Accepts exactly what
// the Rust reference accepts (header <= 100 MB, '{' first, unique names, string metadata, offsets
// that tile the data) minus the element types that this engine does not have. Parses from memory;
// reads no tensor data. To add an element type: one row in kTypes (safetensors.cpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "atom/core/error.h"
#include "kernels/common/dtype.h"

namespace atom {

struct SafetensorsTensor {
  std::string name = {};
  DType dtype = DType::kF32;
  std::vector<int64_t> shape = {};
  int64_t begin = 0;  // bytes from the start of the file
  int64_t end = 0;
};

// Tensors in file order. Error messages name the tensor, not the file.
Result<std::vector<SafetensorsTensor>> parse_safetensors(std::span<const std::byte> file);

}  // namespace atom
