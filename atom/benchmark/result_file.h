// The JSON file of a benchmark's result.
#pragma once

#include <filesystem>
#include <string>

#include "atom/core/error.h"

namespace atom {

// Written beside its place and renamed, so that a reader never sees half of it and a full disk
// leaves nothing.
Status write_result_file(const std::filesystem::path& path, const std::string& json);

}  // namespace atom
