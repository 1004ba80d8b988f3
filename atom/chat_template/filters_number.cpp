// Filters that make or change numbers.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "atom/chat_template/builtin_tables.h"
#include "atom/chat_template/operators.h"
#include "atom/chat_template/text.h"
#include "atom/chat_template/unicode.h"

namespace atom::jinja {
namespace {

std::string number_text(std::string_view text) {
  std::string out(trim(text));
  std::erase(out, '_');
  if (out.starts_with('+')) out.erase(0, 1);
  return out;
}

// int(text, base): nothing when it is not one.
std::optional<Value> parse_int(std::string_view text, int base) {
  std::string digits = number_text(text);
  const bool minus = digits.starts_with('-');
  if (minus) digits.erase(0, 1);
  constexpr struct {
    std::string_view prefix;
    int base;
  } kPrefixes[] = {{"0x", 16}, {"0o", 8}, {"0b", 2}};
  for (const auto& p : kPrefixes) {
    if ((base == p.base || base == 0) && to_lower(digits).starts_with(p.prefix)) {
      digits.erase(0, 2);
      base = p.base;
    }
  }
  if (base == 0) base = 10;
  if (base < 2 || base > 36 || digits.empty()) return std::nullopt;
  uint64_t value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (end != digits.data() + digits.size() || error == std::errc::invalid_argument)
    return std::nullopt;
  if (error != std::errc()) raise_error("OverflowError: integer result does not fit 64 bits");
  return narrow(minus ? -static_cast<Int128>(value) : static_cast<Int128>(value));
}

std::optional<double> parse_float(std::string_view text) {
  const std::string digits = number_text(text);
  const std::string lower = to_lower(digits);
  if (lower.find("0x") != lower.npos || digits.empty()) return std::nullopt;
  char* end = nullptr;
  const double value = std::strtod(digits.c_str(), &end);
  if (end != digits.c_str() + digits.size() ||
      digits.size() != std::string_view(digits.c_str()).size())
    return std::nullopt;
  return value;
}

Value truncate_to_int(double d) {
  if (!(std::abs(d) < 1.8e19)) raise_error("OverflowError: integer result does not fit 64 bits");
  return narrow(static_cast<Int128>(d));
}

Value filter_int(Interpreter&, const Value& v, const CallArgs& args) {
  const Value otherwise = args[0].is(Type::kUnset) ? integer(0) : args[0];
  if (v.is_undefined()) raise_undefined(v);
  if (v.is_integral()) return narrow(wide(v));
  std::optional<double> number;
  if (v.is(Type::kFloat)) number = v.real;
  if (v.is_string()) {
    if (const auto i = parse_int(v.text(), static_cast<int>(int_arg(args[1], 10)))) return *i;
    number = parse_float(v.text());
  }
  if (!number || !std::isfinite(*number)) return otherwise;
  return truncate_to_int(*number);
}

Value filter_float(Interpreter&, const Value& v, const CallArgs& args) {
  const Value otherwise = args[0].is(Type::kUnset) ? real(0) : args[0];
  if (v.is_undefined()) raise_undefined(v);
  if (v.is_number()) return real(as_double(v));
  if (!v.is_string()) return otherwise;
  const auto number = parse_float(v.text());
  return number ? real(*number) : otherwise;
}

Value filter_abs(Interpreter&, const Value& v, const CallArgs&) {
  if (v.is(Type::kFloat)) return real(std::abs(v.real));
  if (v.is_integral()) return narrow(wide(v) < 0 ? -wide(v) : wide(v));
  if (v.is_undefined()) raise_undefined(v);
  raise_error("TypeError: bad operand type for abs(): '{}'", type_name(v));
}

// round() half to even on the exact binary value, which is what printf does.
double round_digits(double d, int digits) {
  if (!std::isfinite(d) || digits > 300) return d;
  if (digits < 0) {
    const double scale = std::pow(10.0, -digits);
    return std::nearbyint(d / scale) * scale;
  }
  std::array<char, 700> buffer;
  const int size = std::snprintf(buffer.data(), buffer.size(), "%.*f", digits, d);
  double result = 0;
  std::from_chars(buffer.data(), buffer.data() + size, result);
  return result;
}

Value filter_round(Interpreter&, const Value& v, const CallArgs& args) {
  if (v.is_undefined()) raise_undefined(v);
  if (!v.is_number())
    raise_error("TypeError: type {} doesn't define __round__ method", type_name(v));
  const auto digits = static_cast<int>(std::clamp<int64_t>(int_arg(args[0], 0), -300, 400));
  const std::string_view method = args[1].is(Type::kUnset) ? "common" : text_arg(args[1], "round");
  if (method == "common") {
    if (v.is_integral() && digits >= 0) return narrow(wide(v));
    const double rounded = round_digits(as_double(v), digits);
    return v.is_integral() ? truncate_to_int(rounded) : real(rounded);
  }
  if (method != "ceil" && method != "floor") raise_error("method must be common, ceil or floor");
  const double scale = std::pow(10.0, digits);
  const double scaled = as_double(v) * scale;
  return real((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

Value filter_filesizeformat(Interpreter& in, const Value& v, const CallArgs& args) {
  const Value number = filter_float(in, v, {.positional = {}, .keywords = {}});
  const bool readable = v.is_number() || (v.is_string() && parse_float(v.text()).has_value());
  if (!readable) raise_error("ValueError: filesizeformat needs a number, not {}", type_name(v));
  const bool binary = flag_arg(args[0], false);
  const double base = binary ? 1024 : 1000;
  const double bytes = number.real;
  if (bytes == 1) return string("1 Byte");
  if (bytes < base) return in.new_string(str_format("{} Bytes", static_cast<int64_t>(bytes)));
  constexpr std::string_view kPrefixes[] = {"k", "M", "G", "T", "P", "E", "Z", "Y"};
  double unit = base;
  for (const std::string_view prefix : kPrefixes) {
    unit *= base;
    if (bytes < unit || prefix == "Y") {
      const std::string shown = binary && prefix == "k" ? "K" : std::string(prefix);
      return in.new_string(
          str_format("{:.1f} {}{}", base * bytes / unit, shown, binary ? "iB" : "B"));
    }
  }
  return none();
}

constexpr Builtin kNumberFilters[] = {
    {"int", "default= base=", filter_int},
    {"float", "default=", filter_float},
    {"abs", "", filter_abs},
    {"round", "precision= method=", filter_round},
    {"filesizeformat", "binary=", filter_filesizeformat},
};

}  // namespace

std::span<const Builtin> number_filters() { return kNumberFilters; }

}  // namespace atom::jinja
