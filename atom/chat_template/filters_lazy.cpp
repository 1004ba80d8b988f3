// Filters that give a generator: items are made when asked for, and only once.
#include <algorithm>

#include "atom/chat_template/builtin_tables.h"
#include "atom/chat_template/operators.h"
#include "atom/chat_template/text.h"

namespace atom::jinja {
namespace {

const Value* find_keyword(const CallArgs& args, std::string_view name) {
  const auto k = std::ranges::find(args.keywords, name, &KeywordValue::name);
  return k != args.keywords.end() ? &k->value : nullptr;
}

// A filter or test with the rest of its arguments, applied to many items.
struct Applied {
  const Builtin* builtin = nullptr;
  CallArgs args;
};

Applied named(const CallArgs& args, size_t at, const Builtin* (*find)(std::string_view),
              std::string_view what) {
  const std::string_view name = text_arg(args[at], what);
  const Builtin* const builtin = find(name);
  if (builtin == nullptr) raise_error("no {} named '{}'", what, name);
  return {builtin, {args.positional.subspan(at + 1), args.keywords}};
}

// The items of a generator's input; none at all when the input is false (None, 0, undefined), as in
// Jinja.
Iterator* source_items(Interpreter& in, const Value& source) {
  return truth(source) ? iterate(in, source) : iterate_span(in, {});
}

// Pulling through a chain of generators is recursive, hence the guard.
bool pull(Interpreter& in, Iterator& source, Value& out) {
  const DepthGuard guard(in.nesting());
  in.charge(1);
  return source.next(in, out);
}

struct MapIterator final : Iterator {
  MapIterator(const Value& v, const Value& p, const Value& d, const Applied& f)
      : source(v), path(p), otherwise(d), filter(f) {}
  bool next(Interpreter& in, Value& out) override {
    if (items == nullptr) items = source_items(in, source);
    if (!pull(in, *items, out)) return false;
    if (filter.builtin != nullptr) {
      out = in.call_builtin(*filter.builtin, out, filter.args);
    } else {
      out = get_path(in, out, path);
      if (out.is_undefined() && !absent(otherwise)) out = otherwise;
    }
    return true;
  }
  Value source;
  Value path;
  Value otherwise;
  Applied filter;
  Iterator* items = nullptr;
};

Value filter_map(Interpreter& in, const Value& v, const CallArgs& args) {
  Value path;
  Value otherwise;
  Applied filter;
  if (const Value* const attribute = find_keyword(args, "attribute");
      attribute != nullptr && args.positional.empty()) {
    path = *attribute;
    if (const Value* const d = find_keyword(args, "default")) otherwise = *d;
    if (args.keywords.size() > (otherwise.is(Type::kUnset) ? 1 : 2))
      raise_error("unexpected keyword argument of map");
  } else {
    if (args.positional.empty()) raise_error("map requires a filter argument");
    filter = named(args, 0, find_filter, "filter");
  }
  return object(in.arena().make<MapIterator>(v, path, otherwise, filter));
}

struct SelectIterator final : Iterator {
  SelectIterator(const Value& v, const Value& p, const Applied& t, bool w)
      : source(v), path(p), test(t), wanted(w) {}
  bool next(Interpreter& in, Value& out) override {
    if (items == nullptr) items = source_items(in, source);
    while (pull(in, *items, out)) {
      Value subject = path.is(Type::kUnset) ? out : get_path(in, out, path);
      if (test.builtin != nullptr) subject = in.call_builtin(*test.builtin, subject, test.args);
      if (truth(subject) == wanted) return true;
    }
    return false;
  }
  Value source;
  Value path;
  Applied test;
  bool wanted;
  Iterator* items = nullptr;
};

template <bool by_attribute, bool wanted>
Value filter_select(Interpreter& in, const Value& v, const CallArgs& args) {
  if (by_attribute && args.positional.empty()) raise_error("missing parameter for attribute name");
  const size_t test_at = by_attribute ? 1 : 0;
  Applied test;
  if (args.positional.size() > test_at) test = named(args, test_at, find_test, "test");
  return object(in.arena().make<SelectIterator>(v, by_attribute ? args[0] : unset(), test, wanted));
}

struct ItemsIterator final : Iterator {
  explicit ItemsIterator(const Value& v) : source(v) {}
  bool next(Interpreter& in, Value& out) override {
    if (source.is_undefined()) return false;
    if (!source.is(Type::kDict)) raise_error("TypeError: Can only get item pairs from a mapping.");
    if (position >= source.dict->size) return false;
    const DictEntry& e = source.dict->entries[position++];
    out = in.new_tuple({e.key, e.value});
    return true;
  }
  Value source;
  uint32_t position = 0;
};

Value filter_items(Interpreter& in, const Value& v, const CallArgs&) {
  return object(in.arena().make<ItemsIterator>(v));
}

struct BatchIterator final : Iterator {
  BatchIterator(const Value& v, int64_t s, const Value& f) : source(v), size(s), fill(f) {}
  bool next(Interpreter& in, Value& out) override {
    if (items == nullptr) items = iterate(in, source);
    std::vector<Value> batch;
    for (Value item; static_cast<int64_t>(batch.size()) < size && pull(in, *items, item);)
      batch.push_back(item);
    if (batch.empty()) return false;
    while (!absent(fill) && static_cast<int64_t>(batch.size()) < size) {
      in.charge(1);
      batch.push_back(fill);
    }
    out = in.new_list(batch);
    return true;
  }
  Value source;
  int64_t size;
  Value fill;
  Iterator* items = nullptr;
};

Value filter_batch(Interpreter& in, const Value& v, const CallArgs& args) {
  const int64_t size = index_value(args[0]);
  if (size <= 0) raise_error("batch() needs a positive size");
  return object(in.arena().make<BatchIterator>(v, size, args[1]));
}

// All slices at once: the lengths differ by at most one, longer ones first.
Value filter_slice(Interpreter& in, const Value& v, const CallArgs& args) {
  const int64_t slices = index_value(args[0]);
  if (slices <= 0) raise_error("ZeroDivisionError: slice() needs a positive count");
  const std::vector<Value> items = collect(in, v);
  const auto count = static_cast<int64_t>(items.size());
  const int64_t least = count / slices;
  const int64_t longer = count % slices;
  std::vector<Value> all;
  auto at = items.begin();
  for (int64_t i = 0; i < slices; ++i) {
    in.charge(1);
    const int64_t size = least + (i < longer ? 1 : 0);
    std::vector<Value> part(at, at + size);
    at += size;
    if (!absent(args[1]) && i >= longer) part.push_back(args[1]);
    all.push_back(in.new_list(part));
  }
  return object(iterate_span(in, in.arena().copy(all)));
}

constexpr Builtin kLazyFilters[] = {
    {"map", "*", filter_map},
    {"select", "*", filter_select<false, true>},
    {"reject", "*", filter_select<false, false>},
    {"selectattr", "*", filter_select<true, true>},
    {"rejectattr", "*", filter_select<true, false>},
    {"items", "", filter_items},
    {"batch", "linecount fill_with=", filter_batch},
    {"slice", "slices fill_with=", filter_slice},
};

}  // namespace

std::span<const Builtin> lazy_filters() { return kLazyFilters; }

}  // namespace atom::jinja
