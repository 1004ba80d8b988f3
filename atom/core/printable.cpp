#include "atom/core/printable.h"

#include "atom/core/format.h"

namespace atom {
size_t utf8_size(std::string_view text) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const unsigned lead = byte(0);
  const size_t size = text.empty()  ? 0
                      : lead < 0x80 ? 1
                      : lead < 0xc2 ? 0
                      : lead < 0xe0 ? 2
                      : lead < 0xf0 ? 3
                      : lead < 0xf5 ? 4
                                    : 0;
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  const bool overlong = (lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xf0 && byte(1) < 0x90);
  const bool outside = (lead == 0xed && byte(1) > 0x9f) || (lead == 0xf4 && byte(1) > 0x8f);
  return overlong || outside ? 0 : size;
}

std::string printable(std::string_view text, size_t max_length) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    if (out.size() >= max_length) return out + "...";
    const size_t length = utf8_size(text.substr(pos));
    const auto byte = static_cast<unsigned char>(text[pos]);
    if (length == 0 || byte < 0x20 || byte == 0x7f) {
      out += str_format("\\x{:02x}", static_cast<unsigned>(byte));
      pos += 1;
    } else {
      out += text.substr(pos, length);
      pos += length;
    }
  }
  return out;
}

}  // namespace atom
