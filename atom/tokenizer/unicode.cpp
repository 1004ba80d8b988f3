#include "atom/tokenizer/unicode.h"

#include <array>
#include <cstring>
#include <memory>
#include <vector>

namespace atom {
namespace detail {
namespace {

struct OwnedTable {
  ClassTable table{};
  std::vector<uint8_t> classes;
};

OwnedTable* expand_runs() {
  auto owned = std::make_unique<OwnedTable>();
  owned->classes.reserve(256 * 256);
  std::array<int, 32> uniform_block;  // blocks of one single class are shared
  uniform_block.fill(-1);
  std::array<uint8_t, 256> block{};
  size_t run = 0;
  uint32_t left = kClassRuns[0] / 32;
  for (uint32_t index = 0; index < 0x1100; ++index) {
    const uint8_t first = kClassRuns[run] % 32;
    bool uniform = true;
    for (uint8_t& c : block) {
      c = kClassRuns[run] % 32;
      uniform &= c == first;
      if (--left == 0 && ++run < kNumClassRuns) left = kClassRuns[run] / 32;
    }
    if (uniform && uniform_block[first] >= 0) {
      owned->table.block[index] = static_cast<uint16_t>(uniform_block[first]);
      continue;
    }
    const auto id = static_cast<uint16_t>(owned->classes.size() / 256);
    if (uniform) uniform_block[first] = id;
    owned->table.block[index] = id;
    owned->classes.insert(owned->classes.end(), block.begin(), block.end());
  }
  std::memcpy(owned->table.ascii, owned->classes.data(), 128);
  owned->table.classes = owned->classes.data();
  return owned.release();
}

}  // namespace

const ClassTable& class_table() {
  static const OwnedTable* const owned = expand_runs();
  return owned->table;
}

}  // namespace detail

CharClass char_class(char32_t c) {
  const detail::ClassTable& t = detail::class_table();
  return static_cast<CharClass>(t.classes[size_t{t.block[c >> 8]} * 256 + (c & 0xFF)]);
}

void append_utf8(char32_t c, std::string& out) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
  } else if (c < 0x10000) {
    out += {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3F)),
            static_cast<char>(0x80 | (c & 0x3F))};
  } else {
    out += {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 0x3F)),
            static_cast<char>(0x80 | (c >> 6 & 0x3F)), static_cast<char>(0x80 | (c & 0x3F))};
  }
}

namespace {

struct Utf8Step {
  uint32_t length;  // of the character, or of the maximal ill-formed part
  bool valid;
  bool incomplete;  // the text ends inside a character that may still become valid
};

// One step of the table of well-formed byte sequences (Unicode, table 3-7).
Utf8Step utf8_step(const uint8_t* p, size_t left) {
  const uint8_t b = p[0];
  if (b < 0x80) return {1, true, false};
  uint32_t need = 0;
  uint8_t low = 0x80, high = 0xBF;  // bounds of the second byte
  if (b >= 0xC2 && b <= 0xDF) {
    need = 2;
  } else if (b >= 0xE0 && b <= 0xEF) {
    need = 3;
    if (b == 0xE0) low = 0xA0;
    if (b == 0xED) high = 0x9F;
  } else if (b >= 0xF0 && b <= 0xF4) {
    need = 4;
    if (b == 0xF0) low = 0x90;
    if (b == 0xF4) high = 0x8F;
  } else {
    return {1, false, false};
  }
  for (uint32_t i = 1; i < need; ++i) {
    if (i >= left) return {i, false, true};
    if (p[i] < low || p[i] > high) return {i, false, false};
    low = 0x80;
    high = 0xBF;
  }
  return {need, true, false};
}

size_t ascii_prefix(const uint8_t* p, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t word;
    std::memcpy(&word, p + i, 8);
    if (word & 0x8080808080808080u) break;
  }
  while (i < n && p[i] < 0x80) ++i;
  return i;
}

}  // namespace

size_t valid_utf8_prefix(std::string_view text) {
  const auto* p = reinterpret_cast<const uint8_t*>(text.data());
  size_t i = 0;
  while (i < text.size()) {
    if (p[i] < 0x80) {
      i += ascii_prefix(p + i, text.size() - i);
      continue;
    }
    const Utf8Step step = utf8_step(p + i, text.size() - i);
    if (!step.valid) return i;
    i += step.length;
  }
  return i;
}

size_t append_lossy_utf8(std::string_view text, bool keep_incomplete, std::string& out) {
  size_t done = 0;
  while (true) {
    const size_t good = valid_utf8_prefix(text.substr(done));
    out.append(text, done, good);
    done += good;
    if (done == text.size()) return done;
    const Utf8Step step =
        utf8_step(reinterpret_cast<const uint8_t*>(text.data()) + done, text.size() - done);
    if (step.incomplete && keep_incomplete) return done;
    out += "\xEF\xBF\xBD";
    done += step.length;
  }
}

namespace {

struct ByteAlphabet {
  std::array<char32_t, 256> to_char{};
  std::array<int16_t, 512> to_byte{};
};

constexpr ByteAlphabet make_byte_alphabet() {
  ByteAlphabet a;
  for (int16_t& b : a.to_byte) b = -1;
  char32_t next = 256;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    const char32_t c = printable ? static_cast<char32_t>(b) : next++;
    a.to_char[b] = c;
    a.to_byte[c] = static_cast<int16_t>(b);
  }
  return a;
}
constexpr ByteAlphabet kByteAlphabet = make_byte_alphabet();

}  // namespace

char32_t byte_to_alphabet(uint8_t byte) { return kByteAlphabet.to_char[byte]; }
int alphabet_to_byte(char32_t c) {
  return c < kByteAlphabet.to_byte.size() ? kByteAlphabet.to_byte[c] : -1;
}

bool append_alphabet_bytes(std::string_view token, std::string& out) {
  const size_t mark = out.size();
  for (size_t i = 0; i < token.size();) {
    const CodePoint c = decode_utf8(token.data() + i);
    const int byte = alphabet_to_byte(c.value);
    if (byte < 0) {
      out.resize(mark);
      return false;
    }
    out += static_cast<char>(byte);
    i += c.length;
  }
  return true;
}

}  // namespace atom
