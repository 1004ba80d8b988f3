#include "atom/structured_output/exclusive_schemas.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace atom {
namespace {

namespace json = boost::json;

constexpr int64_t kMaxComparisons = 100000;
constexpr int kMaxNesting = 8;

enum Type : uint8_t {
  kObject = 1,
  kArray = 2,
  kString = 4,
  kNumber = 8,
  kBoolean = 16,
  kNull = 32
};
constexpr unsigned kAnyType = 63;

unsigned type_named(std::string_view name) {
  if (name == "object") return kObject;
  if (name == "array") return kArray;
  if (name == "string") return kString;
  if (name == "integer" || name == "number") return kNumber;
  if (name == "boolean") return kBoolean;
  if (name == "null") return kNull;
  return kAnyType;
}

unsigned types_of(const json::object& schema) {
  const json::value* const type = schema.if_contains("type");
  if (type == nullptr) return kAnyType;
  if (type->is_string()) return type_named(type->get_string());
  unsigned types = 0;
  if (type->is_array()) {
    for (const json::value& name : type->get_array())
      types |= name.is_string() ? type_named(name.get_string()) : kAnyType;
  }
  return types == 0 ? kAnyType : types;
}

unsigned type_of(const json::value& value) {
  if (value.is_object()) return kObject;
  if (value.is_array()) return kArray;
  if (value.is_string()) return kString;
  if (value.is_bool()) return kBoolean;
  if (value.is_null()) return kNull;
  return kNumber;
}

bool same_value(const json::value& a, const json::value& b) {
  if (a.is_number() && b.is_number()) return a.to_number<double>() == b.to_number<double>();
  // Numbers within: whether 1 and 1.0 are meant is not looked at, so they may be the same.
  return type_of(a) == type_of(b) && (a.is_structured() || a == b);
}

const json::value* follow(const json::value* schema, const json::value& root) {
  for (int hops = 0; hops < kMaxNesting && schema != nullptr && schema->is_object(); ++hops) {
    const json::value* const ref = schema->get_object().if_contains("$ref");
    if (ref == nullptr) return schema;
    if (!ref->is_string() || !ref->get_string().starts_with('#')) return nullptr;
    boost::system::error_code error;
    schema = root.find_pointer(ref->get_string().subview(1), error);
  }
  return nullptr;
}

class Proof {
 public:
  explicit Proof(const json::value& root) : root_(root) {}

  bool exclusive(const json::value& a, const json::value& b, int nesting) {
    if (++comparisons_ > kMaxComparisons || nesting > kMaxNesting) return false;
    const json::value* const left = follow(&a, root_);
    const json::value* const right = follow(&b, root_);
    if (left == nullptr || right == nullptr || !left->is_object() || !right->is_object())
      return false;
    const json::object& one = left->get_object();
    const json::object& other = right->get_object();
    for (const char* const union_of : {"anyOf", "oneOf"}) {
      if (one.contains(union_of)) return all_exclusive(one.at(union_of), *right, nesting + 1);
      if (other.contains(union_of)) return all_exclusive(other.at(union_of), *left, nesting + 1);
    }
    const std::vector<const json::value*> some = values_of(one);
    const std::vector<const json::value*> others = values_of(other);
    if (!some.empty() && !others.empty()) return no_value_in_common(some, others);
    if (!some.empty()) return no_value_of_types(some, types_of(other));
    if (!others.empty()) return no_value_of_types(others, types_of(one));
    const unsigned shared = types_of(one) & types_of(other);
    return shared == 0 || (shared == kObject && objects_differ(one, other, nesting));
  }

 private:
  bool all_exclusive(const json::value& branches, const json::value& other, int nesting) {
    return branches.is_array() &&
           std::ranges::all_of(branches.get_array(), [&](const auto& branch) {
             return exclusive(branch, other, nesting);
           });
  }

  static std::vector<const json::value*> values_of(const json::object& schema) {
    std::vector<const json::value*> out;
    if (const json::value* const value = schema.if_contains("const")) {
      out.push_back(value);
    } else if (const json::value* const values = schema.if_contains("enum");
               values != nullptr && values->is_array()) {
      for (const json::value& value : values->get_array()) out.push_back(&value);
    }
    return out;
  }

  bool no_value_in_common(const std::vector<const json::value*>& some,
                          const std::vector<const json::value*>& others) {
    comparisons_ += static_cast<int64_t>(some.size() * others.size());
    if (comparisons_ > kMaxComparisons) return false;
    return std::ranges::none_of(some, [&](const json::value* a) {
      return std::ranges::any_of(others, [&](const json::value* b) { return same_value(*a, *b); });
    });
  }

  static bool no_value_of_types(const std::vector<const json::value*>& values, unsigned types) {
    return std::ranges::none_of(values,
                                [&](const json::value* v) { return (type_of(*v) & types) != 0; });
  }

  // A property that both require, with values of which none fits both.
  bool objects_differ(const json::object& one, const json::object& other, int nesting) {
    const json::value* const required = one.if_contains("required");
    const json::value* const also_required = other.if_contains("required");
    const json::value* const some = one.if_contains("properties");
    const json::value* const others = other.if_contains("properties");
    if (required == nullptr || !required->is_array() || also_required == nullptr ||
        !also_required->is_array() || some == nullptr || !some->is_object() || others == nullptr ||
        !others->is_object()) {
      return false;
    }
    return std::ranges::any_of(required->get_array(), [&](const json::value& name) {
      if (!name.is_string() || ++comparisons_ > kMaxComparisons) return false;
      const json::value* const a = some->get_object().if_contains(name.get_string());
      const json::value* const b = others->get_object().if_contains(name.get_string());
      if (a == nullptr || b == nullptr || !exclusive(*a, *b, nesting + 1)) return false;
      comparisons_ += static_cast<int64_t>(also_required->get_array().size());
      return std::ranges::find(also_required->get_array(), name) !=
             also_required->get_array().end();
    });
  }

  const json::value& root_;
  int64_t comparisons_ = 0;
};

bool require(json::value& schema, const json::string& name) {
  json::object* const object = schema.if_object();
  const json::value* const properties =
      object != nullptr ? object->if_contains("properties") : nullptr;
  if (properties == nullptr || !properties->is_object() || !properties->get_object().contains(name))
    return false;
  json::value& required = (*object)["required"];
  if (required.is_null()) required = json::array();
  if (!required.is_array() ||
      std::ranges::find(required.get_array(), json::value(name)) != required.get_array().end()) {
    return false;
  }
  required.get_array().emplace_back(name);
  return true;
}

using Tagged = std::vector<std::pair<json::string, json::string>>;  // reference, property

bool require_in(json::value& value, Tagged& tagged) {
  bool changed = false;
  if (json::array* const items = value.if_array()) {
    for (json::value& item : *items) changed |= require_in(item, tagged);
  }
  json::object* const object = value.if_object();
  if (object == nullptr) return changed;
  for (auto& [key, inner] : *object) changed |= require_in(inner, tagged);
  const json::value* const discriminator = object->if_contains("discriminator");
  json::value* const branches = object->if_contains("oneOf");
  const json::value* const name = discriminator != nullptr && discriminator->is_object()
                                      ? discriminator->get_object().if_contains("propertyName")
                                      : nullptr;
  if (name == nullptr || !name->is_string() || branches == nullptr || !branches->is_array())
    return changed;
  for (json::value& branch : branches->get_array()) {
    const json::value* const ref =
        branch.is_object() ? branch.get_object().if_contains("$ref") : nullptr;
    if (ref != nullptr && ref->is_string() && ref->get_string().starts_with('#'))
      tagged.emplace_back(ref->get_string().subview(1), name->get_string());
    else
      changed |= require(branch, name->get_string());
  }
  return changed;
}

}  // namespace

bool are_exclusive(const json::array& branches, const json::value& root) {
  Proof proof(root);
  for (size_t i = 0; i < branches.size(); ++i) {
    for (size_t j = i + 1; j < branches.size(); ++j) {
      if (!proof.exclusive(branches[i], branches[j], 0)) return false;
    }
  }
  return true;
}

bool require_discriminators(json::value& root) {
  Tagged tagged;
  bool changed = require_in(root, tagged);
  for (const auto& [pointer, name] : tagged) {
    boost::system::error_code error;
    json::value* const target = root.find_pointer(pointer, error);
    if (target != nullptr) changed |= require(*target, name);
  }
  return changed;
}

}  // namespace atom
