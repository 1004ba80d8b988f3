// Functions that every template can call.
#include <algorithm>

#include "atom/chat_template/builtin_tables.h"
#include "atom/chat_template/operators.h"
#include "atom/chat_template/strftime.h"
#include "atom/chat_template/text.h"

namespace atom::jinja {
namespace {

int64_t range_bound(const Value& v) {
  constexpr int64_t kLargest = int64_t{1} << 60;
  const int64_t i = index_value(v);
  if (i > kLargest || i < -kLargest) raise_limit("range() bounds are too large");
  return i;
}

Value global_range(Interpreter& in, const Value&, const CallArgs& args) {
  const bool one = args[1].is(Type::kUnset);
  const int64_t start = one ? 0 : range_bound(args[0]);
  const int64_t stop = range_bound(one ? args[0] : args[1]);
  const int64_t step = args[2].is(Type::kUnset) ? 1 : range_bound(args[2]);
  if (step == 0) raise_error("ValueError: range() arg 3 must not be zero");
  const int64_t distance = step > 0 ? stop - start : start - stop;
  const int64_t stride = std::abs(step);
  const int64_t count = distance <= 0 ? 0 : (distance - 1) / stride + 1;
  if (count > in.limits().max_range)
    raise_limit("range() of {} items, the limit is {}", count, in.limits().max_range);
  return object(in.arena().make<Range>(Object{ObjectKind::kRange}, start, step, count));
}

// The entries that dict() and namespace() are made of: a mapping or pairs, then keywords.
Dict* entries_of(Interpreter& in, const CallArgs& args, std::string_view function) {
  if (args.positional.size() > 1) {
    raise_error("TypeError: {} expected at most 1 argument, got {}", function,
                args.positional.size());
  }
  DictBuilder builder(in.arena(), args.keywords.size());
  const auto set = [&](const Value& key, const Value& value) {
    in.charge(1 + builder.finish()->size / 16);
    builder.set(key, value);
  };
  if (!args.positional.empty() && args[0].is(Type::kDict)) {
    for (const DictEntry& e : args[0].dict->list()) builder.add(e.key, e.value);
  } else if (!args.positional.empty()) {
    const std::vector<Value> pairs = collect(in, args[0]);
    for (const Value& pair : pairs) {
      const std::vector<Value> parts = collect(in, pair);
      if (parts.size() != 2) raise_error("ValueError: {} needs pairs", function);
      set(parts[0], parts[1]);
    }
  }
  for (const KeywordValue& k : args.keywords) set(string(k.name), k.value);
  return builder.finish();
}

Value global_dict(Interpreter& in, const Value&, const CallArgs& args) {
  return dict(entries_of(in, args, "dict"));
}

Value global_namespace(Interpreter& in, const Value&, const CallArgs& args) {
  Namespace* const ns =
      in.arena().make<Namespace>(Object{ObjectKind::kNamespace}, in.new_scope(nullptr));
  for (const DictEntry& e : entries_of(in, args, "namespace")->list()) {
    const std::string_view name = text_arg(e.key, "namespace");
    if (name.starts_with('_'))
      raise_error("namespace attributes cannot start with an underscore: '{}'", name);
    in.charge(ns->attributes->count / 16);
    in.set_slot(*ns->attributes, in.symbol_of(name), e.value);
  }
  return object(ns);
}

Value global_cycler(Interpreter& in, const Value&, const CallArgs& args) {
  if (args.positional.empty()) raise_error("RuntimeError: at least one item has to be provided");
  return object(in.arena().make<Cycler>(Object{ObjectKind::kCycler}, args.positional, size_t{0}));
}

Value global_joiner(Interpreter& in, const Value&, const CallArgs& args) {
  const Value separator = args[0].is(Type::kUnset) ? string(", ") : args[0];
  return object(in.arena().make<Joiner>(Object{ObjectKind::kJoiner}, separator, false));
}

Value global_raise(Interpreter& in, const Value&, const CallArgs& args) {
  throw_fault(TemplateError::Kind::kRaise, 0, std::string(text_of(in, args[0])));
}

Value global_strftime_now(Interpreter& in, const Value&, const CallArgs& args) {
  const std::string_view format = text_arg(args[0], "strftime_now");
  in.charge(static_cast<int64_t>(format.size()));
  return in.new_string(format_time(format, in.now_unix()));
}

constexpr Builtin kGlobals[] = {
    {"range", "/start stop= step=", global_range},
    {"dict", "*", global_dict},
    {"namespace", "*", global_namespace},
    {"cycler", "*", global_cycler},
    {"joiner", "sep=", global_joiner},
    {"raise_exception", "message", global_raise},
    {"strftime_now", "format", global_strftime_now},
};

}  // namespace

std::span<const Builtin> globals() { return kGlobals; }

}  // namespace atom::jinja
