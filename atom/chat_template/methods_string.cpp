// Methods of str that give text, lists or positions. The is...() methods are in
// methods_collection.cpp.
#include <algorithm>

#include "atom/chat_template/builtin_tables.h"
#include "atom/chat_template/operators.h"
#include "atom/chat_template/text.h"
#include "atom/chat_template/text_format.h"
#include "atom/chat_template/unicode.h"

namespace atom::jinja {
namespace {

template <std::string (*convert)(std::string_view)>
Value case_method(Interpreter& in, const Value& self, const CallArgs&) {
  in.charge_text(size_t{self.size} * 4);
  return text_like(in, convert(self.text()), self);
}

template <bool left, bool right>
Value strip_method(Interpreter& in, const Value& self, const CallArgs& args) {
  in.charge_text(self.size);
  Value text = string(strip_text(self.text(), args[0], left, right));
  text.flags = self.flags;
  return text;
}

Value piece(const Value& origin, std::string_view text) {
  Value v = string(text);
  v.flags = origin.flags;
  return v;
}

// Splits at white space, from the left or the right; at most `limit` times when not negative.
std::vector<Value> split_space(Interpreter& in, const Value& self, int64_t limit, bool from_right) {
  std::vector<Value> parts;
  std::string_view rest = from_right ? trim_right(self.text()) : trim_left(self.text());
  in.charge_text(size_t{self.size} * 2);
  while (!rest.empty()) {
    in.charge(1);
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.push_back(piece(self, rest));
      break;
    }
    if (from_right) {
      size_t start = rest.size();
      while (start > 0) {
        size_t at = start - 1;
        while (at > 0 && (static_cast<unsigned char>(rest[at]) & 0xC0) == 0x80) --at;
        size_t next = at;
        if (is_space(decode_utf8(rest, next))) break;
        start = at;
      }
      parts.push_back(piece(self, rest.substr(start)));
      rest = trim_right(rest.substr(0, start));
    } else {
      size_t end = 0;
      for (size_t next = 0; next < rest.size(); end = next) {
        if (is_space(decode_utf8(rest, next))) break;
      }
      parts.push_back(piece(self, rest.substr(0, end)));
      rest = trim_left(rest.substr(end));
    }
  }
  if (from_right) std::ranges::reverse(parts);
  return parts;
}

std::vector<Value> split_at(Interpreter& in, const Value& self, std::string_view separator,
                            int64_t limit, bool from_right) {
  if (separator.empty()) raise_error("ValueError: empty separator");
  std::vector<Value> parts;
  std::string_view rest = self.text();
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    in.charge(1);
    const size_t at =
        from_right ? find_last_text(in, rest, separator) : find_text(in, rest, separator);
    if (at == rest.npos) break;
    parts.push_back(
        piece(self, from_right ? rest.substr(at + separator.size()) : rest.substr(0, at)));
    rest = from_right ? rest.substr(0, at) : rest.substr(at + separator.size());
  }
  parts.push_back(piece(self, rest));
  if (from_right) std::ranges::reverse(parts);
  return parts;
}

template <bool from_right>
Value split_method(Interpreter& in, const Value& self, const CallArgs& args) {
  const int64_t limit = int_arg(args[1], -1);
  if (absent(args[0])) return in.new_list(split_space(in, self, limit, from_right));
  return in.new_list(split_at(in, self, text_arg(args[0], "split"), limit, from_right));
}

Value method_splitlines(Interpreter& in, const Value& self, const CallArgs& args) {
  const bool keep_ends = flag_arg(args[0], false);
  const std::string_view text = self.text();
  in.charge_text(text.size() * 2);
  std::vector<Value> lines;
  for (size_t start = 0, pos = 0; start < text.size();) {
    size_t end = text.size();
    while (pos < text.size()) {
      const size_t at = pos;
      const char32_t c = decode_utf8(text, pos);
      const bool breaks =
          (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
      if (!breaks) continue;
      if (c == '\r' && pos < text.size() && text[pos] == '\n') ++pos;
      end = at;
      break;
    }
    in.charge(1);
    lines.push_back(piece(self, text.substr(start, (keep_ends ? pos : end) - start)));
    start = pos;
  }
  return in.new_list(lines);
}

template <bool from_right>
Value partition_method(Interpreter& in, const Value& self, const CallArgs& args) {
  const std::string_view separator = text_arg(args[0], "partition");
  if (separator.empty()) raise_error("ValueError: empty separator");
  const std::string_view text = self.text();
  const size_t at =
      from_right ? find_last_text(in, text, separator) : find_text(in, text, separator);
  const Value empty = string({});
  if (at == text.npos) {
    return from_right ? in.new_tuple({empty, empty, self}) : in.new_tuple({self, empty, empty});
  }
  return in.new_tuple({piece(self, text.substr(0, at)),
                       piece(self, text.substr(at, separator.size())),
                       piece(self, text.substr(at + separator.size()))});
}

Value method_replace(Interpreter& in, const Value& self, const CallArgs& args) {
  const std::string_view from = text_arg(args[0], "replace");
  const std::string_view to = text_arg(args[1], "replace");
  return text_like(in, replace_text(in, self.text(), from, to, int_arg(args[2], -1)), self);
}

Value method_join(Interpreter& in, const Value& self, const CallArgs& args) {
  std::string out;
  Iterator* const items = iterate(in, args[0]);
  int64_t count = 0;
  for (Value item; items->next(in, item); ++count) {
    in.charge(1);
    if (!item.is_string()) {
      raise_error("TypeError: sequence item {}: expected str instance, {} found", count,
                  type_name(item));
    }
    if (count > 0) append_str(in, out, self);
    append_str(in, out, item);
  }
  return text_like(in, out, self);
}

// The part of the text that (start, end) arguments select.
struct Window {
  std::string_view text;
  int64_t offset;  // code points before it
  bool possible;   // start is not beyond the end of the text
};

Window window(Interpreter& in, const Value& self, const Value& start, const Value& end) {
  if (absent(start) && absent(end)) return {self.text(), 0, true};
  const int64_t length = jinja::length(in, self);
  int64_t from = absent(start) ? 0 : index_value(start);
  if (from < 0) from = std::max<int64_t>(0, from < -length ? 0 : from + length);
  const Value part =
      slice(in, self, {absent(start) ? none() : start, absent(end) ? none() : end, none()});
  return {part.text(), from, from <= length};
}

template <bool last>
int64_t find_index(Interpreter& in, const Value& self, const CallArgs& args) {
  const std::string_view wanted = text_arg(args[0], "find");
  const Window w = window(in, self, args[1], args[2]);
  if (!w.possible) return -1;
  const size_t at = last ? find_last_text(in, w.text, wanted) : find_text(in, w.text, wanted);
  if (at == w.text.npos) return -1;
  return w.offset + static_cast<int64_t>(count_code_points(w.text.substr(0, at)));
}

template <bool last>
Value find_method(Interpreter& in, const Value& self, const CallArgs& args) {
  return integer(find_index<last>(in, self, args));
}

template <bool last>
Value index_method(Interpreter& in, const Value& self, const CallArgs& args) {
  const int64_t at = find_index<last>(in, self, args);
  if (at < 0) raise_error("ValueError: substring not found");
  return integer(at);
}

Value method_count(Interpreter& in, const Value& self, const CallArgs& args) {
  const std::string_view wanted = text_arg(args[0], "count");
  const Window w = window(in, self, args[1], args[2]);
  if (!w.possible) return integer(0);
  if (wanted.empty()) return integer(static_cast<int64_t>(count_code_points(w.text)) + 1);
  int64_t count = 0;
  for (size_t pos = 0; (pos = find_text(in, w.text, wanted, pos)) != w.text.npos;
       pos += wanted.size()) {
    in.charge(1);
    ++count;
  }
  return integer(count);
}

template <bool at_end>
Value affix_method(Interpreter& in, const Value& self, const CallArgs& args) {
  const Window w = window(in, self, args[1], args[2]);
  const auto matches = [&](const Value& affix) {
    const std::string_view part = text_arg(affix, at_end ? "endswith" : "startswith");
    return w.possible && (at_end ? w.text.ends_with(part) : w.text.starts_with(part));
  };
  if (args[0].is(Type::kTuple)) return boolean(std::ranges::any_of(args[0].list(), matches));
  return boolean(matches(args[0]));
}

Value method_removeprefix(Interpreter&, const Value& self, const CallArgs& args) {
  const std::string_view prefix = text_arg(args[0], "removeprefix");
  return self.text().starts_with(prefix) ? piece(self, self.text().substr(prefix.size())) : self;
}

Value method_removesuffix(Interpreter&, const Value& self, const CallArgs& args) {
  const std::string_view suffix = text_arg(args[0], "removesuffix");
  if (suffix.empty() || !self.text().ends_with(suffix)) return self;
  return piece(self, self.text().substr(0, self.size - suffix.size()));
}

char32_t fill_arg(const Value& v) {
  if (absent(v)) return ' ';
  const std::string_view text = text_arg(v, "fill");
  size_t pos = 0;
  const char32_t c = text.empty() ? U' ' : decode_utf8(text, pos);
  if (pos != text.size() || text.empty()) {
    raise_error("TypeError: the fill character must be exactly one character long");
  }
  return c;
}

template <bool left>
Value justify_method(Interpreter& in, const Value& self, const CallArgs& args) {
  const char32_t fill = fill_arg(args[1]);
  const int64_t missing = index_value(args[0]) - jinja::length(in, self);
  if (missing <= 0) return self;
  in.check_size(static_cast<size_t>(missing));
  in.charge_text(static_cast<size_t>(missing));
  std::string padding;
  for (int64_t i = 0; i < missing; ++i) append_utf8(padding, fill);
  const std::string text(self.text());
  return text_like(in, left ? text + padding : padding + text, self);
}

Value method_center(Interpreter& in, const Value& self, const CallArgs& args) {
  return text_like(in, pad_center(in, self.text(), index_value(args[0]), fill_arg(args[1])), self);
}

Value method_zfill(Interpreter& in, const Value& self, const CallArgs& args) {
  const int64_t missing = index_value(args[0]) - jinja::length(in, self);
  if (missing <= 0) return self;
  in.check_size(static_cast<size_t>(missing));
  const std::string_view text = self.text();
  const size_t sign = text.starts_with('-') || text.starts_with('+') ? 1 : 0;
  std::string out(text.substr(0, sign));
  out.append(static_cast<size_t>(missing), '0');
  out += text.substr(sign);
  return text_like(in, out, self);
}

Value method_expandtabs(Interpreter& in, const Value& self, const CallArgs& args) {
  const int64_t size = int_arg(args[0], 8);
  std::string out;
  int64_t column = 0;
  for (const char c : self.text()) {
    if (c == '\t') {
      const int64_t spaces = size > 0 ? size - column % size : 0;
      in.charge(1 + spaces / 64);
      in.check_size(out.size() + static_cast<size_t>(spaces));
      out.append(static_cast<size_t>(spaces), ' ');
      column += spaces;
    } else {
      out.push_back(c);
      if (c == '\n' || c == '\r') {
        column = 0;
      } else if ((static_cast<unsigned char>(c) & 0xC0) != 0x80) {
        ++column;
      }
    }
  }
  return text_like(in, out, self);
}

constexpr Builtin kStringMethods[] = {
    {"upper", "/", case_method<to_upper>},
    {"lower", "/", case_method<to_lower>},
    {"casefold", "/", case_method<to_lower>},
    {"title", "/", case_method<to_title>},
    {"capitalize", "/", case_method<to_capitalized>},
    {"swapcase", "/", case_method<swap_case>},
    {"strip", "/chars=", strip_method<true, true>},
    {"lstrip", "/chars=", strip_method<true, false>},
    {"rstrip", "/chars=", strip_method<false, true>},
    {"split", "sep= maxsplit=", split_method<false>},
    {"rsplit", "sep= maxsplit=", split_method<true>},
    {"splitlines", "keepends=", method_splitlines},
    {"partition", "/sep", partition_method<false>},
    {"rpartition", "/sep", partition_method<true>},
    {"replace", "/old new count=", method_replace},
    {"join", "/iterable", method_join},
    {"find", "/sub start= end=", find_method<false>},
    {"rfind", "/sub start= end=", find_method<true>},
    {"index", "/sub start= end=", index_method<false>},
    {"rindex", "/sub start= end=", index_method<true>},
    {"count", "/sub start= end=", method_count},
    {"startswith", "/prefix start= end=", affix_method<false>},
    {"endswith", "/suffix start= end=", affix_method<true>},
    {"removeprefix", "/prefix", method_removeprefix},
    {"removesuffix", "/suffix", method_removesuffix},
    {"ljust", "/width fillchar=", justify_method<true>},
    {"rjust", "/width fillchar=", justify_method<false>},
    {"center", "/width fillchar=", method_center},
    {"zfill", "/width", method_zfill},
    {"expandtabs", "tabsize=", method_expandtabs},
    {"format", "*", brace_format},
    {"format_map", "*", nullptr},
    {"encode", "*", nullptr},
    {"translate", "*", nullptr},
    {"maketrans", "*", nullptr},
};

}  // namespace

std::span<const Builtin> string_methods() { return kStringMethods; }

}  // namespace atom::jinja
