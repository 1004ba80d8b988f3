#include "atom/chat_template/value.h"

#include <algorithm>
#include <limits>

namespace atom::jinja {
namespace {

constexpr uint32_t kIndexAbove = 12;  // entries from which a dict gets an index

bool same_key(const Value& a, const Value& b) {
  if (a.is_string() || b.is_string()) return a.is_string() && b.is_string() && a.text() == b.text();
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return wide(a) == wide(b);
    return as_double(a) == as_double(b);
  }
  if (a.type != b.type) return false;
  if (a.is(Type::kTuple)) {
    return std::ranges::equal(a.list(), b.list(), same_key);
  }
  return a.is_none() || a.object == b.object;
}

bool is_hashable(const Value& v) {
  if (v.is(Type::kTuple)) return std::ranges::all_of(v.list(), is_hashable);
  return !v.is(Type::kList) && !v.is(Type::kDict);
}

uint32_t checked_size(size_t size) {
  if (size > std::numeric_limits<uint32_t>::max()) raise_limit("memory limit exceeded");
  return static_cast<uint32_t>(size);
}

}  // namespace

Value string(std::string_view text) {
  Value v = of_type(Type::kString);
  v.size = checked_size(text.size());
  v.chars = text.data();
  return v;
}

Value list(std::span<const Value> items) {
  Value v = of_type(Type::kList);
  v.size = checked_size(items.size());
  v.items = items.data();
  return v;
}

Value tuple(std::span<const Value> items) {
  Value v = list(items);
  v.type = Type::kTuple;
  return v;
}

Value dict(const Dict* entries) {
  Value v = of_type(Type::kDict);
  v.dict = entries;
  return v;
}

Value object(Object* object) {
  Value v = of_type(Type::kObject);
  v.object = object;
  return v;
}

Int128 wide(const Value& v) {
  if ((v.flags & Value::kUnsigned) != 0)
    return static_cast<Int128>(static_cast<uint64_t>(v.integer));
  return v.is(Type::kBool) ? Int128{v.boolean} : Int128{v.integer};
}

Value narrow(Int128 i) {
  if (i > std::numeric_limits<uint64_t>::max() || i < std::numeric_limits<int64_t>::min()) {
    raise_error("OverflowError: integer result does not fit 64 bits");
  }
  Value v = integer(static_cast<int64_t>(i));
  if (i > std::numeric_limits<int64_t>::max()) v.flags = Value::kUnsigned;
  return v;
}

double as_double(const Value& v) {
  return v.is(Type::kFloat) ? v.real : static_cast<double>(wide(v));
}

void Dict::build_index(Arena& arena) const {
  indexed = true;
  sorted = arena.array<uint32_t>(size);
  for (uint32_t i = 0; i < size; ++i) {
    if (entries[i].key.is_string()) sorted[sorted_count++] = i;
  }
  std::sort(sorted, sorted + sorted_count, [this](uint32_t a, uint32_t b) {
    return entries[a].key.text() < entries[b].key.text();
  });
}

const Value* Dict::find(Arena& arena, std::string_view key) const {
  if (size <= kIndexAbove) {
    for (const DictEntry& e : list()) {
      if (e.key.is_string() && e.key.text() == key) return &e.value;
    }
    return nullptr;
  }
  if (!indexed) build_index(arena);
  const uint32_t* const begin = sorted;
  const uint32_t* const end = sorted + sorted_count;
  const uint32_t* const at = std::lower_bound(
      begin, end, key,
      [this](uint32_t i, std::string_view k) { return entries[i].key.text() < k; });
  return at != end && entries[*at].key.text() == key ? &entries[*at].value : nullptr;
}

const Value* Dict::find(Arena& arena, const Value& key) const {
  if (key.is_string()) return find(arena, key.text());
  if (!is_hashable(key)) raise_error("TypeError: unhashable type: '{}'", type_name(key));
  for (const DictEntry& e : list()) {
    if (same_key(e.key, key)) return &e.value;
  }
  return nullptr;
}

DictBuilder::DictBuilder(Arena& arena, size_t expected) : arena_(arena), dict_(arena.make<Dict>()) {
  dict_->entries = arena.array<DictEntry>(expected);
  dict_->capacity = static_cast<uint32_t>(expected);
}

void DictBuilder::add(const Value& key, const Value& value) {
  if (dict_->size == dict_->capacity) {
    const uint32_t capacity = std::max<uint32_t>(4, dict_->capacity * 2);
    auto* const grown = arena_.array<DictEntry>(capacity);
    std::copy_n(dict_->entries, dict_->size, grown);
    dict_->entries = grown;
    dict_->capacity = capacity;
  }
  dict_->entries[dict_->size++] = {key, value};
}

void DictBuilder::set(const Value& key, const Value& value) {
  if (!is_hashable(key)) raise_error("TypeError: unhashable type: '{}'", type_name(key));
  for (DictEntry& e : std::span(dict_->entries, dict_->size)) {
    if (same_key(e.key, key)) {
      e.value = value;
      return;
    }
  }
  add(key, value);
}

std::string_view type_name(const Value& v) {
  switch (v.type) {
    case Type::kUnset:
    case Type::kUndefined:
      return "Undefined";
    case Type::kNone:
      return "NoneType";
    case Type::kBool:
      return "bool";
    case Type::kInt:
      return "int";
    case Type::kFloat:
      return "float";
    case Type::kString:
      return v.is_markup() ? "Markup" : "str";
    case Type::kList:
      return "list";
    case Type::kTuple:
      return "tuple";
    case Type::kDict:
      return "dict";
    case Type::kObject:
      break;
  }
  switch (v.object->kind) {
    case ObjectKind::kRange:
      return "range";
    case ObjectKind::kDictView:
      return "dict_view";
    case ObjectKind::kIterator:
      return "generator";
    case ObjectKind::kNamespace:
      return "Namespace";
    case ObjectKind::kMacro:
      return "Macro";
    case ObjectKind::kMethod:
      return "builtin_function_or_method";
    case ObjectKind::kFunction:
      return "function";
    case ObjectKind::kLoop:
      return "LoopContext";
    case ObjectKind::kCycler:
      return "Cycler";
    case ObjectKind::kJoiner:
      return "Joiner";
  }
  return "object";
}

std::string object_name(const Value& v) {
  if (v.is_none()) return "None";
  return std::string(type_name(v)) + " object";
}

std::string describe(const Undefined& u) {
  switch (u.cause) {
    case Undefined::Cause::kName:
      return str_format("'{}' is undefined", u.name.text());
    case Undefined::Cause::kMessage:
      return std::string(u.name.text());
    case Undefined::Cause::kUnsafe:
      return str_format("access to attribute '{}' of '{}' object is unsafe.", u.name.text(),
                        type_name(u.owner));
    case Undefined::Cause::kAttribute:
      break;
  }
  if (u.name.is_string())
    return str_format("'{}' has no attribute '{}'", object_name(u.owner), u.name.text());
  if (u.name.is(Type::kInt))
    return str_format("{} has no element {}", object_name(u.owner), u.name.integer);
  return str_format("{} has no such element", object_name(u.owner));
}

void raise_undefined(const Value& v) { raise_error("{}", describe(*v.undefined)); }

}  // namespace atom::jinja
