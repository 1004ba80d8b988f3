// FlagSet: the flags of one command as a table, from which parsing, error messages and --help all
// follow. Every long flag is understood in kebab-case and snake_case, as `--flag value` and
// `--flag=value`. It checks spelling and type only; ranges and conflicts belong to the config
// structs (make_engine_config), except where a row gives a range or a list of choices. To add a
// flag: one row in *_flags.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "atom/core/error.h"

namespace atom::cli {

struct FlagSpec {
  std::string name;          // as in the guide: "--block-size", "--kv_cache_dtype"
  std::string alias = {};    // "-tp"
  std::string metavar = {};  // "TOKENS"; the unit belongs here or into the help
  std::string help = {};
  std::string default_text = {};  // shown instead of the bound variable's value
  std::vector<std::string> choices = {};
  std::optional<double> min = {};  // inclusive
  std::optional<double> max = {};
  bool allow_empty = false;  // may the value be ""?
};

enum class FlagValue { kNone, kOnOff, kText, kOptionalText, kInteger, kNumber, kIntegerList };

// A row as other front ends see it (the Python package makes its argparse from these).
struct FlagRow {
  FlagSpec spec;
  std::string group;
  FlagValue value = FlagValue::kText;
  std::string implied = {};  // kOptionalText: what the bare flag means
};

class FlagSet {
 public:
  // `usage` is the first line of the help, `summary` the paragraph under it.
  FlagSet(std::string usage, std::string summary);

  // Rows that follow belong to this heading of the help.
  void group(std::string title);

  // Each binds one row to a variable, whose value at this moment is the default shown in the help.
  void add(FlagSpec spec, std::string* target);
  void add(FlagSpec spec, std::optional<std::string>* target);
  void add(FlagSpec spec, int* target);
  void add(FlagSpec spec, std::optional<int>* target);
  void add(FlagSpec spec, int64_t* target);
  void add(FlagSpec spec, std::optional<int64_t>* target);
  void add(FlagSpec spec, double* target);
  void add(FlagSpec spec, float* target);
  void add(FlagSpec spec, std::optional<double>* target);
  void add(FlagSpec spec, std::vector<int>* target);          // "[1,2]", "1,2" or several values
  void add(FlagSpec spec, std::vector<std::string>* target);  // may be repeated: values add up
  void add_switch(FlagSpec spec, bool* target);               // no value; sets true
  // --name sets true and --no-name sets false.
  void add_on_off(FlagSpec spec, bool* target);
  // The value may be left out, `implied` is taken then; otherwise one of spec.choices.
  void add_optional_value(FlagSpec spec, std::optional<std::string>* target, std::string implied);
  // One argument without a flag is taken as the value of this flag (`atom inspect MODEL`).
  void positional(std::string flag);

  // Arguments after the command's name. Warnings (a flag given twice) go to the log.
  // --help and -h set help_requested and skip the rest.
  Status parse(const std::vector<std::string>& arguments);
  bool help_requested() const { return help_requested_; }
  bool given(std::string_view name) const;  // was this flag (either spelling) on the command line?
  std::string help() const;                 // fits 100 columns
  std::vector<FlagRow> rows() const;
  // All flags and their values now, a JSON object with the names that argparse would give:
  // {"max_num_seqs": 256, …}. A text that is empty, or a value that was not given, is null.
  std::string settings() const;

 private:
  enum class Arity { kNone, kOptional, kOne, kList };
  struct Flag {
    FlagSpec spec;
    std::string group;
    Arity arity = Arity::kOne;
    FlagValue value = FlagValue::kText;
    bool negatable = false;
    bool repeatable = false;
    std::string implied = {};
    std::function<Status(std::string_view)> set = {};
    std::function<std::string()> json = {};  // the value now
    int times_given = 0;
  };

  template <class Target>
  void add_flag(FlagSpec spec, Arity arity, FlagValue value, const Target* target,
                std::function<Status(std::string_view)> set);
  template <class Number>
  void add_number(FlagSpec spec, Number* target);
  template <class Number>
  void add_number(FlagSpec spec, std::optional<Number>* target);
  Flag* find(std::string_view name, bool* negated);
  const Flag* find(std::string_view name) const;
  std::string nearest(std::string_view name) const;
  Status parse_one(const std::vector<std::string>& arguments, size_t& index);
  Status parse_values(Flag& flag, const std::vector<std::string>& arguments, size_t& index);
  Status assign(Flag& flag, std::string_view value);
  bool is_known_flag(std::string_view argument) const;
  bool is_next_value(const Flag& flag, const std::vector<std::string>& arguments,
                     size_t index) const;

  std::string usage_;
  std::string summary_;
  std::string current_group_;
  std::string positional_;
  std::vector<Flag> flags_;
  bool help_requested_ = false;
};

// A user's value for a message: control characters escaped, long text cut.
std::string shown(std::string_view value);

// The candidate at the smallest edit distance, or empty when none is near (commands, flags).
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace atom::cli
