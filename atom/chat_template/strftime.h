// strftime of a moment in UTC with English names, as Python's datetime.strftime in the C locale. It
// reads no clock, locale or time zone. A row in the table of strftime.cpp adds a conversion.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace atom::jinja {

std::string format_time(std::string_view format, int64_t unix_seconds);

}  // namespace atom::jinja
