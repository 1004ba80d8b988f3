#include <cstring>

#include "atom/chat_template/builtin_tables.h"
#include "atom/chat_template/operators.h"
#include "atom/chat_template/text.h"
#include "atom/chat_template/unicode.h"

namespace atom::jinja {

bool flag_arg(const Value& v, bool otherwise) { return v.is(Type::kUnset) ? otherwise : truth(v); }

int64_t int_arg(const Value& v, int64_t otherwise) {
  return v.is(Type::kUnset) ? otherwise : index_value(v);
}

bool absent(const Value& v) { return v.is(Type::kUnset) || v.is_none(); }

std::string_view text_arg(const Value& v, std::string_view function) {
  if (v.is_undefined()) raise_undefined(v);
  if (!v.is_string())
    raise_error("TypeError: {}() argument must be str, not {}", function, type_name(v));
  return v.text();
}

Value text_like(Interpreter& in, std::string_view text, const Value& origin) {
  Value v = in.new_string(text);
  if (origin.is_markup()) v.flags = Value::kMarkup;
  return v;
}

size_t find_text(Interpreter& in, std::string_view text, std::string_view part, size_t from) {
  if (from > text.size()) return text.npos;
  if (part.empty()) return from;
  if (part.size() > text.size() - from) return text.npos;
  const void* const at = memmem(text.data() + from, text.size() - from, part.data(), part.size());
  const size_t found =
      at == nullptr ? text.npos : static_cast<size_t>(static_cast<const char*>(at) - text.data());
  in.charge_text((found == text.npos ? text.size() : found) - from);
  return found;
}

size_t find_last_text(Interpreter& in, std::string_view text, std::string_view part) {
  if (part.size() > text.size()) return text.npos;
  for (size_t at = text.size() - part.size() + 1; at-- > 0;) {
    if ((at & 63) == 0) in.charge(1);
    if (part.empty()) return at;
    if (text[at] != part[0]) continue;
    in.charge_text(part.size());
    if (std::memcmp(text.data() + at, part.data(), part.size()) == 0) return at;
  }
  return text.npos;
}

std::string replace_text(Interpreter& in, std::string_view text, std::string_view from,
                         std::string_view to, int64_t count) {
  std::string out;
  size_t pos = 0;
  if (from.empty()) {  // between all characters, and at both ends
    for (; count != 0; --count) {
      in.charge(1);
      in.check_size(out.size() + to.size());
      out += to;
      if (pos >= text.size()) break;
      const size_t start = pos;
      decode_utf8(text, pos);
      out += text.substr(start, pos - start);
    }
  } else {
    for (; count != 0; --count) {
      const size_t at = find_text(in, text, from, pos);
      if (at == text.npos) break;
      in.charge(1);
      in.check_size(out.size() + (at - pos) + to.size());
      out += text.substr(pos, at - pos);
      out += to;
      pos = at + from.size();
    }
  }
  in.check_size(out.size() + text.size() - std::min(pos, text.size()));
  if (pos < text.size()) out += text.substr(pos);
  return out;
}

std::string_view strip_text(std::string_view text, const Value& chars, bool left, bool right) {
  if (absent(chars)) {
    if (left) text = trim_left(text);
    return right ? trim_right(text) : text;
  }
  std::u32string set;
  const std::string_view wanted = text_arg(chars, "strip");
  for (size_t i = 0; i < wanted.size();) set.push_back(decode_utf8(wanted, i));
  const auto in_set = [&](char32_t c) { return set.find(c) != set.npos; };
  while (left && !text.empty()) {
    size_t next = 0;
    if (!in_set(decode_utf8(text, next))) break;
    text.remove_prefix(next);
  }
  while (right && !text.empty()) {
    size_t start = text.size() - 1;
    while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
    size_t next = start;
    if (!in_set(decode_utf8(text, next))) break;
    text = text.substr(0, start);
  }
  return text;
}

std::string pad_center(Interpreter& in, std::string_view text, int64_t width, char32_t fill) {
  const auto length = static_cast<int64_t>(count_code_points(text));
  if (width <= length) return std::string(text);
  in.check_size(static_cast<size_t>(width));
  const int64_t space = width - length;
  const int64_t left = space / 2 + (space & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) append_utf8(out, fill);
  out += text;
  for (int64_t i = left; i < space; ++i) append_utf8(out, fill);
  return out;
}

Value get_path(Interpreter& in, const Value& v, const Value& path) {
  if (!path.is_string()) return in.get_item(v, path);
  Value at = v;
  std::string_view rest = path.text();
  for (;;) {
    const size_t dot = std::min(rest.find('.'), rest.size());
    const std::string_view part = rest.substr(0, dot);
    const bool number =
        !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == part.npos;
    at = in.get_item(at, number ? integer(std::stoll(std::string(part))) : string(part));
    if (dot == rest.size()) return at;
    rest.remove_prefix(dot + 1);
  }
}

}  // namespace atom::jinja
