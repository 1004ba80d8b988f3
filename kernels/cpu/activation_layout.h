// How rows of x are laid out for kernels that do not read f32, and how many bytes that takes. The
// caller provides the memory (LinearArgs::input); a layout is filled once and read by every panel.
// Functions are always inlined, for the reason given in simd/vec.h.
#pragma once

#include <stdint.h>

namespace atom::cpu {

struct Int16Planes {
  int8_t value[2][32];  // high and low bytes: x = 256 * high + low, both signed
};
struct Int16Sums {
  int32_t half[2];  // sums of the integers of columns 0-15 and 16-31
};

// Activations as 16-bit integers per 32 columns; every array is
// [ceil(cols / 32)][num_tokens]; columns beyond the last are zero.
struct Int16View {
  Int16Planes* planes;
  Int16Sums* sums;
  float* scale;       // real value = scale * integer
  float* scaled_sum;  // scale * sum of the integers

  __attribute__((always_inline))
  Int16View(const uint8_t* memory, int64_t num_tokens, int64_t cols) {
    const int64_t count = num_tokens * ((cols + 31) / 32);
    planes = reinterpret_cast<Int16Planes*>(const_cast<uint8_t*>(memory));
    sums = reinterpret_cast<Int16Sums*>(planes + count);
    scale = reinterpret_cast<float*>(sums + count);
    scaled_sum = scale + count;
  }
  __attribute__((always_inline)) static int64_t bytes(int64_t num_tokens, int64_t cols) {
    return num_tokens * ((cols + 31) / 32) * 80;
  }

  __attribute__((always_inline)) int32_t half_sum(int64_t index, int part, int parts) const {
    return parts == 2 ? sums[index].half[part] : sums[index].half[0] + sums[index].half[1];
  }
};

// Activations as 8-bit integers with one scale per token: [num_tokens][columns] or, for AMX,
// [columns / 64][num_tokens][64]; columns are padded with zero to whole chunks of 64.
struct Int8View {
  int8_t* values;
  int32_t* sums;  // [num_tokens] of a row's integers
  float* scales;  // [num_tokens] real value = scale * integer

  __attribute__((always_inline)) static int64_t columns(int64_t cols) {
    return (cols + 63) / 64 * 64;
  }
  __attribute__((always_inline)) Int8View(const uint8_t* memory, int64_t num_tokens, int64_t cols) {
    values = reinterpret_cast<int8_t*>(const_cast<uint8_t*>(memory));
    sums = reinterpret_cast<int32_t*>(values + num_tokens * columns(cols));
    scales = reinterpret_cast<float*>(sums + num_tokens);
  }
  __attribute__((always_inline)) static int64_t bytes(int64_t num_tokens, int64_t cols) {
    return num_tokens * (columns(cols) + 8);
  }
};

// Activations rounded to bf16, [num_tokens][cols] or, for AMX, [cols / 32][num_tokens][32]; columns
// are padded with zero to whole chunks of 32.
__attribute__((always_inline)) static inline int64_t bf16_chunks(int64_t cols) {
  return (cols + 31) / 32;
}
__attribute__((always_inline)) static inline int64_t bf16_pairs(int64_t cols) {
  return bf16_chunks(cols) * 16;
}

}  // namespace atom::cpu
