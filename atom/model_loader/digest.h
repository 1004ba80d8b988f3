// Incremental SHA-256 (FIPS 180-4), and SHA-1 for git object names: what the hub's ETags are. For
// checking downloads, not for secrets.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace atom {

class Digest {
 public:
  enum class Kind { kSha1, kSha256 };

  explicit Digest(Kind kind);
  void update(std::span<const std::byte> data);
  // Lower-case hexadecimal; the object is spent afterwards.
  std::string finish();

 private:
  void process_block(const std::byte* block);
  void sha1_block(const std::byte* block);
  void sha256_block(const std::byte* block);

  Kind kind_;
  std::array<uint32_t, 8> state_{};
  std::array<std::byte, 64> pending_{};
  uint64_t total_ = 0;
};

}  // namespace atom
