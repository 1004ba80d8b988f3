#include "atom/chat_template/text.h"

#include <charconv>
#include <cmath>

#include "atom/chat_template/operators.h"
#include "atom/chat_template/unicode.h"

namespace atom::jinja {
namespace {

void append_string_repr(std::string& out, std::string_view text) {
  const bool single = text.find('\'') == text.npos;
  const char quote = single || text.find('"') != text.npos ? '\'' : '"';
  out.push_back(quote);
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    const char32_t c = decode_utf8(text, i);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out.push_back('\\');
      out.push_back(static_cast<char>(c));
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (is_printable(c)) {
      out += text.substr(start, i - start);
    } else if (c < 0x100) {
      out += str_format("\\x{:02x}", static_cast<uint32_t>(c));
    } else if (c < 0x10000) {
      out += str_format("\\u{:04x}", static_cast<uint32_t>(c));
    } else {
      out += str_format("\\U{:08x}", static_cast<uint32_t>(c));
    }
  }
  out.push_back(quote);
}

void append_items(Interpreter& in, std::string& out, std::span<const Value> items) {
  bool first = true;
  for (const Value& item : items) {
    if (!std::exchange(first, false)) out += ", ";
    append_repr(in, out, item);
  }
}

void append_entry(Interpreter& in, std::string& out, const DictEntry& e) {
  append_repr(in, out, e.key);
  out += ": ";
  append_repr(in, out, e.value);
}

void append_dict(Interpreter& in, std::string& out, const Dict& d) {
  out.push_back('{');
  bool first = true;
  for (const DictEntry& e : d.list()) {
    if (!std::exchange(first, false)) out += ", ";
    append_entry(in, out, e);
  }
  out.push_back('}');
}

void append_view(Interpreter& in, std::string& out, const DictView& view) {
  constexpr std::string_view kNames[] = {"dict_keys", "dict_values", "dict_items"};
  out += kNames[static_cast<int>(view.part)];
  out += "([";
  bool first = true;
  for (const DictEntry& e : view.dict->list()) {
    if (!std::exchange(first, false)) out += ", ";
    if (view.part == DictView::Part::kItems) out.push_back('(');
    if (view.part != DictView::Part::kValues) append_repr(in, out, e.key);
    if (view.part == DictView::Part::kItems) out += ", ";
    if (view.part != DictView::Part::kKeys) append_repr(in, out, e.value);
    if (view.part == DictView::Part::kItems) out.push_back(')');
  }
  out += "])";
}

void append_namespace(Interpreter& in, std::string& out, const Namespace& ns) {
  out += "<Namespace {";
  for (uint32_t i = 0; i < ns.attributes->count; ++i) {
    if (i > 0) out += ", ";
    append_string_repr(out, in.symbol_text(ns.attributes->slots[i].symbol));
    out += ": ";
    append_repr(in, out, ns.attributes->slots[i].value);
  }
  out += "}>";
}

void append_object(Interpreter& in, std::string& out, const Value& v) {
  switch (v.object->kind) {
    case ObjectKind::kRange: {
      const auto& r = as<Range>(v);
      out += str_format("range({}, {}", r.start, r.at(r.count));
      out += r.step == 1 ? std::string(")") : str_format(", {})", r.step);
      return;
    }
    case ObjectKind::kDictView:
      return append_view(in, out, as<DictView>(v));
    case ObjectKind::kNamespace:
      return append_namespace(in, out, as<Namespace>(v));
    case ObjectKind::kMacro:
      out += str_format("<Macro '{}'>", as<Macro>(v).stmt->name);
      return;
    default:
      out += str_format("<{} object>", type_name(v));
      return;
  }
}

}  // namespace

std::string float_repr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), std::abs(d), std::chars_format::scientific)
          .ptr;
  const std::string_view all(buffer, static_cast<size_t>(end - buffer));  // d[.ddd]e±xx
  const size_t e = all.find('e');
  std::string digits(1, all[0]);
  if (e > 2) digits += all.substr(2, e - 2);
  int exponent = 0;
  const size_t sign = all[e + 1] == '+' ? 2 : 1;
  std::from_chars(all.data() + e + sign, end, exponent);
  const int count = static_cast<int>(digits.size());
  std::string out = std::signbit(d) ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (count > 1) out += "." + digits.substr(1);
    return out + str_format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0)
    return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  if (count <= exponent + 1)
    return out + digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  const auto point = static_cast<size_t>(exponent + 1);
  return out + digits.substr(0, point) + "." + digits.substr(point);
}

std::string int_text(const Value& v) {
  if ((v.flags & Value::kUnsigned) != 0) return std::to_string(static_cast<uint64_t>(v.integer));
  return std::to_string(v.integer);
}

void append_str(Interpreter& in, std::string& out, const Value& v) {
  if (v.is_string()) {
    in.charge_text(v.size);
    in.check_size(out.size() + v.size);
    out += v.text();
  } else if (!v.is_undefined()) {
    append_repr(in, out, v);
  }
}

void append_repr(Interpreter& in, std::string& out, const Value& v) {
  in.charge(1);
  in.check_size(out.size());
  switch (v.type) {
    case Type::kUnset:
    case Type::kUndefined:
      out += "Undefined";
      return;
    case Type::kNone:
      out += "None";
      return;
    case Type::kBool:
      out += v.boolean ? "True" : "False";
      return;
    case Type::kInt:
      out += int_text(v);
      return;
    case Type::kFloat:
      out += float_repr(v.real);
      return;
    case Type::kString:
      in.charge_text(v.size);
      in.check_size(out.size() + v.size);
      if (v.is_markup()) out += "Markup(";
      append_string_repr(out, v.text());
      if (v.is_markup()) out.push_back(')');
      return;
    default:
      break;
  }
  const DepthGuard guard(in.nesting());
  switch (v.type) {
    case Type::kList:
      out.push_back('[');
      append_items(in, out, v.list());
      out.push_back(']');
      return;
    case Type::kTuple:
      out.push_back('(');
      append_items(in, out, v.list());
      out += v.size == 1 ? ",)" : ")";
      return;
    case Type::kDict:
      return append_dict(in, out, *v.dict);
    default:
      return append_object(in, out, v);
  }
}

std::string_view text_of(Interpreter& in, const Value& v) {
  if (v.is_string()) return v.text();
  std::string text;
  append_str(in, text, v);
  return in.arena().copy(text);
}

}  // namespace atom::jinja
