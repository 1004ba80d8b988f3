// The keywords of JSON Schema that the grammar library enforces, and those that it must not ignore.
// To allow a keyword: a row here. What is checked of a schema: grammar_check.cpp.
#pragma once

#include <array>
#include <string_view>
#include <utility>

namespace atom {

// Held by value (an initializer_list in a table may not outlive its line); the rest is "", which is
// no keyword.
using Names = std::array<std::string_view, 8>;

// The group of keywords that decides what the library reads of a schema: the first that is present.
struct Driver {
  std::string_view keyword;
  Names beside;  // keywords that are enforced together with it
};
inline constexpr std::array kDrivers = {
    Driver{"$ref", {}},  Driver{"const", {"type"}}, Driver{"enum", {"type"}},
    Driver{"anyOf", {}}, Driver{"oneOf", {}},       Driver{"allOf", {}},
};
// Without a driver, the keywords each type may have. A schema of several types may have those of
// all of them.
struct TypeKeywords {
  std::string_view type;
  Names keywords;
};
inline constexpr std::array kTypes = {
    TypeKeywords{"object",
                 {"properties", "required", "additionalProperties", "patternProperties",
                  "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties"}},
    TypeKeywords{"array", {"items", "prefixItems", "minItems", "maxItems", "unevaluatedItems"}},
    TypeKeywords{"string", {"minLength", "maxLength", "pattern", "format"}},
    TypeKeywords{"integer",
                 {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}},
    TypeKeywords{"number", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}},
    TypeKeywords{"boolean", {}},
    TypeKeywords{"null", {}},
};
// Keywords that restrict a value; all others are annotations, as the standard says.
inline constexpr std::array<std::string_view, 43> kRestricting = {"type",
                                                                  "enum",
                                                                  "const",
                                                                  "$ref",
                                                                  "$dynamicRef",
                                                                  "$recursiveRef",
                                                                  "anyOf",
                                                                  "oneOf",
                                                                  "allOf",
                                                                  "not",
                                                                  "if",
                                                                  "then",
                                                                  "else",
                                                                  "properties",
                                                                  "required",
                                                                  "additionalProperties",
                                                                  "patternProperties",
                                                                  "propertyNames",
                                                                  "minProperties",
                                                                  "maxProperties",
                                                                  "unevaluatedProperties",
                                                                  "dependentRequired",
                                                                  "dependentSchemas",
                                                                  "dependencies",
                                                                  "items",
                                                                  "prefixItems",
                                                                  "additionalItems",
                                                                  "contains",
                                                                  "minContains",
                                                                  "maxContains",
                                                                  "minItems",
                                                                  "maxItems",
                                                                  "uniqueItems",
                                                                  "unevaluatedItems",
                                                                  "minLength",
                                                                  "maxLength",
                                                                  "pattern",
                                                                  "format",
                                                                  "minimum",
                                                                  "maximum",
                                                                  "exclusiveMinimum",
                                                                  "exclusiveMaximum",
                                                                  "multipleOf"};
inline constexpr std::array<std::string_view, 6> kCounts = {
    "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"};
inline constexpr std::array<std::string_view, 6> kSchemas = {
    "items", "additionalProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties",
    "not"};
inline constexpr std::array<std::string_view, 4> kSchemaLists = {"anyOf", "oneOf", "allOf",
                                                                 "prefixItems"};
inline constexpr std::array<std::string_view, 4> kSchemaMaps = {"properties", "patternProperties",
                                                                "$defs", "definitions"};
// Where OpenAPI keeps schemas: "#/components/schemas/name".
inline constexpr std::pair<std::string_view, std::string_view> kComponents = {"components",
                                                                              "schemas"};

// Formats that the library enforces; a schema's other formats are annotations. Where `pattern` is
// not empty, it is enforced instead of the library's own, which lets in what is no JSON.
struct Format {
  std::string_view name;
  std::string_view pattern;
};
inline constexpr std::array<Format, 14> kFormats = {{
    {"date", ""},
    {"time", ""},
    {"date-time", ""},
    {"duration", ""},
    {"ipv4", ""},
    {"ipv6", ""},
    {"hostname", ""},
    {"uuid", ""},
    {"uri", ""},
    {"uri-reference", ""},
    {"uri-template", ""},
    {"email",
     R"(^[\w!#$%&'*+/=?^`{|}~-]+(\.[\w!#$%&'*+/=?^`{|}~-]+)*)"
     R"(@[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$)"},
    {"json-pointer", "^(/([^/~]|~[01])*)*$"},
    {"relative-json-pointer", "^(0|[1-9][0-9]*)(#|(/([^/~]|~[01])*)*)$"},
}};

// Does a reference ("#/$defs/name") lead to a place where a schema stands, and is checked?
bool leads_to_a_schema(std::string_view reference);

}  // namespace atom
