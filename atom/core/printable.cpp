#include "atom/core/printable.h"

#include "atom/core/format.h"

namespace atom {
namespace {

// Length of the valid UTF-8 sequence at `text[pos]`; 0 when there is none.
size_t utf8_length(std::string_view text, size_t pos) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(pos);
  const size_t length = lead < 0x80   ? 1
                        : lead < 0xc2 ? 0
                        : lead < 0xe0 ? 2
                        : lead < 0xf0 ? 3
                        : lead < 0xf5 ? 4
                                      : 0;
  if (length == 0 || pos + length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(pos + i) & 0xc0) != 0x80) return 0;
  }
  if (lead == 0xe0 && byte(pos + 1) < 0xa0) return 0;
  if (lead == 0xed && byte(pos + 1) > 0x9f) return 0;
  if (lead == 0xf0 && byte(pos + 1) < 0x90) return 0;
  if (lead == 0xf4 && byte(pos + 1) > 0x8f) return 0;
  return length;
}

}  // namespace

std::string printable(std::string_view text, size_t max_length) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    if (out.size() >= max_length) return out + "...";
    const size_t length = utf8_length(text, pos);
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
