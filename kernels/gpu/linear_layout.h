// How the device stores weights of fewer than 16 bits: what the loader writes and the kernels read
// (linear/weight_formats.h). Host and device code, C++20. Not here: which checkpoint formats become
// which of these (atom/model_ops/device_linear.cpp).
//
//   e4m3, i8   [out_features, in_features]; scales: f32 [out_features]
//   e4m3       in blocks: the same; f32 [groups, block_scale_pitch], one for 128 values of k and 8
//              rows
//   u4, e2m1   [out_features, groups, 64 bytes]: a group is 128 values of k, the last one filled up
//              with zeros. Word (q, p) of a group (q of four 16-byte pieces, p of its four words)
//              holds values 32 p + 8 q and the seven after it, ordered by pack_nibbles. Scales:
//     u4       f32 [out_features], then f16 [groups, out_features, n], n = 1 for 128 values or n =
//     4
//              for 32 each, then zeros u8 of the same shape where there are any (else 8): a value
//              is (q - zero) * f16 * f32
//     e2m1     bytes [groups, out_features, 4], each 32 values times 2^(byte - 127); 1 to
//              kLargestExponent
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

namespace atom::gpu {

inline constexpr int64_t kGroupValues = 128;
inline constexpr int64_t kNibbleGroupBytes = kGroupValues / 2;
inline constexpr int64_t kPackedRowMultiple = 8;  // rows of a packed weight, and of each part of it
inline constexpr int64_t kLargestExponent = 200;

constexpr int64_t scale_groups(int64_t in_features) {
  return (in_features + kGroupValues - 1) / kGroupValues;
}

// f32 from one group's block scales to the next one's: whole tiles of 128 rows.
constexpr int64_t block_scale_pitch(int64_t out_features) {
  return (out_features + kGroupValues - 1) / kGroupValues * (kGroupValues / kPackedRowMultiple);
}

// Bytes from the beginning of the scales of u4 to the f16 ones, and from there to the zeros.
constexpr int64_t u4_scales_offset(int64_t out_features) { return out_features * 4; }
constexpr int64_t u4_scales_bytes(int64_t out_features, int64_t in_features, int64_t scale_values) {
  return scale_groups(in_features) * out_features * (kGroupValues / scale_values) * 2;
}

constexpr bool is_nibbles(DType dtype) { return dtype == DType::kU4 || dtype == DType::kF4E2M1; }

constexpr int64_t packed_row_bytes(DType dtype, int64_t in_features) {
  return is_nibbles(dtype)       ? scale_groups(in_features) * kNibbleGroupBytes
         : dtype == DType::kBF16 ? in_features * 2
                                 : in_features;
}

// Eight values of four bits, value i in bits 4 i to 4 i + 3, in the order of the device: 0, 2, 4,
// 6, 1, 3, 5, 7 from the lowest bits on, so that a shift and a mask give neighbours in two halves.
constexpr uint32_t pack_nibbles(uint32_t stored) {
  const auto gather = [](uint32_t nibbles) {  // the lower one of each byte
    nibbles = (nibbles & 0x0f0f0f0fU) | (nibbles >> 4 & 0x00f000f0U);
    return (nibbles & 0x000000ffU) | (nibbles >> 8 & 0x0000ff00U);
  };
  return gather(stored) | gather(stored >> 4) << 16;
}

// Where word (q, p) of a group lies in it, in words, and its first value.
constexpr int64_t nibble_word(int64_t q, int64_t p) { return q * 4 + p; }
constexpr int64_t nibble_value(int64_t q, int64_t p) { return 32 * p + 8 * q; }

}  // namespace atom::gpu
