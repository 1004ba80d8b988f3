// Parsing of FlagSet: argument splitting, typed values, nearest-name suggestions. The help text is
// in flag_help.cpp.
#include "atom/entrypoints/cli/flag_set.h"

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <cmath>
#include <utility>

#include "atom/core/check.h"
#include "atom/core/json_text.h"
#include "atom/core/log.h"

namespace atom::cli {
namespace {

constexpr size_t kShownBytes = 60;

// `--Max_Model-len` and `--max-model-len` are one flag: underscores count as hyphens after the
// dashes.
std::string canonical(std::string_view name) {
  std::string out(name);
  std::replace(out.begin(), out.end(), '_', '-');
  return out;
}

std::unexpected<Error> flag_error(std::string_view flag, std::string_view rest) {
  auto error = make_error(ErrorCode::kInvalidArgument, "{}: {}", flag, rest);
  error.error().param = std::string(flag);
  return error;
}

// A wrong use of the command, like a wrong flag.
std::unexpected<Error> stray_argument(std::string_view argument, std::string_view why) {
  return std::unexpected(
      Error{.code = ErrorCode::kInvalidArgument,
            .message = str_format("{}: unexpected argument; {}", shown(argument), why),
            .param = "-"});
}

std::unexpected<Error> value_error(const FlagSpec& spec, std::string_view value,
                                   std::string_view reason, std::string_view allowed) {
  return flag_error(spec.name, str_format("{}: {}; allowed: {}", shown(value), reason, allowed));
}

std::string joined(const std::vector<std::string>& items) {
  std::string out;
  for (const std::string& item : items) out += (out.empty() ? "" : ", ") + item;
  return out;
}

std::string range_text(const FlagSpec& spec, std::string_view type) {
  if (spec.min && spec.max) return str_format("{} from {} to {}", type, *spec.min, *spec.max);
  if (spec.min) return str_format("{} from {}", type, *spec.min);
  if (spec.max) return str_format("{} up to {}", type, *spec.max);
  return std::string(type);
}

template <class T>
Result<T> parse_number(const FlagSpec& spec, std::string_view text, std::string_view type) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [stop, code] = std::from_chars(text.data(), end, value);
  if (code == std::errc::result_out_of_range) {
    return value_error(spec, text, "out of range", range_text(spec, type));
  }
  if (code != std::errc() || stop != end) {
    return value_error(spec, text, str_format("not {}", type), range_text(spec, type));
  }
  const double as_double = static_cast<double>(value);
  if (!std::isfinite(as_double)) {
    return value_error(spec, text, "not a finite number", range_text(spec, type));
  }
  if ((spec.min && as_double < *spec.min) || (spec.max && as_double > *spec.max)) {
    return value_error(spec, text, "out of range", range_text(spec, type));
  }
  return value;
}

template <class T>
constexpr std::string_view type_name() {
  return std::is_integral_v<T> ? "a whole number" : "a number";
}

template <class T>
constexpr FlagValue value_kind() {
  return std::is_integral_v<T> ? FlagValue::kInteger : FlagValue::kNumber;
}

template <class T, class Target>
std::function<Status(std::string_view)> number_setter(const FlagSpec& spec, Target* target) {
  return [spec, target](std::string_view text) -> Status {
    ATOM_ASSIGN_OR_RETURN(*target, parse_number<T>(spec, text, type_name<T>()));
    return {};
  };
}

Status check_text(const FlagSpec& spec, std::string_view text) {
  if (spec.choices.empty()) return {};
  if (std::find(spec.choices.begin(), spec.choices.end(), text) != spec.choices.end()) return {};
  return value_error(spec, text, "unknown value", joined(spec.choices));
}

template <class Target>
std::function<Status(std::string_view)> text_setter(const FlagSpec& spec, Target* target) {
  return [spec, target](std::string_view text) -> Status {
    ATOM_RETURN_IF_ERROR(check_text(spec, text));
    *target = std::string(text);
    return {};
  };
}

template <class T>
void show_default(FlagSpec& spec, const T& value) {
  if (spec.default_text.empty()) spec.default_text = str_format("{}", value);
}

void show_default(FlagSpec& spec, const std::string& value) {
  if (spec.default_text.empty()) spec.default_text = value;
}

// Splits "[1,2,4]", "1,2,4" or "4" into its items; an unquoted [1, 2, 4] arrives as "[1,", "2,",
// "4]".
Result<std::vector<int>> parse_int_list(const FlagSpec& spec, std::string_view text) {
  std::string_view body = text;
  if (body.starts_with('[')) body.remove_prefix(1);
  if (body.ends_with(']')) body.remove_suffix(1);
  std::vector<int> items;
  while (!body.empty()) {
    const size_t comma = std::min(body.find(','), body.size());
    std::string_view item = body.substr(0, comma);
    while (item.starts_with(' ')) item.remove_prefix(1);
    while (item.ends_with(' ')) item.remove_suffix(1);
    ATOM_ASSIGN_OR_RETURN(const int value, parse_number<int>(spec, item, "a list like [1,2,4]"));
    items.push_back(value);
    body.remove_prefix(std::min(comma + 1, body.size()));
  }
  return items;
}

std::string to_json(bool value) { return value ? "true" : "false"; }
std::string to_json(int64_t value) { return std::to_string(value); }
std::string to_json(int value) { return std::to_string(value); }
std::string to_json(double value) {
  std::string out;
  append_json_number(out, value);
  return out;
}
std::string to_json(const std::string& value) {
  return value.empty() ? "null" : boost::json::serialize(boost::json::string(value));
}

template <class T>
std::string to_json(const std::optional<T>& value) {
  return value ? to_json(*value) : "null";
}

template <class T>
std::string to_json(const std::vector<T>& values) {
  std::string out;
  for (const T& value : values) out += (out.empty() ? "" : ", ") + to_json(value);
  return "[" + out + "]";
}

// Levenshtein distance with transposition of neighbours, early out above `limit`.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t swap = a[i - 1] == b[j - 1] ? 0 : 1;
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + swap});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace

std::string shown(std::string_view value) {
  if (value.empty()) return "(empty)";
  std::string out;
  for (const char c : value.substr(0, kShownBytes)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += str_format("\\x{:02x}", static_cast<unsigned>(byte));
    } else {
      out += c;
    }
  }
  if (value.size() > kShownBytes) out += str_format("... ({} bytes)", value.size());
  return out;
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates) {
  if (name.size() > 64) return {};
  std::string best;
  size_t best_distance = std::max<size_t>(2, name.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    size_t distance = edit_distance(name, candidate);
    // A prefix (--max-model for --max-model-len) is nearer than any misspelling.
    if (name.size() >= 5 && candidate.starts_with(name)) distance = 1;
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

FlagSet::FlagSet(std::string usage, std::string summary)
    : usage_(std::move(usage)), summary_(std::move(summary)) {}

void FlagSet::group(std::string title) { current_group_ = std::move(title); }
void FlagSet::positional(std::string flag) { positional_ = std::move(flag); }

template <class Target>
void FlagSet::add_flag(FlagSpec spec, Arity arity, FlagValue value, const Target* target,
                       std::function<Status(std::string_view)> set) {
  ATOM_CHECK(std::as_const(*this).find(spec.name) == nullptr) << "two rows for " << spec.name;
  Flag flag;
  flag.spec = std::move(spec);
  flag.group = current_group_;
  flag.arity = arity;
  flag.value = value;
  flag.set = std::move(set);
  flag.json = [target] { return to_json(*target); };
  flags_.push_back(std::move(flag));
}

void FlagSet::add(FlagSpec spec, std::string* target) {
  show_default(spec, *target);
  auto set = text_setter(spec, target);
  add_flag(std::move(spec), Arity::kOne, FlagValue::kText, target, std::move(set));
}

void FlagSet::add(FlagSpec spec, std::optional<std::string>* target) {
  auto set = text_setter(spec, target);
  add_flag(std::move(spec), Arity::kOne, FlagValue::kText, target, std::move(set));
}

template <class Number>
void FlagSet::add_number(FlagSpec spec, Number* target) {
  show_default(spec, *target);
  auto set = number_setter<Number>(spec, target);
  add_flag(std::move(spec), Arity::kOne, value_kind<Number>(), target, std::move(set));
}

template <class Number>
void FlagSet::add_number(FlagSpec spec, std::optional<Number>* target) {
  auto set = number_setter<Number>(spec, target);
  add_flag(std::move(spec), Arity::kOne, value_kind<Number>(), target, std::move(set));
}

void FlagSet::add(FlagSpec spec, int* target) { add_number(std::move(spec), target); }
void FlagSet::add(FlagSpec spec, int64_t* target) { add_number(std::move(spec), target); }
void FlagSet::add(FlagSpec spec, double* target) { add_number(std::move(spec), target); }
void FlagSet::add(FlagSpec spec, float* target) { add_number(std::move(spec), target); }
void FlagSet::add(FlagSpec spec, std::optional<int>* target) {
  add_number(std::move(spec), target);
}
void FlagSet::add(FlagSpec spec, std::optional<int64_t>* target) {
  add_number(std::move(spec), target);
}
void FlagSet::add(FlagSpec spec, std::optional<double>* target) {
  add_number(std::move(spec), target);
}

void FlagSet::add(FlagSpec spec, std::vector<int>* target) {
  std::string text;
  for (const int item : *target) text += (text.empty() ? "" : ",") + std::to_string(item);
  show_default(spec, "[" + text + "]");
  auto set = [spec, target](std::string_view value) -> Status {
    ATOM_ASSIGN_OR_RETURN(const std::vector<int> items, parse_int_list(spec, value));
    target->insert(target->end(), items.begin(), items.end());
    return {};
  };
  add_flag(std::move(spec), Arity::kList, FlagValue::kIntegerList, target,
           [target, set](std::string_view value) -> Status {
             if (value.empty()) {  // a new occurrence starts a new list
               target->clear();
               return {};
             }
             return set(value);
           });
}

void FlagSet::add(FlagSpec spec, std::vector<std::string>* target) {
  add_flag(std::move(spec), Arity::kOne, FlagValue::kText, target,
           [target](std::string_view value) -> Status {
             target->emplace_back(value);
             return {};
           });
  flags_.back().repeatable = true;
}

void FlagSet::add_switch(FlagSpec spec, bool* target) {
  add_flag(std::move(spec), Arity::kNone, FlagValue::kNone, target,
           [target](std::string_view) -> Status {
             *target = true;
             return {};
           });
}

void FlagSet::add_on_off(FlagSpec spec, bool* target) {
  if (spec.default_text.empty()) spec.default_text = *target ? "on" : "off";
  add_flag(std::move(spec), Arity::kNone, FlagValue::kOnOff, target,
           [target](std::string_view value) -> Status {
             *target = value != "no";
             return {};
           });
  flags_.back().negatable = true;
}

void FlagSet::add_optional_value(FlagSpec spec, std::optional<std::string>* target,
                                 std::string implied) {
  auto set = text_setter(spec, target);
  add_flag(std::move(spec), Arity::kOptional, FlagValue::kOptionalText, target, std::move(set));
  flags_.back().implied = std::move(implied);
}

FlagSet::Flag* FlagSet::find(std::string_view name, bool* negated) {
  const std::string wanted = canonical(name);
  for (Flag& flag : flags_) {
    const std::string own = canonical(flag.spec.name);
    *negated = flag.negatable && wanted == "--no-" + own.substr(2);
    if (wanted == own || *negated || (!flag.spec.alias.empty() && name == flag.spec.alias)) {
      return &flag;
    }
  }
  return nullptr;
}

const FlagSet::Flag* FlagSet::find(std::string_view name) const {
  bool negated = false;
  return const_cast<FlagSet*>(this)->find(name, &negated);
}

std::vector<FlagRow> FlagSet::rows() const {
  std::vector<FlagRow> rows;
  for (const Flag& flag : flags_) {
    rows.push_back(
        {.spec = flag.spec, .group = flag.group, .value = flag.value, .implied = flag.implied});
  }
  return rows;
}

std::string FlagSet::settings() const {
  std::string out;
  for (const Flag& flag : flags_) {
    std::string name = canonical(flag.spec.name).substr(2);
    std::replace(name.begin(), name.end(), '-', '_');
    out += str_format("{}\"{}\": {}", out.empty() ? "" : ", ", name, flag.json());
  }
  return "{" + out + "}";
}

bool FlagSet::given(std::string_view name) const {
  const Flag* flag = find(name);
  ATOM_CHECK(flag != nullptr) << "no row for " << std::string(name);
  return flag->times_given > 0;
}

std::string FlagSet::nearest(std::string_view name) const {
  std::vector<std::string> names = {"--help"};
  for (const Flag& flag : flags_) {
    names.push_back(canonical(flag.spec.name));
    if (flag.negatable) names.push_back("--no-" + canonical(flag.spec.name).substr(2));
  }
  const std::string best = nearest_name(canonical(name), names);
  const Flag* flag = best.empty() ? nullptr : find(best);
  // Shown in the guide's own spelling.
  return flag != nullptr && canonical(flag->spec.name) == best ? flag->spec.name : best;
}

bool FlagSet::is_known_flag(std::string_view argument) const {
  const std::string_view name = argument.substr(0, argument.find('='));
  return name == "--help" || name == "-h" || (name.starts_with("-") && find(name) != nullptr);
}

bool FlagSet::is_next_value(const Flag& flag, const std::vector<std::string>& arguments,
                            size_t index) const {
  if (index >= arguments.size()) return false;
  const std::string& next = arguments[index];
  if (flag.arity == Arity::kOptional) {
    // `--load_dummy xvaier` is a misspelt value, `--load_dummy --seed 1` has none.
    return !next.starts_with("-");
  }
  if (flag.arity == Arity::kList) {
    return !next.empty() && next.find_first_not_of("[]0123456789, ") == std::string::npos;
  }
  return !is_known_flag(next);
}

Status FlagSet::assign(Flag& flag, std::string_view value) {
  if (value.find('\0') != std::string_view::npos) {
    return flag_error(flag.spec.name, "a value cannot hold a zero byte");
  }
  if (value.empty() && !flag.spec.allow_empty) {
    return flag_error(flag.spec.name, "(empty): needs a value");
  }
  return flag.set(value);
}

Status FlagSet::parse_values(Flag& flag, const std::vector<std::string>& arguments, size_t& index) {
  if (flag.arity == Arity::kList) ATOM_RETURN_IF_ERROR(flag.set(""));
  if (!is_next_value(flag, arguments, index)) {
    if (flag.arity == Arity::kOptional) return flag.set(flag.implied);
    const std::string what = flag.spec.metavar.empty() ? "VALUE" : flag.spec.metavar;
    const bool is_end = index >= arguments.size();
    return flag_error(flag.spec.name, str_format("needs a value ({}){}", what,
                                                 is_end ? "" : ", not " + shown(arguments[index])));
  }
  do {
    ATOM_RETURN_IF_ERROR(assign(flag, arguments[index++]));
  } while (flag.arity == Arity::kList && is_next_value(flag, arguments, index));
  return {};
}

Status FlagSet::parse_one(const std::vector<std::string>& arguments, size_t& index) {
  const std::string& argument = arguments[index++];
  const size_t equals = argument.find('=');
  const std::string name = argument.substr(0, equals);
  bool negated = false;
  Flag* flag = find(name, &negated);
  if (flag == nullptr) {
    const std::string near = nearest(name);
    return flag_error(shown(name), near.empty() ? "unknown flag; --help lists all"
                                                : "unknown flag; did you mean " + near + "?");
  }
  if (++flag->times_given == 2 && !flag->repeatable) {
    log_warning("{}: given more than once, the last one counts", flag->spec.name);
  }
  if (flag->arity == Arity::kNone) {
    if (equals != std::string::npos) return flag_error(name, "takes no value");
    return flag->set(negated ? "no" : "yes");
  }
  if (equals == std::string::npos) return parse_values(*flag, arguments, index);
  if (flag->arity == Arity::kList) ATOM_RETURN_IF_ERROR(flag->set(""));
  return assign(*flag, std::string_view(argument).substr(equals + 1));
}

Status FlagSet::parse(const std::vector<std::string>& arguments) {
  for (const std::string& argument : arguments) {
    if (argument == "--") break;
    if (argument == "--help" || argument == "-h") {
      help_requested_ = true;
      return {};
    }
  }
  bool only_positionals = false;
  for (size_t index = 0; index < arguments.size();) {
    const std::string& argument = arguments[index];
    if (!only_positionals && argument == "--") {
      only_positionals = true;
      ++index;
    } else if (!only_positionals && argument.size() > 1 && argument.starts_with('-')) {
      ATOM_RETURN_IF_ERROR(parse_one(arguments, index));
    } else {
      if (positional_.empty()) {
        return stray_argument(argument, "values follow their flag");
      }
      bool negated = false;
      Flag* flag = find(positional_, &negated);
      if (flag->times_given++ > 0) {
        return stray_argument(argument, positional_ + " is given already");
      }
      ATOM_RETURN_IF_ERROR(assign(*flag, argument));
      ++index;
    }
  }
  return {};
}

}  // namespace atom::cli
