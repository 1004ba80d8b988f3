// Rows of the KV cache (f32, bf16, fp8 e4m3) to f32 and back.
#pragma once

#include "kernels/common/convert.h"
#include "kernels/common/dtype.h"
#include "kernels/cpu/simd/vec.h"

namespace atom::cpu::ATOM_ISA {

ATOM_INLINE int64_t cache_value_bytes(DType dtype) {
  return dtype == DType::kF32 ? 4 : dtype == DType::kBF16 ? 2 : 1;
}

static inline void store_cache_row(DType dtype, const float* values, int64_t size, float scale,
                                   uint8_t* row) {
  if (dtype == DType::kF32) {
    memcpy(row, values, static_cast<size_t>(size) * sizeof(float));
    return;
  }
  if (dtype == DType::kBF16) {
    for (int64_t i = 0; i < size; i += 16) {
      if (i + 16 <= size) {
        i_store_u16(row + i * 2, to_bf16(f_load(values + i)));
        continue;
      }
      uint16_t lanes[16];
      i_store_u16(lanes, to_bf16(f_load_first(values + i, size - i)));
      memcpy(row + i * 2, lanes, static_cast<size_t>(size - i) * 2);
    }
    return;
  }
  for (int64_t i = 0; i < size; ++i) {
    row[i] = f32_to_f8e4m3(values[i] / scale);
  }
}

// 16 values from element i of a row; the caller has made sure that 16 can be read.
template <DType kType>
ATOM_INLINE F load_cache(const uint8_t* row, int64_t i) {
  if constexpr (kType == DType::kF32) {
    return f_load(reinterpret_cast<const float*>(row) + i);
  } else if constexpr (kType == DType::kBF16) {
    return f_load_bf16(row + i * 2);
  } else {
    // Sign, exponent and mantissa shifted into an f32 whose exponent is 120 too small; the
    // multiplication corrects that and makes subnormals right as well. NaN (0x7f) would read 480
    // and is put back.
    const I byte = i_load_u8(row + i);
    const I sign = i_shl<24>(i_and(byte, i_set(0x80)));
    const I magnitude = i_and(byte, i_set(0x7f));
    const F value = f_mul(as_f32(i_shl<20>(magnitude)), f_set(0x1p120F));
    const I nan =
        i_and(i_shr<7>(i_add(magnitude, i_set(1))), i_set(1));  // 1 where magnitude is 0x7f
    const I quiet = i_sub(i_zero(), nan);                       // all ones: a NaN
    return as_f32(i_or(i_or(as_i32(value), sign), quiet));
  }
}

}  // namespace atom::cpu::ATOM_ISA
