#define FMT_HEADER_ONLY
#include "atom/core/format.h"

#include <fmt/format.h>

namespace atom {

std::string vformat_str(fmt::string_view text, fmt::format_args args) {
  return fmt::vformat(text, args);
}

}  // namespace atom
