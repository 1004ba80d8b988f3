// config.json and generation_config.json -> ModelConfig: strict about types, ranges and features;
// `auto_map` and other code references are never followed. Keys that do not change the numbers are
// ignored. Errors are "KEY: problem (found X, expected Y)" without the file; callers add it.
#pragma once

#include <filesystem>
#include <string_view>

#include "atom/core/error.h"
#include "atom/model_loader/checkpoint.h"
#include "atom/model_loader/model_config.h"

namespace atom {

Result<ModelConfig> parse_hf_config(std::string_view text);

// Adds eos ids to `config` (union, config.json first) and fills `defaults`.
Status parse_generation_config(std::string_view text, ModelConfig& config,
                               GenerationDefaults& defaults);

// Both files of a directory; generation_config.json may be absent.
struct DirectoryConfig {
  ModelConfig model;
  GenerationDefaults generation;
};
Result<DirectoryConfig> read_hf_config(const std::filesystem::path& dir);

}  // namespace atom
