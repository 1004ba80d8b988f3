// Text helpers for messages about files: untrusted names printed on one line, file prefixes, and a
// guess at what a file that is not a model really is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "atom/core/error.h"
#include "atom/core/printable.h"

namespace atom {

inline std::string printable(const std::string& text) { return printable(std::string_view(text)); }
std::string printable(const std::filesystem::path& path);  // whole, up to PATH_MAX

// "FILE: MESSAGE", code and param kept.
std::unexpected<Error> with_file(const std::filesystem::path& file, Error error);

// "[4, 128]"
std::string shape_text(std::span<const int64_t> shape);

// A plain file name: no directory, no way out of one.
bool is_plain_file_name(std::string_view name);

// What the first bytes of a would-be model file say it is instead ("a Git LFS pointer, ..."), or
// empty.
std::string recognise_foreign_content(std::span<const std::byte> head);

// "1.4 GB" (powers of 1000, as disks and hubs count).
std::string human_bytes(int64_t bytes);

}  // namespace atom
