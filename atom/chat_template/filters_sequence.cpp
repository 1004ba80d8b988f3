// Filters that look at a whole sequence or mapping at once.
#include <algorithm>
#include <unordered_set>

#include "atom/chat_template/builtin_tables.h"
#include "atom/chat_template/operators.h"
#include "atom/chat_template/text.h"
#include "atom/chat_template/unicode.h"

namespace atom::jinja {
namespace {

Value filter_default(Interpreter&, const Value& v, const CallArgs& args) {
  const bool missing = v.is_undefined() || (flag_arg(args[1], false) && !truth(v));
  if (!missing) return v;
  return args[0].is(Type::kUnset) ? string({}) : args[0];
}

Value filter_length(Interpreter& in, const Value& v, const CallArgs&) {
  return integer(length(in, v));
}

Value filter_list(Interpreter& in, const Value& v, const CallArgs&) {
  return in.new_list(collect(in, v));
}

Value nothing(Interpreter& in, std::string_view message) {
  return in.undefined(Undefined::Cause::kMessage, {}, string(message));
}

Value filter_first(Interpreter& in, const Value& v, const CallArgs&) {
  Value item;
  return iterate(in, v)->next(in, item) ? item : nothing(in, "No first item, sequence was empty.");
}

Value filter_last(Interpreter& in, const Value& v, const CallArgs&) {
  if (is_object(v, ObjectKind::kIterator))
    raise_error("TypeError: 'generator' object is not reversible");
  const std::vector<Value> items = collect(in, v);
  return items.empty() ? nothing(in, "No last item, sequence was empty.") : items.back();
}

Value filter_join(Interpreter& in, const Value& v, const CallArgs& args) {
  const std::string_view separator = args[0].is(Type::kUnset) ? "" : text_of(in, args[0]);
  std::string out;
  bool first = true;
  Iterator* const items = iterate(in, v);
  for (Value item; items->next(in, item);) {
    in.charge(1);
    if (!std::exchange(first, false)) append_str(in, out, string(separator));
    append_str(in, out, absent(args[1]) ? item : get_path(in, item, args[1]));
  }
  return in.new_string(out);
}

Value filter_sum(Interpreter& in, const Value& v, const CallArgs& args) {
  Value sum = args[1].is(Type::kUnset) ? integer(0) : args[1];
  for (const Value& item : collect(in, v)) {
    in.charge(1);
    sum = add(in, sum, absent(args[0]) ? item : get_path(in, item, args[0]));
  }
  return sum;
}

// The key by which an item is compared: its attribute, in lower case unless case matters.
Value sort_key(Interpreter& in, const Value& item, const Value& path, bool case_sensitive) {
  in.charge(1);
  const Value key = absent(path) ? item : get_path(in, item, path);
  if (case_sensitive || !key.is_string()) return key;
  in.charge_text(key.size * 4);
  return in.new_string(to_lower(key.text()));
}

struct Keyed {
  Value key;
  Value item;
};

void sort_keyed(Interpreter& in, std::vector<Keyed>& items, bool reverse) {
  std::ranges::stable_sort(items, [&](const Keyed& a, const Keyed& b) {
    in.charge(1);
    return compare(in, reverse ? b.key : a.key, reverse ? a.key : b.key, "<") == Order::kLess;
  });
}

std::vector<Value> items_of(const std::vector<Keyed>& keyed) {
  std::vector<Value> items;
  for (const Keyed& k : keyed) items.push_back(k.item);
  return items;
}

// attribute="a,b" sorts by several; keys are lists, so that equal keys need no order.
Value list_key(Interpreter& in, const Value& item, const Value& paths, bool case_sensitive) {
  std::vector<Value> keys;
  if (!paths.is_string()) {
    keys.push_back(sort_key(in, item, paths, case_sensitive));
  } else {
    for (std::string_view rest = paths.text();;) {
      const size_t comma = std::min(rest.find(','), rest.size());
      keys.push_back(sort_key(in, item, string(rest.substr(0, comma)), case_sensitive));
      if (comma == rest.size()) break;
      rest.remove_prefix(comma + 1);
    }
  }
  return in.new_list(keys);
}

Value filter_sort(Interpreter& in, const Value& v, const CallArgs& args) {
  std::vector<Keyed> keyed;
  const bool case_sensitive = flag_arg(args[1], false);
  for (const Value& item : collect(in, v))
    keyed.push_back({list_key(in, item, args[2], case_sensitive), item});
  sort_keyed(in, keyed, flag_arg(args[0], false));
  return in.new_list(items_of(keyed));
}

Value filter_dictsort(Interpreter& in, const Value& v, const CallArgs& args) {
  if (v.is_undefined()) raise_undefined(v);
  if (!v.is(Type::kDict)) raise_error("'{}' has no attribute 'items'", object_name(v));
  const std::string_view by = args[1].is(Type::kUnset) ? "key" : text_arg(args[1], "dictsort");
  if (by != "key" && by != "value") raise_error("You can only sort by either \"key\" or \"value\"");
  std::vector<Keyed> keyed;
  for (const DictEntry& e : v.dict->list()) {
    const Value pair = in.new_tuple({e.key, e.value});
    keyed.push_back(
        {sort_key(in, by == "key" ? e.key : e.value, none(), flag_arg(args[0], false)), pair});
  }
  sort_keyed(in, keyed, flag_arg(args[2], false));
  return in.new_list(items_of(keyed));
}

Value extreme(Interpreter& in, const Value& v, const CallArgs& args, Order wanted) {
  Value best;
  Value best_key;
  for (const Value& item : collect(in, v)) {
    const Value key = sort_key(in, item, args[1], flag_arg(args[0], false));
    if (best.is(Type::kUnset) ||
        compare(in, key, best_key, wanted == Order::kLess ? "<" : ">") == wanted) {
      best = item;
      best_key = key;
    }
  }
  return best.is(Type::kUnset) ? nothing(in, "No aggregated item, sequence was empty.") : best;
}

Value filter_min(Interpreter& in, const Value& v, const CallArgs& args) {
  return extreme(in, v, args, Order::kLess);
}
Value filter_max(Interpreter& in, const Value& v, const CallArgs& args) {
  return extreme(in, v, args, Order::kGreater);
}

Value filter_groupby(Interpreter& in, const Value& v, const CallArgs& args) {
  const auto key_of = [&](const Value& item, bool case_sensitive) {
    const Value key = sort_key(in, item, args[0], case_sensitive);
    return key.is_undefined() && !absent(args[1]) ? args[1] : key;
  };
  const bool case_sensitive = flag_arg(args[2], false);
  std::vector<Keyed> keyed;
  for (const Value& item : collect(in, v)) keyed.push_back({key_of(item, case_sensitive), item});
  sort_keyed(in, keyed, false);
  std::vector<Value> groups;
  for (size_t i = 0; i < keyed.size();) {
    std::vector<Value> members;
    const Value key = keyed[i].key;
    for (; i < keyed.size() && equals(in, keyed[i].key, key); ++i) members.push_back(keyed[i].item);
    if (members.empty()) members.push_back(keyed[i++].item);  // NaN equals nothing, itself included
    Value group = in.new_tuple({key_of(members.front(), true), in.new_list(members)});
    group.flags = Value::kGroup;
    groups.push_back(group);
  }
  return in.new_list(groups);
}

Value filter_reverse(Interpreter& in, const Value& v, const CallArgs&) {
  if (v.is_string()) return slice(in, v, {none(), none(), integer(-1)});
  std::vector<Value> items = collect(in, v);
  std::ranges::reverse(items);
  return object(iterate_span(in, in.arena().copy(items)));
}

Value filter_attr(Interpreter& in, const Value& v, const CallArgs& args) {
  const std::string_view name = text_of(in, args[0]);
  if (v.is(Type::kDict) && find_dict_method(name) == nullptr) {
    return in.undefined(Undefined::Cause::kAttribute, v, string(name));
  }
  return in.get_attribute(v, name);
}

// Values seen so far, by key; text in a hash set, all else compared one by one.
class Seen {
 public:
  explicit Seen(Interpreter& in) : in_(in) {}
  bool insert(const Value& key) {
    if (key.is_string()) return texts_.insert(key.text()).second;
    for (const Value& other : others_) {
      in_.charge(1);
      if (equals(in_, other, key)) return false;
    }
    others_.push_back(key);
    return true;
  }

 private:
  Interpreter& in_;
  std::unordered_set<std::string_view> texts_;
  std::vector<Value> others_;
};

// Items are drawn at the first use, as from Python's generator.
struct UniqueIterator final : Iterator {
  UniqueIterator(const Value& v, const CallArgs& a)
      : source(v), path(a[1]), case_sensitive(flag_arg(a[0], false)) {}
  bool next(Interpreter& in, Value& out) override {
    if (items == nullptr) {
      Seen seen(in);
      std::vector<Value> unique;
      for (const Value& item : collect(in, source)) {
        const Value key = sort_key(in, item, path, case_sensitive);
        if (key.is(Type::kList) || key.is(Type::kDict))
          raise_error("TypeError: unhashable type: '{}'", type_name(key));
        if (seen.insert(key)) unique.push_back(item);
      }
      items = iterate_span(in, in.arena().copy(unique));
    }
    return items->next(in, out);
  }
  Value source;
  Value path;
  bool case_sensitive;
  Iterator* items = nullptr;
};

Value filter_unique(Interpreter& in, const Value& v, const CallArgs& args) {
  return object(in.arena().make<UniqueIterator>(v, args));
}

constexpr Builtin kSequenceFilters[] = {
    {"default", "default_value= boolean=", filter_default},
    {"d", "default_value= boolean=", filter_default},
    {"length", "", filter_length},
    {"count", "", filter_length},
    {"list", "", filter_list},
    {"first", "", filter_first},
    {"last", "", filter_last},
    {"join", "d= attribute=", filter_join},
    {"sum", "attribute= start=", filter_sum},
    {"min", "case_sensitive= attribute=", filter_min},
    {"max", "case_sensitive= attribute=", filter_max},
    {"sort", "reverse= case_sensitive= attribute=", filter_sort},
    {"dictsort", "case_sensitive= by= reverse=", filter_dictsort},
    {"groupby", "attribute default= case_sensitive=", filter_groupby},
    {"unique", "case_sensitive= attribute=", filter_unique},
    {"reverse", "", filter_reverse},
    {"attr", "name", filter_attr},
};

}  // namespace

std::span<const Builtin> sequence_filters() { return kSequenceFilters; }

}  // namespace atom::jinja
