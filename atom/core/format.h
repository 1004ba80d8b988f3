// String formatting: fmt's syntax and compile-time checks, with the formatting code itself compiled
// once (format.cpp), so that including this costs little. Strings, numbers and pointers only.
#pragma once

#include <fmt/core.h>

#include <string>
#include <utility>

namespace atom {

std::string vformat_str(fmt::string_view text, fmt::format_args args);

template <class... Args>
[[nodiscard]] std::string str_format(fmt::format_string<Args...> text, Args&&... args) {
  return vformat_str(text, fmt::make_format_args(args...));
}

}  // namespace atom
