// Hub names -> local files: the Hugging Face cache first, then a download (resume, size and
// checksum verification, progress bar on a terminal). libcurl is opened at run time, only for a
// download.
#pragma once

#include <filesystem>

#include "atom/config.h"
#include "atom/core/error.h"

namespace atom {

// What of a hub model must be here; the rest is not waited for. A tokenizer alone is some megabytes
// where a model is some gigabytes.
struct HubNeeds {
  bool config = true;
  bool weights = true;
  bool tokenizer = true;
};
inline constexpr HubNeeds kHubText = {.config = false, .weights = false};  // tokenizer, template

// Directory or .gguf file of `config.model`: an existing path as it is, otherwise a hub name.
// Dummy weights need none from the hub.
Result<std::filesystem::path> resolve_model(const ModelSourceConfig& config, HubNeeds needs = {});

}  // namespace atom
