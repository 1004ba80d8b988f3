// Stored values of every weight type to f32, the definition of each format. Block layouts: GGUF
// (ggml-common.h); multi-byte fields are little-endian and may be unaligned.
#include <cstring>

#include "kernels/common/convert.h"
#include "kernels/cpu/kernels.h"

namespace atom::cpu {
namespace {

uint16_t load_u16(const uint8_t* p) {
  uint16_t value = 0;
  memcpy(&value, p, sizeof(value));
  return value;
}

float load_f16(const uint8_t* p) { return f16_to_f32(load_u16(p)); }

// 34 bytes: d f16, q i8[32]; w = d * q
void decode_q8_0(const uint8_t* block, float* out) {
  const float d = load_f16(block);
  for (int i = 0; i < 32; ++i) {
    out[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
  }
}

// 18 bytes: d f16, nibbles[16]: low = values 0-15, high = values 16-31; w = d * (q - 8)
void decode_q4_0(const uint8_t* block, float* out) {
  const float d = load_f16(block);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((block[2 + i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((block[2 + i] >> 4) - 8);
  }
}

// 20 bytes: d f16, m f16, nibbles[16]; w = d * q + m
void decode_q4_1(const uint8_t* block, float* out) {
  const float d = load_f16(block);
  const float m = load_f16(block + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(block[4 + i] & 15) + m;
    out[i + 16] = d * static_cast<float>(block[4 + i] >> 4) + m;
  }
}

// 144 bytes: d f16, dmin f16, 6-bit scales and minima [12], nibbles [128] in four groups of 32
// bytes: low nibbles are sub-block 2g, high nibbles sub-block 2g + 1; w = d * sc * q - dmin * min
void decode_q4_k(const uint8_t* block, float* out) {
  const float d = load_f16(block);
  const float dmin = load_f16(block + 2);
  const uint8_t* packed = block + 4;
  for (int sub = 0; sub < 8; ++sub) {
    int scale = packed[sub] & 63;
    int min = packed[sub + 4] & 63;
    if (sub >= 4) {  // low 4 bits in the last four bytes, high 2 bits on top of the first eight
      scale = (packed[sub + 4] & 15) | ((packed[sub - 4] >> 6) << 4);
      min = (packed[sub + 4] >> 4) | ((packed[sub] >> 6) << 4);
    }
    const float dsc = d * static_cast<float>(scale);
    const float m = dmin * static_cast<float>(min);
    const uint8_t* q = block + 16 + sub / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const int nibble = sub % 2 == 0 ? q[i] & 15 : q[i] >> 4;
      out[sub * 32 + i] = dsc * static_cast<float>(nibble) - m;
    }
  }
}

// 210 bytes: low nibbles [128], high 2 bits [64], scales i8 [16], d f16; two halves of 128 values,
// each of four runs of 32; one scale per 16 values; w = d * sc * (q - 32)
void decode_q6_k(const uint8_t* block, float* out) {
  const float d = load_f16(block + 208);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* low = block + half * 64;
    const uint8_t* high = block + 128 + half * 32;
    const uint8_t* scales = block + 192 + half * 8;
    for (int run = 0; run < 4; ++run) {
      for (int i = 0; i < 32; ++i) {
        const uint8_t byte = low[(run % 2) * 32 + i];
        const int nibble = run < 2 ? byte & 15 : byte >> 4;
        const int q = (nibble | (((high[i] >> (2 * run)) & 3) << 4)) - 32;
        const auto scale = static_cast<int8_t>(scales[run * 2 + i / 16]);
        out[half * 128 + run * 32 + i] = d * static_cast<float>(scale) * static_cast<float>(q);
      }
    }
  }
}

void decode_plain(DType dtype, const uint8_t* data, int64_t count, float* out) {
  switch (dtype) {
    case DType::kF32:
      memcpy(out, data, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) out[i] = load_f16(data + 2 * i);
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < count; ++i) out[i] = bf16_to_f32(load_u16(data + 2 * i));
      return;
    default:
      return;
  }
}

}  // namespace

void dequantize(DType dtype, const uint8_t* row, int64_t begin, int64_t count, float* out) {
  const DTypeInfo info = dtype_info(dtype);
  const uint8_t* data = row + dtype_bytes(dtype, begin);
  if (info.block_size == 1) {
    return decode_plain(dtype, data, count, out);
  }
  for (int64_t i = 0; i < count;
       i += info.block_size, data += info.block_bytes, out += info.block_size) {
    switch (dtype) {
      case DType::kQ8_0:
        decode_q8_0(data, out);
        break;
      case DType::kQ4_0:
        decode_q4_0(data, out);
        break;
      case DType::kQ4_1:
        decode_q4_1(data, out);
        break;
      case DType::kQ4_K:
        decode_q4_k(data, out);
        break;
      case DType::kQ6_K:
        decode_q6_k(data, out);
        break;
      default:
        break;
    }
  }
}

namespace {

float load_scale(DType dtype, const uint8_t* scales, int64_t index) {
  if (dtype == DType::kF8E8M0) {
    return f8e8m0_to_f32(scales[index]);
  }
  float value = 0;
  decode_plain(dtype, scales + dtype_bytes(dtype, index), 1, &value);
  return value;
}

// The stored number itself, before zero point and scale.
float load_value(DType dtype, const uint8_t* row, int64_t i) {
  const auto nibble = static_cast<uint8_t>(i % 2 == 0 ? row[i / 2] & 15 : row[i / 2] >> 4);
  switch (dtype) {
    case DType::kF8E4M3:
      return f8e4m3_to_f32(row[i]);
    case DType::kI8:
      return static_cast<float>(static_cast<int8_t>(row[i]));
    case DType::kU4:
      return static_cast<float>(nibble);
    case DType::kF4E2M1:
      return f4e2m1_to_f32(nibble);
    default:
      return 0.0F;
  }
}

int64_t tile_row(const StoredRow& row) {
  const int64_t block = row.source->format.block_n;
  return (block <= 0 ? 0 : row.row / block) * scales_per_row(row.source->format, row.source->cols);
}

}  // namespace

const uint8_t* scale_row(const StoredRow& row) {
  return row.source->scales + dtype_bytes(row.source->format.scale_dtype, tile_row(row));
}

const uint8_t* zero_row(const StoredRow& row) { return row.source->zeros + tile_row(row); }

void dequantize_row(const StoredRow& row, int64_t begin, int64_t count, float* out) {
  const DataFormat& format = row.source->format;
  if (!has_scales(format)) {
    return dequantize(format.dtype, row.data, begin, count, out);
  }
  const float middle = format.dtype == DType::kU4 ? 8.0F : 0.0F;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t tile = format.block_k <= 0 ? 0 : (begin + i) / format.block_k;
    const float zero = format.has_zeros ? static_cast<float>(zero_row(row)[tile]) : middle;
    out[i] = (load_value(format.dtype, row.data, begin + i) - zero) *
             load_scale(format.scale_dtype, scale_row(row), tile);
  }
}

}  // namespace atom::cpu
