// The objects that a Value of Type::kObject can point to.
#pragma once

#include "atom/chat_template/ast.h"
#include "atom/chat_template/builtins.h"
#include "atom/chat_template/value.h"

namespace atom::jinja {

class Interpreter;

// Variables of one block. Look-up goes outwards through the parents, then to the template's
// context.
struct Scope {
  struct Slot {
    SymbolId symbol = 0;
    Value value;
  };
  Scope* parent = nullptr;
  Slot* slots = nullptr;
  uint32_t count = 0;
  uint32_t capacity = 0;
};

struct Range : Object {
  int64_t start;
  int64_t step;
  int64_t count;
  int64_t at(int64_t i) const { return start + i * step; }
};

struct DictView : Object {
  enum class Part : uint8_t { kKeys, kValues, kItems };
  const Dict* dict;
  Part part;
};

// Yields values one at a time and only once, as a Python generator. Lives in the arena, is never
// destroyed.
struct Iterator : Object {
  Iterator() : Object{ObjectKind::kIterator} {}
  virtual bool next(Interpreter& interpreter, Value& out) = 0;

 protected:
  ~Iterator() = default;
};

struct Namespace : Object {
  Scope* attributes;  // a scope without parent
};

struct Macro : Object {
  const MacroStmt* stmt;
  Scope* scope;  // where it was defined
};

struct Method : Object {
  const Builtin* builtin;
  Value self;
};

struct Function : Object {
  const Builtin* builtin;
};

struct Loop : Object {
  Iterator* source = nullptr;
  const ForStmt* stmt = nullptr;
  Scope* scope = nullptr;  // around the for
  int64_t index0 = -1;
  int64_t length = -1;  // -1: not known yet
  int depth0 = 0;
  bool has_peeked = false;
  Value peeked;
  Value previous;
  Value current;
  Value changed;  // arguments of the last loop.changed()
};

struct Cycler : Object {
  std::span<const Value> items;
  size_t position;
};

struct Joiner : Object {
  Value separator;
  bool used;
};

template <class T>
T& as(const Value& v) {
  return *static_cast<T*>(v.object);
}

inline bool is_object(const Value& v, ObjectKind kind) {
  return v.is(Type::kObject) && v.object->kind == kind;
}

}  // namespace atom::jinja
