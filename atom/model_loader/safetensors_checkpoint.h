// Checkpoint on a Hugging Face directory: config.json, model.safetensors or shards with an index,
// tokenizer.
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "atom/model_loader/checkpoint.h"

namespace atom {

// `files` are the *.safetensors of `dir`; without model.safetensors and without an index there must
// be one; no files at all opens the configuration without tensors.
Result<std::unique_ptr<Checkpoint>> open_safetensors_directory(
    const std::filesystem::path& dir, const std::vector<std::filesystem::path>& files);

}  // namespace atom
