// Hub names -> local files: the Hugging Face cache first, then a download (resume, size and
// checksum verification, progress bar on a terminal). libcurl is opened at run time, only for a
// download.
#pragma once

#include <filesystem>

#include "atom/config.h"
#include "atom/core/error.h"

namespace atom {

// Directory or .gguf file of `config.model`: an existing path as it is, otherwise a hub name.
Result<std::filesystem::path> resolve_model(const ModelSourceConfig& config);

}  // namespace atom
