// Two small hash functions for the flat tables of the tokenizer. Not for untrusted keys across
// processes, not cryptographic, values differ between endiannesses and are never stored.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace atom {

inline uint64_t mix_hash(uint64_t x) {
  x ^= x >> 32;
  x *= 0x9E3779B97F4A7C15u;
  x ^= x >> 29;
  x *= 0xBF58476D1CE4E5B9u;
  return x ^ (x >> 32);
}

inline uint64_t hash_bytes(std::string_view s) {
  uint64_t h = s.size() * 0x9E3779B97F4A7C15u;
  const char* p = s.data();
  size_t n = s.size();
  for (; n >= 8; n -= 8, p += 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    h = std::rotl((h ^ word) * 0x9FB21C651E98DF25u, 29);
  }
  uint64_t tail = 0;
  for (size_t i = 0; i < n; ++i) tail |= uint64_t{static_cast<uint8_t>(p[i])} << (8 * i);
  return mix_hash(h ^ tail * 0xC2B2AE3D27D4EB4Fu);
}

// Smallest power of two that keeps a table of `n` entries at most half full.
inline size_t table_size(size_t n) { return std::bit_ceil(n * 2 + 2); }

}  // namespace atom
