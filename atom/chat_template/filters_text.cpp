// Filters whose input is read as text.
#include <algorithm>

#include "atom/chat_template/builtin_tables.h"
#include "atom/chat_template/json_dump.h"
#include "atom/chat_template/operators.h"
#include "atom/chat_template/text.h"
#include "atom/chat_template/text_format.h"
#include "atom/chat_template/unicode.h"

namespace atom::jinja {
namespace {

template <std::string (*convert)(std::string_view)>
Value filter_case(Interpreter& in, const Value& v, const CallArgs&) {
  const std::string_view text = text_of(in, v);
  in.charge_text(text.size() * 4);
  return text_like(in, convert(text), v);
}

// Words start after white space and -({[<, unlike str.title().
std::string title_words(std::string_view text) {
  std::string out;
  bool at_start = true;
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    const char32_t c = decode_utf8(text, i);
    const std::string_view piece = text.substr(start, i - start);
    const bool separates = is_space(c) || std::string_view("-({[<").find(static_cast<char>(c)) !=
                                              std::string_view::npos;
    if (c < 0x80 && separates) {
      out += piece;
      at_start = true;
    } else if (is_space(c)) {
      out += piece;
      at_start = true;
    } else {
      out += at_start ? to_upper(piece) : to_lower(piece);
      at_start = false;
    }
  }
  return out;
}

Value filter_string(Interpreter& in, const Value& v, const CallArgs&) {
  return v.is_string() ? v : string(text_of(in, v));
}

Value filter_safe(Interpreter& in, const Value& v, const CallArgs&) {
  Value text = string(text_of(in, v));
  text.flags = Value::kMarkup;
  return text;
}

Value filter_force_escape(Interpreter& in, const Value& v, const CallArgs&) {
  const std::string_view text = text_of(in, v);
  in.charge_text(text.size());
  Value escaped = in.new_string(escape_html(text));
  escaped.flags = Value::kMarkup;
  return escaped;
}

Value filter_escape(Interpreter& in, const Value& v, const CallArgs& args) {
  return v.is_markup() ? v : filter_force_escape(in, v, args);
}

Value filter_trim(Interpreter& in, const Value& v, const CallArgs& args) {
  Value text = string(strip_text(text_of(in, v), args[0], true, true));
  if (v.is_markup()) text.flags = Value::kMarkup;
  return text;
}

Value filter_replace(Interpreter& in, const Value& v, const CallArgs& args) {
  const int64_t count = absent(args[2]) ? -1 : index_value(args[2]);
  const std::string_view text = text_of(in, v);
  return text_like(in, replace_text(in, text, text_of(in, args[0]), text_of(in, args[1]), count),
                   v);
}

Value filter_indent(Interpreter& in, const Value& v, const CallArgs& args) {
  std::string indent(4, ' ');
  if (args[0].is_string()) {
    indent = args[0].text();
  } else if (!args[0].is(Type::kUnset)) {
    const int64_t width = std::max<int64_t>(0, index_value(args[0]));
    in.check_size(static_cast<size_t>(width));
    indent.assign(static_cast<size_t>(width), ' ');
  }
  const bool first = flag_arg(args[1], false);
  const bool blank = flag_arg(args[2], false);
  const std::string_view text = text_arg(v, "indent");
  std::string out = first ? indent : "";
  for (size_t pos = 0; pos <= text.size();) {
    const size_t end = std::min(text.find('\n', pos), text.size());
    const std::string_view line = text.substr(pos, end - pos);
    in.charge(1);
    in.check_size(out.size() + indent.size() + line.size() + 1);
    if (pos > 0) out.push_back('\n');
    if (pos > 0 && (blank || !line.empty())) out += indent;
    out += line;
    pos = end + 1;
  }
  return text_like(in, out, v);
}

Value filter_center(Interpreter& in, const Value& v, const CallArgs& args) {
  return text_like(in, pad_center(in, text_of(in, v), int_arg(args[0], 80), ' '), v);
}

Value filter_wordcount(Interpreter& in, const Value& v, const CallArgs&) {
  const std::string_view text = text_of(in, v);
  in.charge_text(text.size() * 4);
  int64_t words = 0;
  bool inside = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = decode_utf8(text, i);
    const bool word = c == '_' || is_alpha(c) || is_numeric(c);
    words += word && !inside ? 1 : 0;
    inside = word;
  }
  return integer(words);
}

// Greedy filling of one line without line ends, as textwrap.wrap.
void wrap_line(Interpreter& in, std::string_view line, size_t width, bool break_long,
               std::vector<std::string>& lines) {
  std::vector<std::string_view> chunks;  // alternating words and white space
  for (size_t pos = 0; pos < line.size();) {
    const bool space = line[pos] == ' ' || line[pos] == '\t';
    size_t end = pos;
    while (end < line.size() && (line[end] == ' ' || line[end] == '\t') == space) ++end;
    chunks.push_back(line.substr(pos, end - pos));
    pos = end;
  }
  std::string current;
  for (size_t i = 0; i < chunks.size(); ++i) {
    in.charge(1);
    std::string_view chunk = chunks[i];
    const bool space = chunk[0] == ' ' || chunk[0] == '\t';
    if (count_code_points(current) + count_code_points(chunk) > width) {
      const std::string_view kept = trim_right(current);
      if (!kept.empty()) lines.emplace_back(kept);
      current.clear();
    }
    if (space && current.empty() && !lines.empty()) continue;
    while (break_long && count_code_points(chunk) > width) {
      const size_t cut = byte_offset(chunk, width);
      lines.emplace_back(chunk.substr(0, cut));
      chunk.remove_prefix(cut);
      in.charge(1 + static_cast<int64_t>(chunk.size() / 64));
    }
    current += chunk;
  }
  if (const std::string_view kept = trim_right(current); !kept.empty()) lines.emplace_back(kept);
}

Value filter_wordwrap(Interpreter& in, const Value& v, const CallArgs& args) {
  const int64_t width = int_arg(args[0], 79);
  if (width <= 0) raise_error("ValueError: invalid width {} (must be > 0)", width);
  const bool break_long = flag_arg(args[1], true);
  const std::string_view separator = absent(args[2]) ? "\n" : text_arg(args[2], "wordwrap");
  std::string_view text = text_arg(v, "wordwrap");
  std::vector<std::string> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const size_t before = lines.size();
    std::vector<std::string> wrapped;
    wrap_line(in, text.substr(0, end), static_cast<size_t>(width), break_long, wrapped);
    if (wrapped.empty()) wrapped.emplace_back();
    lines.insert(lines.end(), wrapped.begin(), wrapped.end());
    in.charge(static_cast<int64_t>(lines.size() - before));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  std::string out;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += separator;
    in.check_size(out.size());
    out += lines[i];
  }
  return in.new_string(out);
}

Value filter_truncate(Interpreter& in, const Value& v, const CallArgs& args) {
  const int64_t length = int_arg(args[0], 255);
  const bool kill_words = flag_arg(args[1], false);
  const std::string_view end = args[2].is(Type::kUnset) ? "..." : text_arg(args[2], "truncate");
  const int64_t leeway = absent(args[3]) ? 5 : index_value(args[3]);
  if (v.is_undefined()) return v;
  const std::string_view text = text_arg(v, "truncate");
  const auto end_length = static_cast<int64_t>(count_code_points(end));
  if (length < end_length) raise_error("expected length >= {}, got {}", end_length, length);
  if (static_cast<int64_t>(count_code_points(text)) <= length + leeway) return v;
  std::string_view kept =
      text.substr(0, byte_offset(text, static_cast<size_t>(length - end_length)));
  if (!kill_words) kept = kept.substr(0, kept.rfind(' '));
  return text_like(in, std::string(kept) + std::string(end), v);
}

Value filter_format(Interpreter& in, const Value& v, const CallArgs& args) {
  const Value text = v.is_string() ? v : string(text_of(in, v));
  if (args.keywords.empty()) return percent_format(in, text, tuple(args.positional));
  if (!args.positional.empty())
    raise_error("can't handle positional and keyword arguments at the same time");
  DictBuilder builder(in.arena(), args.keywords.size());
  for (const KeywordValue& k : args.keywords) builder.set(string(k.name), k.value);
  return percent_format(in, text, dict(builder.finish()));
}

void append_quoted(std::string& out, std::string_view text, bool for_query) {
  for (const char c : text) {
    const bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (alnum || c == '_' || c == '.' || c == '-' || c == '~' || (c == '/' && !for_query)) {
      out.push_back(c);
    } else if (c == ' ' && for_query) {
      out.push_back('+');
    } else {
      out += str_format("%{:02X}", static_cast<uint32_t>(static_cast<unsigned char>(c)));
    }
  }
}

Value filter_urlencode(Interpreter& in, const Value& v, const CallArgs&) {
  std::string out;
  const auto pair = [&](const Value& key, const Value& value) {
    if (!out.empty()) out.push_back('&');
    const std::string_view texts[] = {text_of(in, key), text_of(in, value)};
    in.charge_text(texts[0].size() + texts[1].size());
    in.check_size(out.size() + 3 * (texts[0].size() + texts[1].size()));
    append_quoted(out, texts[0], true);
    out.push_back('=');
    append_quoted(out, texts[1], true);
  };
  if (v.is(Type::kDict)) {
    for (const DictEntry& e : v.dict->list()) pair(e.key, e.value);
  } else if (v.is_sequence()) {
    for (const Value& item : v.list()) {
      if (!item.is_sequence() || item.size != 2) raise_error("ValueError: urlencode needs pairs");
      pair(item.items[0], item.items[1]);
    }
  } else {
    const std::string_view text = text_of(in, v);
    in.charge_text(text.size());
    append_quoted(out, text, false);
  }
  return in.new_string(out);
}

Value filter_striptags(Interpreter& in, const Value& v, const CallArgs&) {
  std::string_view rest = text_of(in, v);
  in.charge_text(rest.size() * 2);
  std::string plain;
  for (size_t open; (open = rest.find('<')) != rest.npos;) {
    const bool comment = rest.substr(open, 4) == "<!--";
    const std::string_view end = comment ? "-->" : ">";
    const size_t close = rest.find(end, open);
    if (close == rest.npos) break;
    plain += rest.substr(0, open);
    rest.remove_prefix(close + end.size());
  }
  plain += rest;
  std::string out;
  for (std::string_view words = trim_left(plain); !words.empty(); words = trim_left(words)) {
    size_t end = 0;
    for (size_t next = 0; next < words.size(); end = next) {
      if (is_space(decode_utf8(words, next))) break;
    }
    if (!out.empty()) out.push_back(' ');
    out += words.substr(0, end);
    words.remove_prefix(end);
  }
  constexpr std::string_view kEntities[][2] = {{"&lt;", "<"},   {"&gt;", ">"},  {"&quot;", "\""},
                                               {"&#34;", "\""}, {"&#39;", "'"}, {"&amp;", "&"}};
  for (const auto& [name, character] : kEntities) out = replace_text(in, out, name, character, -1);
  return in.new_string(out);
}

Value filter_tojson(Interpreter& in, const Value& v, const CallArgs& args) {
  JsonStyle style;
  style.ensure_ascii = flag_arg(args[0], false);
  if (!absent(args[1])) {
    style.pretty = true;
    style.item_separator = ",";
    if (args[1].is_string()) {
      style.indent = args[1].text();
    } else {
      const int64_t width = std::clamp<int64_t>(index_value(args[1]), 0, 1000);
      style.indent.assign(static_cast<size_t>(width), ' ');
    }
  }
  if (!absent(args[2])) {
    if (!args[2].is_sequence() || args[2].size != 2)
      raise_error("ValueError: separators must be a pair");
    style.item_separator = text_arg(args[2].items[0], "tojson");
    style.key_separator = text_arg(args[2].items[1], "tojson");
  }
  style.sort_keys = flag_arg(args[3], false);
  return in.new_string(json_dump(in, v, style));
}

constexpr Builtin kTextFilters[] = {
    {"string", "", filter_string},
    {"upper", "", filter_case<to_upper>},
    {"lower", "", filter_case<to_lower>},
    {"title", "", filter_case<title_words>},
    {"capitalize", "", filter_case<to_capitalized>},
    {"trim", "chars=", filter_trim},
    {"replace", "old new count=", filter_replace},
    {"indent", "width= first= blank=", filter_indent},
    {"center", "width=", filter_center},
    {"wordcount", "", filter_wordcount},
    {"wordwrap", "width= break_long_words= wrapstring= break_on_hyphens=", filter_wordwrap},
    {"truncate", "length= killwords= end= leeway=", filter_truncate},
    {"format", "*", filter_format},
    {"escape", "", filter_escape},
    {"e", "", filter_escape},
    {"forceescape", "", filter_force_escape},
    {"safe", "", filter_safe},
    {"striptags", "", filter_striptags},
    {"urlencode", "", filter_urlencode},
    {"tojson", "ensure_ascii= indent= separators= sort_keys=", filter_tojson},
};

}  // namespace

std::span<const Builtin> text_filters() { return kTextFilters; }

}  // namespace atom::jinja
