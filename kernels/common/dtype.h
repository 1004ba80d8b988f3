// Element types that kernels and engine share. C++20: device code includes this file.
// kU4 and kF4E2M1 hold two values a byte, the first in the low nibble; their scales, like those of
// kF8E4M3 and kI8, are stored apart (data_format.h). A block type (Q8_0 ... Q6_K) packs
// `block_size` values with their scales into `block_bytes` bytes; the layouts are those of GGUF
// (ggml-common.h). To add a type: one enum value, one row in `dtype_info`.
#pragma once

#include <cstdint>

namespace atom {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kF8E4M3,  // OCP e4m3fn
  kI8,
  kU8,
  kI32,
  kI64,
  kBool,
  kU4,      // unsigned integers 0 ... 15
  kF4E2M1,  // OCP e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives
  kF8E8M0,  // 2^(byte - 127), 255 is NaN: scales of MX formats
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ4_K,
  kQ6_K,
};

struct DTypeInfo {
  const char* name;
  int block_size;   // values per block; 1 for plain types
  int block_bytes;  // bytes per block
};

constexpr DTypeInfo dtype_info(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {"f32", 1, 4};
    case DType::kF16:
      return {"f16", 1, 2};
    case DType::kBF16:
      return {"bf16", 1, 2};
    case DType::kF8E4M3:
      return {"fp8_e4m3", 1, 1};
    case DType::kI8:
      return {"i8", 1, 1};
    case DType::kU8:
      return {"u8", 1, 1};
    case DType::kI32:
      return {"i32", 1, 4};
    case DType::kI64:
      return {"i64", 1, 8};
    case DType::kBool:
      return {"bool", 1, 1};
    case DType::kU4:
      return {"u4", 2, 1};
    case DType::kF4E2M1:
      return {"fp4_e2m1", 2, 1};
    case DType::kF8E8M0:
      return {"fp8_e8m0", 1, 1};
    case DType::kQ8_0:
      return {"q8_0", 32, 34};
    case DType::kQ4_0:
      return {"q4_0", 32, 18};
    case DType::kQ4_1:
      return {"q4_1", 32, 20};
    case DType::kQ4_K:
      return {"q4_k", 256, 144};
    case DType::kQ6_K:
      return {"q6_k", 256, 210};
  }
  return {"unknown", 1, 0};
}

constexpr const char* dtype_name(DType dtype) { return dtype_info(dtype).name; }

// Bytes of `count` consecutive values; `count` must be a multiple of the block size.
constexpr int64_t dtype_bytes(DType dtype, int64_t count) {
  const DTypeInfo info = dtype_info(dtype);
  return count / info.block_size * info.block_bytes;
}

}  // namespace atom
