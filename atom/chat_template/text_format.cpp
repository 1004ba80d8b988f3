#include "atom/chat_template/text_format.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "atom/chat_template/builtin_tables.h"
#include "atom/chat_template/operators.h"
#include "atom/chat_template/text.h"
#include "atom/chat_template/unicode.h"

namespace atom::jinja {
namespace {

constexpr int64_t kMaxWidth = 100'000;
constexpr int64_t kMaxPrecision = 1'000;

// A conversion as either syntax describes it.
struct Spec {
  std::string fill = " ";
  char align = '\0';  // < > ^ =
  char sign = '-';    // + space -
  bool alternate = false;
  char grouping = '\0';
  int64_t width = 0;
  int64_t precision = -1;
  char type = '\0';
};

std::string pad(Interpreter& in, const std::string& text, const Spec& s, char default_align) {
  const auto length = static_cast<int64_t>(count_code_points(text));
  const int64_t missing = s.width - length;
  if (missing <= 0) return text;
  in.charge(1 + missing / 64);
  const char align = s.align != '\0' ? s.align : default_align;
  const auto repeat = [&](int64_t n) {
    std::string out;
    while (n-- > 0) out += s.fill;
    return out;
  };
  if (align == '<') return text + repeat(missing);
  if (align == '^') return repeat(missing / 2) + text + repeat(missing - missing / 2);
  if (align == '=') {
    const size_t sign =
        !text.empty() && std::string_view("+- ").find(text[0]) != std::string_view::npos ? 1 : 0;
    return text.substr(0, sign) + repeat(missing) + text.substr(sign);
  }
  return repeat(missing) + text;
}

std::string group(std::string digits, char separator, size_t every) {
  size_t end = digits.find_first_not_of("0123456789abcdefABCDEF");
  if (end == digits.npos) end = digits.size();
  for (size_t at = end; at > every;) {
    at -= every;
    digits.insert(at, 1, separator);
  }
  return digits;
}

std::string with_sign(bool minus, const std::string& digits, const Spec& s) {
  if (minus) return "-" + digits;
  return s.sign == '-' ? digits : s.sign + digits;
}

std::string format_int(const Value& v, const Spec& s) {
  const Int128 i = wide(v);
  auto magnitude = static_cast<uint64_t>(i < 0 ? -i : i);
  const char type = s.type == '\0' || s.type == 'n' ? 'd' : s.type;
  const unsigned base = type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10;
  const std::string_view numerals = type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
  std::string digits;
  do {
    digits.push_back(numerals[magnitude % base]);
    magnitude /= base;
  } while (magnitude != 0);
  std::ranges::reverse(digits);
  if (s.grouping != '\0') digits = group(digits, s.grouping, base == 10 ? 3 : 4);
  if (s.alternate && base != 10) digits = std::string("0") + type + digits;
  return with_sign(i < 0, digits, s);
}

std::string format_float(double d, const Spec& s) {
  char type = s.type;
  if (type == '\0' && s.precision < 0) {
    std::string text = float_repr(std::abs(d));
    return with_sign(std::signbit(d), s.grouping != '\0' ? group(text, s.grouping, 3) : text, s);
  }
  const bool percent = type == '%';
  if (type == '\0' || type == 'n') type = 'g';
  if (percent) type = 'f';
  std::string pattern = s.alternate ? "%#.*" : "%.*";
  pattern += type;
  char buffer[1500];
  const int precision = static_cast<int>(s.precision < 0 ? 6 : s.precision);
  const double shown = std::abs(percent ? d * 100 : d);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  const int size = std::snprintf(buffer, sizeof(buffer), pattern.c_str(), precision, shown);
#pragma GCC diagnostic pop
  std::string text(buffer,
                   static_cast<size_t>(std::clamp(size, 0, static_cast<int>(sizeof(buffer)) - 1)));
  if (s.grouping != '\0') text = group(text, s.grouping, 3);
  if (percent) text += '%';
  return with_sign(std::signbit(d), text, s);
}

std::string format_number(Interpreter& in, const Value& v, const Spec& s) {
  const bool float_type =
      s.type != '\0' && std::string_view("eEfFgG%").find(s.type) != std::string_view::npos;
  if (v.is(Type::kFloat) || float_type) {
    if (s.type != '\0' && !float_type && s.type != 'n') {
      raise_error("ValueError: Unknown format code '{}' for object of type 'float'", s.type);
    }
    return pad(in, format_float(as_double(v), s), s, '>');
  }
  if (s.type == 'c') {
    std::string text;
    const int64_t code = index_value(v);
    if (code < 0 || code > 0x10FFFF) raise_error("OverflowError: %c arg not in range(0x110000)");
    append_utf8(text, static_cast<char32_t>(code));
    return pad(in, text, s, '<');
  }
  if (s.type != '\0' && std::string_view("dnxXob").find(s.type) == std::string_view::npos) {
    raise_error("ValueError: Unknown format code '{}' for object of type 'int'", s.type);
  }
  return pad(in, format_int(v, s), s, '>');
}

std::string format_text(Interpreter& in, std::string_view text, const Spec& s) {
  if (s.precision >= 0) text = text.substr(0, byte_offset(text, static_cast<size_t>(s.precision)));
  in.charge_text(text.size());
  return pad(in, std::string(text), s, '<');
}

// Digits at `pos`; -1 when there are none.
int64_t read_number(std::string_view text, size_t& pos, int64_t limit, std::string_view what) {
  if (pos >= text.size() || text[pos] < '0' || text[pos] > '9') return -1;
  int64_t n = 0;
  while (pos < text.size() && text[pos] >= '0' && text[pos] <= '9') {
    n = n * 10 + (text[pos++] - '0');
    if (n > limit) raise_limit("format {} is larger than {}", what, limit);
  }
  return n;
}

class PercentFormatter {
 public:
  PercentFormatter(Interpreter& in, std::string_view format, const Value& values)
      : in_(in), format_(format), values_(values) {}

  std::string run() {
    while (pos_ < format_.size()) {
      in_.check_size(out_.size());
      const char c = format_[pos_++];
      if (c != '%') {
        out_.push_back(c);
      } else {
        conversion();
      }
    }
    const bool is_tuple = values_.is(Type::kTuple);
    if (is_tuple ? used_ < values_.size : used_ == 0 && !is_subscriptable()) {
      raise_error("TypeError: not all arguments converted during string formatting");
    }
    return std::move(out_);
  }

 private:
  // Such values may stay unused: they could have been meant for %(name)s.
  bool is_subscriptable() const {
    return values_.is(Type::kDict) || values_.is(Type::kList) ||
           is_object(values_, ObjectKind::kRange);
  }

  Value next_value() {
    if (values_.is(Type::kTuple) ? used_ >= values_.size : used_ > 0) {
      raise_error("TypeError: not enough arguments for format string");
    }
    return values_.is(Type::kTuple) ? values_.items[used_++] : (++used_, values_);
  }

  Value keyed_value() {
    const size_t close = format_.find(')', pos_);
    if (close == format_.npos) raise_error("ValueError: incomplete format key");
    if (!values_.is(Type::kDict)) raise_error("TypeError: format requires a mapping");
    const std::string_view key = format_.substr(pos_ + 1, close - pos_ - 1);
    const Value* const v = values_.dict->find(in_.arena(), key);
    if (v == nullptr) raise_error("KeyError: '{}'", key);
    pos_ = close + 1;
    ++used_;
    return *v;
  }

  int64_t star_or_number(int64_t limit, std::string_view what) {
    if (pos_ < format_.size() && format_[pos_] == '*') {
      ++pos_;
      const int64_t n = index_value(next_value());
      if (n > limit || n < -limit) raise_limit("format {} is larger than {}", what, limit);
      return n;
    }
    return read_number(format_, pos_, limit, what);
  }

  void conversion() {
    Spec s;
    Value value;
    if (pos_ < format_.size() && format_[pos_] == '(') value = keyed_value();
    for (; pos_ < format_.size(); ++pos_) {
      const char c = format_[pos_];
      if (c == '-')
        s.align = '<';
      else if (c == '+')
        s.sign = '+';
      else if (c == ' ')
        s.sign = s.sign == '+' ? '+' : ' ';
      else if (c == '#')
        s.alternate = true;
      else if (c == '0')
        s.fill = "0";
      else
        break;
    }
    s.width = std::max<int64_t>(0, star_or_number(kMaxWidth, "width"));
    if (pos_ < format_.size() && format_[pos_] == '.') {
      ++pos_;
      s.precision = std::max<int64_t>(0, star_or_number(kMaxPrecision, "precision"));
    }
    if (pos_ >= format_.size()) raise_error("ValueError: incomplete format");
    s.type = format_[pos_++];
    if (s.type == '%') return out_.push_back('%');
    if (value.is(Type::kUnset)) value = next_value();
    convert(value, s);
  }

  void convert(const Value& value, Spec& s) {
    const bool zero = s.fill == "0" && s.align != '<';
    if (s.type == 's' || s.type == 'r' || s.type == 'a') {
      s.fill = " ";
      std::string text;
      s.type == 's' ? append_str(in_, text, value) : append_repr(in_, text, value);
      if (s.align == '\0') s.align = '>';
      out_ += format_text(in_, text, s);
      return;
    }
    if (s.fill == "0" && !zero) s.fill = " ";
    if (zero) s.align = '=';
    if (s.type == 'c' && value.is_string()) {
      if (count_code_points(value.text()) != 1) raise_error("TypeError: %c requires int or char");
      out_ += pad(in_, std::string(value.text()), s, '>');
      return;
    }
    if (!value.is_number()) {
      raise_error("TypeError: %{} format: a real number is required, not {}", s.type,
                  type_name(value));
    }
    if (s.type == 'i' || s.type == 'u') s.type = 'd';
    if (s.type == 'd' && value.is(Type::kFloat)) {
      if (!(std::abs(value.real) < 1.8e19))
        raise_error("OverflowError: integer result does not fit 64 bits");
      out_ += format_number(in_, narrow(static_cast<Int128>(value.real)), s);
      return;
    }
    if (std::string_view("dxXoeEfFgGc").find(s.type) == std::string_view::npos) {
      raise_error("ValueError: unsupported format character '{}'", s.type);
    }
    if (std::string_view("eEfFgG").find(s.type) != std::string_view::npos && s.precision < 0)
      s.precision = 6;
    out_ += format_number(in_, value, s);
  }

  Interpreter& in_;
  std::string_view format_;
  const Value& values_;
  size_t pos_ = 0;
  size_t used_ = 0;
  std::string out_;
};

// [[fill]align][sign][#][0][width][,|_][.precision][type]
Spec parse_spec(std::string_view text) {
  Spec s;
  size_t pos = 0;
  constexpr std::string_view kAligns = "<>^=";
  if (!text.empty()) {
    size_t after_fill = 0;
    decode_utf8(text, after_fill);
    if (after_fill < text.size() && kAligns.find(text[after_fill]) != kAligns.npos) {
      s.fill = text.substr(0, after_fill);
      s.align = text[after_fill];
      pos = after_fill + 1;
    } else if (kAligns.find(text[0]) != kAligns.npos) {
      s.align = text[pos++];
    }
  }
  const auto skip = [&](char c) {
    return pos < text.size() && text[pos] == c ? (++pos, true) : false;
  };
  if (skip('+'))
    s.sign = '+';
  else if (skip(' '))
    s.sign = ' ';
  else
    skip('-');
  s.alternate = skip('#');
  if (skip('0') && s.align == '\0') {
    s.fill = "0";
    s.align = '=';
  }
  s.width = std::max<int64_t>(0, read_number(text, pos, kMaxWidth, "width"));
  if (skip(','))
    s.grouping = ',';
  else if (skip('_'))
    s.grouping = '_';
  if (skip('.')) {
    s.precision = read_number(text, pos, kMaxPrecision, "precision");
    if (s.precision < 0) raise_error("ValueError: Format specifier missing precision");
  }
  if (pos < text.size()) s.type = text[pos++];
  if (pos != text.size()) raise_error("ValueError: Invalid format specifier '{}'", text);
  return s;
}

class BraceFormatter {
 public:
  BraceFormatter(Interpreter& in, const CallArgs& args) : in_(in), args_(args) {}

  std::string run(std::string_view format, int depth) {
    std::string out;
    for (size_t pos = 0; pos < format.size();) {
      in_.check_size(out.size());
      const char c = format[pos++];
      const bool doubled = pos < format.size() && format[pos] == c;
      if ((c == '{' || c == '}') && doubled) {
        out.push_back(c);
        ++pos;
      } else if (c == '}') {
        raise_error("ValueError: Single '}}' encountered in format string");
      } else if (c == '{') {
        const size_t end = field_end(format, pos);
        out += field(format.substr(pos, end - pos), depth);
        pos = end + 1;
      } else {
        out.push_back(c);
      }
    }
    return out;
  }

 private:
  static size_t field_end(std::string_view format, size_t pos) {
    int open = 1;
    for (; pos < format.size(); ++pos) {
      if (format[pos] == '{') ++open;
      if (format[pos] == '}' && --open == 0) return pos;
    }
    raise_error("ValueError: expected '}}' before end of string");
  }

  std::string field(std::string_view text, int depth) {
    if (depth > 1) raise_error("ValueError: Max string recursion exceeded");
    in_.charge(1);
    const size_t colon = std::min(text.find(':'), text.size());
    std::string_view name = text.substr(0, colon);
    char conversion = '\0';
    if (const size_t bang = name.find('!'); bang != name.npos) {
      if (bang + 2 != name.size()) raise_error("ValueError: bad conversion in format field");
      conversion = name[bang + 1];
      name = name.substr(0, bang);
    }
    const std::string spec_text =
        colon == text.size() ? std::string() : run(text.substr(colon + 1), depth + 1);
    const Value v = lookup(name);
    const bool formattable =
        conversion != '\0' || v.is_string() || v.is_number() || spec_text.empty();
    if (!formattable)
      raise_error("TypeError: unsupported format string passed to {}.__format__", type_name(v));
    return convert(v, conversion, parse_spec(spec_text));
  }

  Value lookup(std::string_view name) {
    const size_t end = std::min(name.find_first_of(".["), name.size());
    Value v = argument(name.substr(0, end));
    name.remove_prefix(end);
    while (!name.empty()) {
      const bool item = name[0] == '[';
      const size_t stop =
          item ? name.find(']') : std::min(name.find_first_of(".[", 1), name.size());
      if (stop == name.npos) raise_error("ValueError: Missing ']' in format string");
      const std::string_view part = name.substr(1, stop - 1);
      size_t pos = 0;
      const int64_t index = read_number(part, pos, INT32_MAX, "index");
      const bool number = index >= 0 && pos == part.size();
      v = item ? in_.get_item(v, number ? integer(index) : string(part))
               : in_.get_attribute(v, part);
      name.remove_prefix(stop + (item ? 1 : 0));
    }
    return v;
  }

  Value argument(std::string_view name) {
    size_t pos = 0;
    const int64_t given = read_number(name, pos, INT32_MAX, "index");
    if (name.empty() || (given >= 0 && pos == name.size())) {
      const auto index = name.empty() ? next_++ : static_cast<size_t>(given);
      if (index >= args_.positional.size())
        raise_error("IndexError: Replacement index {} out of range", index);
      return args_.positional[index];
    }
    for (const KeywordValue& k : args_.keywords) {
      if (k.name == name) return k.value;
    }
    raise_error("KeyError: '{}'", name);
  }

  std::string convert(const Value& v, char conversion, const Spec& s) {
    if (conversion == '\0' && v.is_number() && !(v.is(Type::kBool) && s.type == '\0'))
      return format_number(in_, v, s);
    std::string text;
    conversion == 'r' || conversion == 'a' ? append_repr(in_, text, v) : append_str(in_, text, v);
    if (s.type != '\0' && s.type != 's') {
      raise_error("ValueError: Unknown format code '{}' for object of type '{}'", s.type,
                  type_name(v));
    }
    if (s.grouping != '\0' || s.sign != '-' || s.alternate || s.align == '=') {
      raise_error("ValueError: format specifier is not for text");
    }
    return format_text(in_, text, s);
  }

  Interpreter& in_;
  const CallArgs& args_;
  size_t next_ = 0;
};

}  // namespace

Value percent_format(Interpreter& in, const Value& format, const Value& values) {
  in.charge_text(format.size);
  return text_like(in, PercentFormatter(in, format.text(), values).run(), format);
}

Value brace_format(Interpreter& in, const Value& format, const CallArgs& args) {
  in.charge_text(format.size);
  return text_like(in, BraceFormatter(in, args).run(format.text(), 0), format);
}

}  // namespace atom::jinja
