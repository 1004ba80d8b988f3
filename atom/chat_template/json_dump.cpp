#include "atom/chat_template/json_dump.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "atom/chat_template/operators.h"
#include "atom/chat_template/text.h"
#include "atom/chat_template/unicode.h"

namespace atom::jinja {
namespace {

class Dumper {
 public:
  Dumper(Interpreter& in, const JsonStyle& style) : in_(in), style_(style) {}

  void dump(const Value& v) {
    in_.charge(1);
    in_.check_size(out.size());
    switch (v.type) {
      case Type::kNone:
        out += "null";
        return;
      case Type::kBool:
        out += v.boolean ? "true" : "false";
        return;
      case Type::kInt:
        out += int_text(v);
        return;
      case Type::kFloat:
        out += number(v.real);
        return;
      case Type::kString:
        return text(v.text());
      case Type::kList:
      case Type::kTuple:
        return items(v);
      case Type::kDict:
        return entries(*v.dict);
      default:
        raise_error("TypeError: Object of type {} is not JSON serializable", type_name(v));
    }
  }

  std::string out;

 private:
  static std::string number(double d) {
    if (std::isnan(d)) return "NaN";
    if (std::isinf(d)) return d < 0 ? "-Infinity" : "Infinity";
    return float_repr(d);
  }

  void escape_unit(uint32_t unit) { out += str_format("\\u{:04x}", unit); }

  void text(std::string_view s) {
    in_.charge_text(s.size());
    in_.check_size(out.size() + s.size());
    out.push_back('"');
    for (size_t i = 0; i < s.size();) {
      const char c = s[i];
      if (static_cast<unsigned char>(c) >= 0x80 && style_.ensure_ascii) {
        const char32_t wide_char = decode_utf8(s, i);
        if (wide_char >= 0x10000) {
          escape_unit(0xD800 + ((wide_char - 0x10000) >> 10));
          escape_unit(0xDC00 + ((wide_char - 0x10000) & 0x3FF));
        } else {
          escape_unit(wide_char);
        }
        continue;
      }
      ++i;
      switch (c) {
        case '"':
          out += "\\\"";
          break;
        case '\\':
          out += "\\\\";
          break;
        case '\n':
          out += "\\n";
          break;
        case '\r':
          out += "\\r";
          break;
        case '\t':
          out += "\\t";
          break;
        case '\b':
          out += "\\b";
          break;
        case '\f':
          out += "\\f";
          break;
        default:
          if (static_cast<unsigned char>(c) < 0x20) {
            escape_unit(static_cast<unsigned char>(c));
          } else {
            out.push_back(c);
          }
      }
    }
    out.push_back('"');
  }

  void new_line() {
    if (!style_.pretty) return;
    out.push_back('\n');
    for (int i = 0; i < level_; ++i) out += style_.indent;
  }

  void items(const Value& v) {
    if (v.size == 0) return static_cast<void>(out += "[]");
    const DepthGuard guard(in_.nesting());
    out.push_back('[');
    ++level_;
    for (size_t i = 0; i < v.size; ++i) {
      if (i > 0) out += style_.item_separator;
      new_line();
      dump(v.items[i]);
    }
    --level_;
    new_line();
    out.push_back(']');
  }

  std::string key_text(const Value& key) const {
    switch (key.type) {
      case Type::kNone:
        return "null";
      case Type::kBool:
        return key.boolean ? "true" : "false";
      case Type::kInt:
        return int_text(key);
      case Type::kFloat:
        return number(key.real);
      default:
        raise_error("TypeError: keys must be str, int, float, bool or None, not {}",
                    type_name(key));
    }
  }

  void entries(const Dict& d) {
    if (d.size == 0) return static_cast<void>(out += "{}");
    const DepthGuard guard(in_.nesting());
    std::vector<DictEntry> sorted;
    std::span<const DictEntry> list = d.list();
    if (style_.sort_keys) {
      sorted.assign(list.begin(), list.end());
      std::ranges::stable_sort(sorted, [this](const DictEntry& a, const DictEntry& b) {
        in_.charge(1);
        return compare(in_, a.key, b.key, "<") == Order::kLess;
      });
      list = sorted;
    }
    out.push_back('{');
    ++level_;
    bool first = true;
    for (const DictEntry& e : list) {
      if (!std::exchange(first, false)) out += style_.item_separator;
      new_line();
      e.key.is_string() ? text(e.key.text()) : text(key_text(e.key));
      out += style_.key_separator;
      dump(e.value);
    }
    --level_;
    new_line();
    out.push_back('}');
  }

  Interpreter& in_;
  const JsonStyle& style_;
  int level_ = 0;
};

}  // namespace

std::string json_dump(Interpreter& in, const Value& v, const JsonStyle& style) {
  Dumper dumper(in, style);
  dumper.dump(v);
  return std::move(dumper.out);
}

}  // namespace atom::jinja
