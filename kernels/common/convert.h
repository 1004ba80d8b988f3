// Scalar conversions between f32 and the small float types, round to nearest even. C++20.
// `static inline` on purpose: a file compiled for a newer instruction set keeps its own copy, so
// the linker can never hand such a copy to code that runs on older processors.
#pragma once

#include <cstdint>
#include <cstring>

namespace atom {

static inline uint32_t float_bits(float value) {
  uint32_t bits = 0;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

static inline float bits_float(uint32_t bits) {
  float value = 0;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

static inline float bf16_to_f32(uint16_t value) { return bits_float(uint32_t{value} << 16); }

static inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) {
    return static_cast<uint16_t>((bits >> 16) | 0x40U);  // NaN stays a quiet NaN
  }
  return static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

static inline float f16_to_f32(uint16_t value) {
  const uint32_t sign = (uint32_t{value} & 0x8000U) << 16;
  const uint32_t magnitude = value & 0x7fffU;
  if (magnitude >= 0x7c00U) {  // infinity, NaN
    return bits_float(sign | 0x7f800000U | ((magnitude & 0x3ffU) << 13));
  }
  if (magnitude < 0x400U) {  // zero, subnormal: magnitude * 2^-24
    return bits_float(sign | float_bits(static_cast<float>(magnitude) * 0x1p-24F));
  }
  return bits_float(sign | ((magnitude << 13) + 0x38000000U));
}

// Values beyond the largest become infinities.
static inline uint16_t f32_to_f16(float value) {
  const uint32_t bits = float_bits(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000U);
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) {
    return static_cast<uint16_t>(sign | 0x7e00U);
  }
  if (magnitude >= 0x477ff000U) {  // 65520, which rounds up past 65504
    return static_cast<uint16_t>(sign | 0x7c00U);
  }
  if (magnitude < 0x38800000U) {  // < 2^-14: adding 0.5 leaves the value as a multiple of 2^-24
    return static_cast<uint16_t>(sign | (float_bits(bits_float(magnitude) + 0.5F) & 0x7fffU));
  }
  const uint32_t rounded = magnitude + 0xfffU + ((magnitude >> 13) & 1U);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
}

// OCP e4m3fn: 4 exponent bits (bias 7), 3 mantissa bits, no infinity, NaN is S.1111.111.
static inline float f8e4m3_to_f32(uint8_t value) {
  const uint32_t sign = (uint32_t{value} & 0x80U) << 24;
  const uint32_t magnitude = value & 0x7fU;
  if (magnitude == 0x7fU) {
    return bits_float(sign | 0x7fc00000U);
  }
  if (magnitude < 8) {  // subnormal: magnitude * 2^-9
    return bits_float(sign | float_bits(static_cast<float>(magnitude) * 0x1p-9F));
  }
  return bits_float(sign | ((magnitude << 20) + 0x3c000000U));
}

// Values beyond the largest (448) saturate, infinities included.
static inline uint8_t f32_to_f8e4m3(float value) {
  const uint32_t bits = float_bits(value);
  const auto sign = static_cast<uint8_t>((bits >> 24) & 0x80U);
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) {
    return static_cast<uint8_t>(sign | 0x7fU);
  }
  if (magnitude >= 0x43e00000U) {  // >= 448
    return static_cast<uint8_t>(sign | 0x7eU);
  }
  if (magnitude < 0x3c800000U) {  // < 2^-6: adding 2^14 leaves the value as a multiple of 2^-9
    return static_cast<uint8_t>(sign | (float_bits(bits_float(magnitude) + 0x1p14F) & 0xffU));
  }
  const uint32_t rounded = magnitude + 0x7ffffU + ((magnitude >> 20) & 1U);
  return static_cast<uint8_t>(sign | ((rounded - 0x3c000000U) >> 20));
}

// OCP e2m1, in the low four bits.
static inline float f4e2m1_to_f32(uint32_t code) {
  const float magnitude[8] = {0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F};
  return (code & 8U) != 0 ? -magnitude[code & 7U] : magnitude[code & 7U];
}

// 2^(value - 127); 255 is NaN.
static inline float f8e8m0_to_f32(uint8_t value) {
  if (value == 255) {
    return bits_float(0x7fc00000U);
  }
  return bits_float(value == 0 ? 0x00400000U : uint32_t{value} << 23);
}

}  // namespace atom
