// The --help text of a FlagSet: headings, one row per flag, wrapped to 100 columns.
#include <algorithm>

#include "atom/entrypoints/cli/flag_set.h"

namespace atom::cli {
namespace {

constexpr size_t kColumns = 100;
constexpr size_t kIndent = 2;
constexpr size_t kTextColumn = 36;

// Appends `text` at `column`, wrapped between words; the cursor starts at `position`.
void append_wrapped(std::string& out, std::string_view text, size_t column, size_t position) {
  if (position > 0 && position + 1 > column) {
    out += '\n';
    position = 0;
  }
  out.append(column - position, ' ');
  size_t used = column;
  bool first = true;
  while (!text.empty()) {
    const size_t space = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, space);
    text.remove_prefix(std::min(space + 1, text.size()));
    if (!first && used + 1 + word.size() > kColumns) {
      out += '\n';
      out.append(column, ' ');
      used = column;
      first = true;
    }
    if (!first) {
      out += ' ';
      ++used;
    }
    out += word;
    used += word.size();
    first = false;
  }
  out += '\n';
}

std::string left_column(const FlagSpec& spec, bool negatable, bool optional_value) {
  std::string out = spec.alias.empty() ? spec.name : spec.alias + ", " + spec.name;
  if (negatable) out += ", --no-...";
  if (optional_value) return out + " [" + spec.metavar + "]";
  return spec.metavar.empty() ? out : out + " " + spec.metavar;
}

std::string right_column(const FlagSpec& spec) {
  std::string out = spec.help;
  if (!spec.choices.empty()) {
    std::string list;
    for (const std::string& choice : spec.choices) list += (list.empty() ? "" : ", ") + choice;
    out += " {" + list + "}";
  }
  if (!spec.default_text.empty()) out += " [" + spec.default_text + "]";
  return out;
}

}  // namespace

std::string FlagSet::help() const {
  std::string out = "Usage: " + usage_ + "\n\n";
  append_wrapped(out, summary_, 0, 0);
  std::vector<std::string> groups;
  for (const Flag& flag : flags_) {
    if (std::find(groups.begin(), groups.end(), flag.group) == groups.end()) {
      groups.push_back(flag.group);
    }
  }
  for (const std::string& title : groups) {
    out += "\n" + (title.empty() ? "Flags" : title) + ":\n";
    for (const Flag& flag : flags_) {
      if (flag.group != title) continue;
      const std::string left =
          left_column(flag.spec, flag.negatable, flag.arity == Arity::kOptional);
      out.append(kIndent, ' ');
      out += left;
      append_wrapped(out, right_column(flag.spec), kTextColumn, kIndent + left.size());
    }
  }
  if (!flags_.empty()) {
    out += "\nDefaults are in [brackets]. Every long flag may be written with - or _.\n";
  }
  return out;
}

}  // namespace atom::cli
