#include "kernels/cpu/pack_panels.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/cpu/panel_layout.h"

namespace atom::cpu {
namespace {

// The 16 source rows of a panel. Features beyond the last are copies of it whose results nobody
// stores.
struct PanelRows {
  const uint8_t* row[kPanelRows];
  StoredRow stored[kPanelRows];
};

uint32_t load_u32(const uint8_t* p) {
  uint32_t value = 0;
  memcpy(&value, p, sizeof(value));
  return value;
}

// out [count][16] words = `count` words of every row, from byte `offset`, each xor `flip`.
void transpose_words(const PanelRows& rows, int64_t offset, int64_t count, uint32_t flip,
                     uint8_t* out) {
  auto* words = reinterpret_cast<uint32_t*>(out);
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t r = 0; r < kPanelRows; ++r) {
      words[j * kPanelRows + r] = load_u32(rows.row[r] + offset + 4 * j) ^ flip;
    }
  }
}

// out [count][16] halves = `count` 16-bit values of every row, `stride` bytes apart.
void transpose_halves(const PanelRows& rows, int64_t offset, int64_t stride, int64_t count,
                      uint8_t* out) {
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t r = 0; r < kPanelRows; ++r) {
      memcpy(out + (j * kPanelRows + r) * 2, rows.row[r] + offset + stride * j, 2);
    }
  }
}

void pack_bf16(const PanelRows& rows, int64_t cols, uint8_t* out) {
  transpose_words(rows, 0, cols / 2, 0, out);
  uint8_t* last = out + cols / 2 * 64;
  memset(last, 0, static_cast<size_t>(out + panel_bytes({.dtype = DType::kBF16}, cols) - last));
  if (cols % 2 != 0) {
    for (int64_t r = 0; r < kPanelRows; ++r) {
      memcpy(last + r * 4, rows.row[r] + (cols - 1) * 2, 2);
    }
  }
}

// Q8_0 and Q4_0: `words` 32-bit words of values after the 2-byte scale; the scales after all
// values.
void pack_scaled(const PanelRows& rows, int64_t blocks, int64_t words, uint32_t flip,
                 uint8_t* out) {
  const int64_t block_bytes = 2 + words * 4;
  for (int64_t b = 0; b < blocks; ++b) {
    transpose_words(rows, b * block_bytes + 2, words, flip, out + b * words * 64);
  }
  transpose_halves(rows, 0, block_bytes, blocks, out + blocks * words * 64);
}

void pack_q4_1(const PanelRows& rows, int64_t blocks, uint8_t* out) {
  for (int64_t b = 0; b < blocks; ++b, out += kQ4_1Bytes) {
    transpose_words(rows, b * 20 + 4, 4, 0, out);
    transpose_halves(rows, b * 20, 2, 2, out + 256);
  }
}

void pack_q4_k(const PanelRows& rows, int64_t blocks, uint8_t* out) {
  for (int64_t b = 0; b < blocks; ++b, out += kQ4KBytes) {
    transpose_words(rows, b * 144 + 16, 32, 0, out);
    for (int64_t r = 0; r < kPanelRows; ++r) {
      const uint8_t* packed =
          rows.row[r] + b * 144 + 4;  // 6-bit fields; see reference/dequantize.cpp
      for (int64_t sub = 0; sub < 8; ++sub) {
        int scale = packed[sub] & 63;
        int min = packed[sub + 4] & 63;
        if (sub >= 4) {
          scale = (packed[sub + 4] & 15) | ((packed[sub - 4] >> 6) << 4);
          min = (packed[sub + 4] >> 4) | ((packed[sub] >> 6) << 4);
        }
        out[2048 + sub * kPanelRows + r] = static_cast<uint8_t>(scale);
        out[2176 + sub * kPanelRows + r] = static_cast<uint8_t>(min);
      }
    }
    transpose_halves(rows, b * 144, 2, 2, out + 2304);
  }
}

void pack_q6_k(const PanelRows& rows, int64_t blocks, uint8_t* out) {
  for (int64_t b = 0; b < blocks; ++b, out += kQ6KBytes) {
    transpose_words(rows, b * 210, 32, 0, out);
    transpose_words(rows, b * 210 + 128, 16, 0, out + 2048);
    for (int64_t r = 0; r < kPanelRows; ++r) {
      for (int64_t sub = 0; sub < 16; ++sub) {
        out[3072 + sub * kPanelRows + r] = rows.row[r][b * 210 + 192 + sub];
      }
    }
    transpose_halves(rows, b * 210 + 208, 2, 1, out + 3328);
  }
}

// Bytes of a row as quads, padded with zeros to `quads` of them, each byte xor `flip`.
void pack_bytes(const PanelRows& rows, int64_t cols, int64_t quads, uint8_t flip, uint8_t* out) {
  const int64_t words = cols / 4;
  transpose_words(rows, 0, words, 0x01010101U * flip, out);
  memset(out + words * 64, flip, static_cast<size_t>(quads - words) * 64);
  for (int64_t r = 0; r < kPanelRows; ++r) {
    for (int64_t i = words * 4; i < cols; ++i) {
      out[words * 64 + r * 4 + i % 4] = rows.row[r][i] ^ flip;
    }
  }
}

// The middle bytes of every quad change places: the low bytes of its 16-bit halves are then
// columns 0 and 1, the high bytes columns 2 and 3.
void pair_columns(int64_t quads, uint8_t* out) {
  for (int64_t i = 0; i < quads * kPanelRows; ++i) {
    std::swap(out[i * 4 + 1], out[i * 4 + 2]);
  }
}

// Eight nibbles of a word to eight bytes, the lowest first.
uint64_t spread_nibbles(uint32_t word) {
  uint64_t x = word;
  x = (x | (x << 16)) & 0x0000ffff0000ffffU;
  x = (x | (x << 8)) & 0x00ff00ff00ff00ffU;
  return (x | (x << 4)) & 0x0f0f0f0f0f0f0f0fU;
}

// 32 columns of a row, two a byte, as 16 bytes: low nibbles columns 0-15, high nibbles 16-31.
void pair_nibbles(const uint8_t* row, int64_t nbytes, uint8_t out[16]) {
  uint8_t bytes[16] = {};
  memcpy(bytes, row, static_cast<size_t>(std::min<int64_t>(nbytes, 16)));
  for (int half = 0; half < 2; ++half) {
    const uint64_t pairs = spread_nibbles(load_u32(bytes + 4 * half)) |
                           (spread_nibbles(load_u32(bytes + 8 + 4 * half)) << 4);
    memcpy(out + 8 * half, &pairs, sizeof(pairs));
  }
}

void pack_nibbles(const PanelRows& rows, int64_t cols, uint8_t* out) {
  const int64_t bytes = (cols + 1) / 2;
  for (int64_t b = 0; b < column_blocks(cols); ++b, out += 256) {
    for (int64_t r = 0; r < kPanelRows; ++r) {
      uint8_t paired[16];
      pair_nibbles(rows.row[r] + b * 16, bytes - b * 16, paired);
      for (int64_t j = 0; j < 4; ++j) {
        memcpy(out + j * 64 + r * 4, paired + 4 * j, 4);
      }
    }
  }
}

void pack_scales(const PanelRows& rows, const DataFormat& format, int64_t cols, uint8_t* out) {
  const int64_t size = dtype_bytes(format.scale_dtype, 1);
  uint8_t* scales = out + panel_scales_at(format, cols);
  uint8_t* zeros = out + panel_zeros_at(format, cols);
  for (int64_t r = 0; r < kPanelRows; ++r) {
    for (int64_t i = 0; i < scales_per_row(format, cols); ++i) {
      memcpy(scales + (i * kPanelRows + r) * size, scale_row(rows.stored[r]) + i * size,
             static_cast<size_t>(size));
      if (format.has_zeros) {
        zeros[i * kPanelRows + r] = zero_row(rows.stored[r])[i];
      }
    }
  }
}

void pack_panel(const PanelRows& rows, const DataFormat& format, int64_t cols, uint8_t* out) {
  constexpr uint32_t kSignedToOffset = 0x80808080U;
  switch (format.dtype) {
    case DType::kI8:
      pack_bytes(rows, cols, panel_scales_at(format, cols) / 64, 0x80, out);
      return pack_scales(rows, format, cols, out);
    case DType::kF8E4M3:
      pack_bytes(rows, cols, panel_scales_at(format, cols) / 64, 0, out);
      pair_columns(panel_scales_at(format, cols) / 64, out);
      return pack_scales(rows, format, cols, out);
    case DType::kU4:
    case DType::kF4E2M1:
      pack_nibbles(rows, cols, out);
      return pack_scales(rows, format, cols, out);
    case DType::kF32:
      return transpose_words(rows, 0, cols, 0, out);
    case DType::kF16:
      return transpose_halves(rows, 0, 2, cols, out);
    case DType::kBF16:
      return pack_bf16(rows, cols, out);
    case DType::kQ8_0:
      return pack_scaled(rows, cols / 32, 8, kSignedToOffset, out);
    case DType::kQ4_0:
      return pack_scaled(rows, cols / 32, 4, 0, out);
    case DType::kQ4_1:
      return pack_q4_1(rows, cols / 32, out);
    case DType::kQ4_K:
      return pack_q4_k(rows, cols / 256, out);
    case DType::kQ6_K:
      return pack_q6_k(rows, cols / 256, out);
    default:
      return;
  }
}

}  // namespace

void pack_panels(const PackArgs& args, Range panels) {
  const int64_t bytes = panel_bytes(args.format, args.cols);
  for (int64_t p = panels.begin; p < panels.end; ++p) {
    PanelRows rows;
    for (int64_t r = 0; r < kPanelRows; ++r) {
      rows.stored[r] = stored_row(args, std::min(p * kPanelRows + r, args.rows - 1));
      rows.row[r] = rows.stored[r].data;
    }
    pack_panel(rows, args.format, args.cols, args.out + p * bytes);
  }
}

}  // namespace atom::cpu
