// model.safetensors.index.json: which shard holds which tensor.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "atom/core/error.h"

namespace atom {

inline constexpr const char* kSafetensorsName = "model.safetensors";
inline constexpr const char* kSafetensorsIndexName = "model.safetensors.index.json";
inline constexpr int64_t kMaxIndexBytes = 256 << 20;

struct SafetensorsIndex {
  std::map<std::string, std::string, std::less<>> shard_of;  // tensor -> shard file name
  std::set<std::string> shards;
  std::optional<int64_t> total_size;  // as the file claims
};

// Shards are plain file names of the same directory. Errors name the tensor, not the file.
Result<SafetensorsIndex> parse_safetensors_index(std::string_view text);

}  // namespace atom
