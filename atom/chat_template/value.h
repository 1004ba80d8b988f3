// Value: what a template computes with. It behaves as the Python object of the same name, is 16
// bytes, trivially copyable, and points into the render's Arena (or into the request's JSON, which
// outlives it). Lists, tuples and dicts never change once built, as the immutable sandbox demands.
// To add a kind of object, derive from Object and give it a row in attribute lookup
// (attributes.cpp) and, if callable, in call.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "atom/chat_template/arena.h"

namespace atom::jinja {

enum class Type : uint8_t {
  kUnset,  // no value: an argument that was not given
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kObject,
};

struct Value;
struct Dict;
struct Object;
struct Undefined;

struct Value {
  static constexpr uint8_t kMarkup = 1;    // strings: text that is already HTML-escaped
  static constexpr uint8_t kUnsigned = 2;  // ints: the payload is a uint64 above INT64_MAX
  static constexpr uint8_t kGroup = 4;     // tuples: groupby's (grouper, list)

  Type type = Type::kUnset;
  uint8_t flags = 0;
  uint32_t size = 0;  // bytes of a string, items of a list or tuple
  union {
    int64_t integer = 0;
    bool boolean;
    double real;
    const char* chars;
    const Value* items;
    const Dict* dict;
    Object* object;
    const Undefined* undefined;
  };

  bool is(Type t) const { return type == t; }
  bool is_undefined() const { return type == Type::kUndefined; }
  bool is_none() const { return type == Type::kNone; }
  bool is_string() const { return type == Type::kString; }
  bool is_sequence() const { return type == Type::kList || type == Type::kTuple; }
  bool is_integral() const { return type == Type::kInt || type == Type::kBool; }
  bool is_number() const { return is_integral() || type == Type::kFloat; }
  bool is_markup() const { return type == Type::kString && (flags & kMarkup) != 0; }
  std::string_view text() const { return {chars, size}; }
  std::span<const Value> list() const { return {items, size}; }
};
static_assert(sizeof(Value) == 16);

inline Value of_type(Type type) {
  Value v;
  v.type = type;
  return v;
}
inline Value unset() { return {}; }
inline Value none() { return of_type(Type::kNone); }
inline Value boolean(bool b) {
  Value v = of_type(Type::kBool);
  v.boolean = b;
  return v;
}
inline Value integer(int64_t i) {
  Value v = of_type(Type::kInt);
  v.integer = i;
  return v;
}
inline Value real(double d) {
  Value v = of_type(Type::kFloat);
  v.real = d;
  return v;
}
Value string(std::string_view text);  // not copied: the text must outlive the value
Value list(std::span<const Value> items);
Value tuple(std::span<const Value> items);
Value dict(const Dict* entries);
Value object(Object* object);

// Exact integers of any kind, for arithmetic whose result is then checked to fit.
using Int128 = __int128;
Int128 wide(const Value& v);       // kInt or kBool
Value narrow(Int128 i);            // raises when beyond 64 bits
double as_double(const Value& v);  // kInt, kBool, kFloat

struct DictEntry {
  Value key;
  Value value;
};

// Insertion-ordered map. Small ones are searched in order, larger ones through an index sorted by
// key.
struct Dict {
  DictEntry* entries = nullptr;
  uint32_t size = 0;
  uint32_t capacity = 0;
  mutable uint32_t* sorted =
      nullptr;  // string keys only; made by the first look-up in a large dict
  mutable uint32_t sorted_count = 0;
  mutable bool indexed = false;

  std::span<const DictEntry> list() const { return {entries, size}; }
  const Value* find(Arena& arena, std::string_view key) const;
  const Value* find(Arena& arena, const Value& key) const;

 private:
  void build_index(Arena& arena) const;
};

// While a dict is being built: keys keep their first position, the last value wins.
class DictBuilder {
 public:
  DictBuilder(Arena& arena, size_t expected);
  void add(const Value& key, const Value& value);  // the key must be new
  void set(const Value& key, const Value& value);  // raises for an unhashable key
  Dict* finish() { return dict_; }

 private:
  Arena& arena_;
  Dict* dict_;
};

enum class ObjectKind : uint8_t {
  kRange,
  kDictView,
  kIterator,  // a generator: consumed once
  kNamespace,
  kMacro,
  kMethod,
  kFunction,
  kLoop,
  kCycler,
  kJoiner,
};

struct Object {
  ObjectKind kind;
};

// An undefined value knows what was looked up, so that using it can say so.
struct Undefined {
  enum class Cause : uint8_t { kName, kAttribute, kUnsafe, kMessage };
  Cause cause = Cause::kName;
  Value owner;  // kAttribute, kUnsafe
  Value name;   // a string, or the index; the whole text for kMessage
};

std::string describe(const Undefined& undefined);  // "'x' is undefined"
[[noreturn]] void raise_undefined(const Value& v);
std::string_view type_name(const Value& v);  // Python's: "str", "NoneType"
std::string object_name(const Value& v);     // Jinja's: "str object", "None"

// A bound on recursion in the C++ code that walks nested values.
class DepthGuard {
 public:
  static constexpr int kMaxNesting = 500;
  explicit DepthGuard(int& depth) : depth_(depth) {
    if (++depth_ > kMaxNesting) {
      --depth_;
      raise_limit("nesting deeper than {}", kMaxNesting);
    }
  }
  ~DepthGuard() { --depth_; }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  int& depth_;
};

}  // namespace atom::jinja
