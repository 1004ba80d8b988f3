// Methods of dict, list and tuple, and the yes-or-no methods of str. Rows without a function exist
// in Python but change the object, which the immutable sandbox refuses.
#include <algorithm>

#include "atom/chat_template/builtin_tables.h"
#include "atom/chat_template/operators.h"
#include "atom/chat_template/unicode.h"

namespace atom::jinja {
namespace {

template <bool (*predicate)(char32_t)>
Value every_character(Interpreter& in, const Value& self, const CallArgs&) {
  in.charge_text(self.size);
  const std::string_view text = self.text();
  for (size_t i = 0; i < text.size();) {
    if (!predicate(decode_utf8(text, i))) return boolean(false);
  }
  return boolean(!text.empty());
}

bool is_alnum(char32_t c) { return is_alpha(c) || is_digit(c) || is_numeric(c); }

// Some cased character, and none of the other case.
template <bool (*wanted)(char32_t), bool (*other)(char32_t)>
Value only_case(Interpreter& in, const Value& self, const CallArgs&) {
  in.charge_text(self.size);
  bool found = false;
  const std::string_view text = self.text();
  for (size_t i = 0; i < text.size();) {
    const char32_t c = decode_utf8(text, i);
    if (other(c)) return boolean(false);
    found = found || wanted(c);
  }
  return boolean(found);
}

Value method_istitle(Interpreter& in, const Value& self, const CallArgs&) {
  in.charge_text(self.size);
  bool previous_cased = false;
  bool found = false;
  const std::string_view text = self.text();
  for (size_t i = 0; i < text.size();) {
    const char32_t c = decode_utf8(text, i);
    if ((is_upper(c) && previous_cased) || (is_lower(c) && !previous_cased)) return boolean(false);
    previous_cased = is_upper(c) || is_lower(c);
    found = found || previous_cased;
  }
  return boolean(found);
}

Value method_isidentifier(Interpreter& in, const Value& self, const CallArgs&) {
  in.charge_text(self.size);
  const std::string_view text = self.text();
  size_t i = 0;
  if (text.empty() || !is_identifier_start(decode_utf8(text, i))) return boolean(false);
  while (i < text.size()) {
    if (!is_identifier_part(decode_utf8(text, i))) return boolean(false);
  }
  return boolean(true);
}

Value method_isascii(Interpreter&, const Value& self, const CallArgs&) {
  return boolean(std::ranges::all_of(self.text(),
                                     [](char c) { return static_cast<unsigned char>(c) < 0x80; }));
}

Value method_isprintable(Interpreter& in, const Value& self, const CallArgs& args) {
  return self.size == 0 ? boolean(true) : every_character<is_printable>(in, self, args);
}

Value method_get(Interpreter& in, const Value& self, const CallArgs& args) {
  in.charge(self.dict->size / 64);
  const Value* const v = self.dict->find(in.arena(), args[0]);
  if (v != nullptr) return *v;
  return args[1].is(Type::kUnset) ? none() : args[1];
}

template <DictView::Part part>
Value view_method(Interpreter& in, const Value& self, const CallArgs&) {
  return object(in.arena().make<DictView>(Object{ObjectKind::kDictView}, self.dict, part));
}

Value method_copy(Interpreter&, const Value& self, const CallArgs&) { return self; }

Value method_count(Interpreter& in, const Value& self, const CallArgs& args) {
  int64_t count = 0;
  for (const Value& item : self.list()) {
    in.charge(1);
    count += equals(in, item, args[0]) ? 1 : 0;
  }
  return integer(count);
}

Value method_index(Interpreter& in, const Value& self, const CallArgs& args) {
  const int64_t size = self.size;
  const auto bound = [&](const Value& v, int64_t otherwise) {
    const int64_t i = int_arg(v, otherwise);
    return i < 0 ? std::max<int64_t>(0, i < -size ? 0 : i + size) : std::min(i, size);
  };
  for (int64_t i = bound(args[1], 0); i < bound(args[2], size); ++i) {
    in.charge(1);
    if (equals(in, self.items[i], args[0])) return integer(i);
  }
  raise_error("ValueError: value is not in {}", type_name(self));
}

constexpr Builtin kStringPredicates[] = {
    {"isalpha", "/", every_character<is_alpha>},
    {"isalnum", "/", every_character<is_alnum>},
    {"isdigit", "/", every_character<is_digit>},
    {"isdecimal", "/", every_character<is_decimal>},
    {"isnumeric", "/", every_character<is_numeric>},
    {"isspace", "/", every_character<is_space>},
    {"isprintable", "/", method_isprintable},
    {"isascii", "/", method_isascii},
    {"isidentifier", "/", method_isidentifier},
    {"islower", "/", only_case<is_lower, is_upper>},
    {"isupper", "/", only_case<is_upper, is_lower>},
    {"istitle", "/", method_istitle},
};

constexpr Builtin kDictMethods[] = {
    {"get", "/key default=", method_get},
    {"keys", "/", view_method<DictView::Part::kKeys>},
    {"values", "/", view_method<DictView::Part::kValues>},
    {"items", "/", view_method<DictView::Part::kItems>},
    {"copy", "/", method_copy},
    {"clear", "*", nullptr},
    {"fromkeys", "*", nullptr},
    {"pop", "*", nullptr},
    {"popitem", "*", nullptr},
    {"setdefault", "*", nullptr},
    {"update", "*", nullptr},
};

constexpr Builtin kListMethods[] = {
    {"count", "/value", method_count},
    {"index", "/value start= stop=", method_index},
    {"copy", "/", method_copy},
    {"append", "*", nullptr},
    {"clear", "*", nullptr},
    {"extend", "*", nullptr},
    {"insert", "*", nullptr},
    {"pop", "*", nullptr},
    {"remove", "*", nullptr},
    {"reverse", "*", nullptr},
    {"sort", "*", nullptr},
};

}  // namespace

std::span<const Builtin> string_predicates() { return kStringPredicates; }
std::span<const Builtin> dict_methods() { return kDictMethods; }
std::span<const Builtin> list_methods() { return kListMethods; }

}  // namespace atom::jinja
