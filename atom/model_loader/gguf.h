// GGUF container, versions 2 and 3: metadata and tensor table, parsed from memory. Every count and
// length is compared with what is left of the file before it is used; values stay views into the
// file. Knows nothing of architectures or names (gguf_arch.h does). To add a tensor type: one row
// in kTypes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "atom/core/error.h"
#include "kernels/common/dtype.h"

namespace atom {

enum class GgufType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
};

struct GgufValue {
  GgufType type = GgufType::kU8;
  GgufType element = GgufType::kU8;  // of an array
  uint64_t count = 1;                // elements of an array
  std::span<const std::byte> data;   // the payload: scalar bytes, text, or the array's elements

  // Each is empty when the value has another type. as_integer is empty for values above INT64_MAX.
  std::optional<int64_t> as_integer() const;
  std::optional<double> as_number() const;  // any integer or float
  std::optional<bool> as_bool() const;
  std::optional<std::string_view> as_string() const;
  std::optional<std::vector<std::string_view>> as_strings() const;
  std::optional<std::vector<double>> as_numbers() const;
};

const char* gguf_type_name(GgufType type);

struct GgufTensor {
  std::string_view name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // slowest first, the reverse of the file's order
  int64_t begin = 0;           // bytes from the start of the file
  int64_t nbytes = 0;
};

struct GgufFile {
  uint32_t version = 0;
  std::unordered_map<std::string_view, GgufValue> metadata;
  std::vector<GgufTensor> tensors;

  const GgufValue* find(std::string_view key) const;
};

// The result refers to `file`. Error messages name key or tensor, not the file.
Result<GgufFile> parse_gguf(std::span<const std::byte> file);

}  // namespace atom
