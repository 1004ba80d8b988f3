// owner.name and owner[index]: what the sandbox lets a template see of a value.
#include <algorithm>

#include "atom/chat_template/interpreter.h"
#include "atom/chat_template/operators.h"

namespace atom::jinja {
namespace {

struct LoopAttribute {
  std::string_view name;
  Value (*get)(Interpreter& in, Loop& loop);
};

Value call_cycle(Interpreter& in, const Value& self, const CallArgs& args) {
  if (args.positional.empty()) raise_error("TypeError: no items for cycling given");
  in.charge(1);
  return args.positional[static_cast<size_t>(as<Loop>(self).index0) % args.positional.size()];
}

Value call_changed(Interpreter& in, const Value& self, const CallArgs& args) {
  Loop& loop = as<Loop>(self);
  const Value now = tuple(args.positional);
  const bool changed = loop.changed.is(Type::kUnset) || !equals(in, loop.changed, now);
  loop.changed = now;
  return boolean(changed);
}

Value call_cycler_next(Interpreter&, const Value& self, const CallArgs&) {
  auto& cycler = as<Cycler>(self);
  const Value item = cycler.items[cycler.position];
  cycler.position = (cycler.position + 1) % cycler.items.size();
  return item;
}

Value call_cycler_reset(Interpreter&, const Value& self, const CallArgs&) {
  as<Cycler>(self).position = 0;
  return none();
}

constexpr Builtin kCycle{"cycle", "*", call_cycle};
constexpr Builtin kChanged{"changed", "*", call_changed};
constexpr Builtin kCyclerNext{"next", "", call_cycler_next};
constexpr Builtin kCyclerReset{"reset", "", call_cycler_reset};

Value method(Interpreter& in, const Builtin& builtin, const Value& self) {
  return object(in.arena().make<Method>(Object{ObjectKind::kMethod}, &builtin, self));
}

Value neighbour(Interpreter& in, bool exists, const Value& v, std::string_view name) {
  return exists ? v : in.undefined(Undefined::Cause::kMessage, {}, string(name));
}

constexpr LoopAttribute kLoopAttributes[] = {
    {"index", [](Interpreter&, Loop& l) { return integer(l.index0 + 1); }},
    {"index0", [](Interpreter&, Loop& l) { return integer(l.index0); }},
    {"first", [](Interpreter&, Loop& l) { return boolean(l.index0 == 0); }},
    {"last", [](Interpreter& in, Loop& l) { return boolean(!in.loop_peek(l)); }},
    {"length", [](Interpreter& in, Loop& l) { return integer(in.loop_length(l)); }},
    {"revindex", [](Interpreter& in, Loop& l) { return integer(in.loop_length(l) - l.index0); }},
    {"revindex0",
     [](Interpreter& in, Loop& l) { return integer(in.loop_length(l) - l.index0 - 1); }},
    {"depth", [](Interpreter&, Loop& l) { return integer(l.depth0 + 1); }},
    {"depth0", [](Interpreter&, Loop& l) { return integer(l.depth0); }},
    {"previtem",
     [](Interpreter& in, Loop& l) {
       return neighbour(in, l.index0 > 0, l.previous, "there is no previous item");
     }},
    {"nextitem",
     [](Interpreter& in, Loop& l) {
       return neighbour(in, in.loop_peek(l), l.peeked, "there is no next item");
     }},
    {"cycle", [](Interpreter& in, Loop& l) { return method(in, kCycle, object(&l)); }},
    {"changed", [](Interpreter& in, Loop& l) { return method(in, kChanged, object(&l)); }},
};

// kUnset when the object has no such attribute.
Value object_attribute(Interpreter& in, const Value& owner, std::string_view name) {
  switch (owner.object->kind) {
    case ObjectKind::kNamespace: {
      const Scope& attributes = *as<Namespace>(owner).attributes;
      const Value* const v = in.find_slot(attributes, in.symbol_of(name));
      return v != nullptr ? *v : unset();
    }
    case ObjectKind::kLoop: {
      const auto* const row = std::ranges::find(kLoopAttributes, name, &LoopAttribute::name);
      return row != std::end(kLoopAttributes) ? row->get(in, as<Loop>(owner)) : unset();
    }
    case ObjectKind::kMacro:
      return name == "name" ? string(as<Macro>(owner).stmt->name) : unset();
    case ObjectKind::kCycler:
      if (name == "next") return method(in, kCyclerNext, owner);
      if (name == "reset") return method(in, kCyclerReset, owner);
      if (name == "current") return as<Cycler>(owner).items[as<Cycler>(owner).position];
      return unset();
    default:
      return unset();
  }
}

Value missing(Interpreter& in, const Value& owner, std::string_view name) {
  const bool dunder = name.starts_with("__") && name.ends_with("__");
  return in.undefined(dunder ? Undefined::Cause::kUnsafe : Undefined::Cause::kAttribute, owner,
                      string(name));
}

const Value* dict_item(Interpreter& in, const Value& owner, std::string_view name) {
  return owner.is(Type::kDict) ? owner.dict->find(in.arena(), name) : nullptr;
}

}  // namespace

// As Jinja: the Python attribute first (methods), then the item of that name.
Value Interpreter::attribute(const Value& owner, SymbolId symbol) {
  const Symbol& s = program_.symbols[symbol];
  const Builtin* row = nullptr;
  switch (owner.type) {
    case Type::kUndefined:
      raise_undefined(owner);
    case Type::kString:
      row = s.string_method;
      break;
    case Type::kDict:
      row = s.dict_method;
      break;
    case Type::kList:
    case Type::kTuple:
      row = s.list_method;
      break;
    default:
      break;
  }
  if (row == nullptr && owner.is(Type::kDict)) {
    if (const Value* const v = dict_item(*this, owner, s.text)) return *v;
    return missing(*this, owner, s.text);
  }
  if (row == nullptr) return get_attribute(owner, s.text);
  if (row->function == nullptr) return undefined(Undefined::Cause::kUnsafe, owner, string(s.text));
  return method(*this, *row, owner);
}

Value Interpreter::get_attribute(const Value& owner, std::string_view name) {
  const Builtin* row = nullptr;
  switch (owner.type) {
    case Type::kUndefined:
      raise_undefined(owner);
    case Type::kString:
      row = find_string_method(name);
      break;
    case Type::kDict:
      row = find_dict_method(name);
      break;
    case Type::kTuple:
      if ((owner.flags & Value::kGroup) != 0 && name == "grouper") return owner.items[0];
      if ((owner.flags & Value::kGroup) != 0 && name == "list") return owner.items[1];
      [[fallthrough]];
    case Type::kList:
      row = find_list_method(name);
      break;
    case Type::kObject:
      if (const Value v = object_attribute(*this, owner, name); !v.is(Type::kUnset)) return v;
      break;
    default:
      break;
  }
  if (row != nullptr) {
    if (row->function == nullptr) return undefined(Undefined::Cause::kUnsafe, owner, string(name));
    return method(*this, *row, owner);
  }
  if (const Value* const v = dict_item(*this, owner, name)) return *v;
  return missing(*this, owner, name);
}

// As Jinja: the item first, then, for a name, the attribute.
Value Interpreter::get_item(const Value& owner, const Value& index) {
  if (owner.is_undefined()) raise_undefined(owner);
  if (owner.is(Type::kDict)) {
    const bool hashable = !index.is(Type::kList) && !index.is(Type::kDict);
    charge(owner.dict->size / 64);
    const Value* const v = hashable ? owner.dict->find(arena_, index) : nullptr;
    if (v != nullptr) return *v;
  } else if (index.is_integral()) {
    const bool is_range = is_object(owner, ObjectKind::kRange);
    if (owner.is_string() || owner.is_sequence() || is_range) {
      const int64_t count = jinja::length(*this, owner);
      int64_t i = index_value(index);
      if (i < 0) i += count;
      if (i >= 0 && i < count) {
        if (is_range) return integer(as<Range>(owner).at(i));
        if (owner.is_sequence()) return owner.items[i];
        return slice(*this, owner, {integer(i), integer(i + 1), none()});
      }
    }
  }
  if (index.is_string()) return get_attribute(owner, index.text());
  return undefined(Undefined::Cause::kAttribute, owner, index);
}

}  // namespace atom::jinja
