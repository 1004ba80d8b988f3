// Look-up in the tables, and what a row's parameter list says.
#include "atom/chat_template/builtins.h"

#include <algorithm>

#include "atom/chat_template/builtin_tables.h"

namespace atom::jinja {
namespace {

const Builtin* find_in(std::span<const Builtin> table, std::string_view name) {
  const auto row = std::ranges::find(table, name, &Builtin::name);
  return row != table.end() ? &*row : nullptr;
}

}  // namespace

size_t Builtin::allowed() const {
  if (params.empty() || params == "/") return 0;
  return static_cast<size_t>(std::ranges::count(params, ' ')) + 1;
}

size_t Builtin::required() const {
  return allowed() - static_cast<size_t>(std::ranges::count(params, '='));
}

const Builtin* find_filter(std::string_view name) {
  for (const auto table : {text_filters(), number_filters(), sequence_filters(), lazy_filters()}) {
    if (const Builtin* const row = find_in(table, name)) return row;
  }
  return nullptr;
}

const Builtin* find_test(std::string_view name) { return find_in(tests(), name); }
const Builtin* find_global(std::string_view name) { return find_in(globals(), name); }

const Builtin* find_string_method(std::string_view name) {
  const Builtin* const row = find_in(string_methods(), name);
  return row != nullptr ? row : find_in(string_predicates(), name);
}

const Builtin* find_dict_method(std::string_view name) { return find_in(dict_methods(), name); }
const Builtin* find_list_method(std::string_view name) { return find_in(list_methods(), name); }

}  // namespace atom::jinja
