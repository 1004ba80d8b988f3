// Checkpoint on one GGUF file.
#pragma once

#include <filesystem>
#include <memory>

#include "atom/model_loader/checkpoint.h"

namespace atom {

Result<std::unique_ptr<Checkpoint>> open_gguf_file(const std::filesystem::path& path);

}  // namespace atom
