#include "atom/structured_output/schema_keywords.h"

#include <algorithm>

namespace atom {

bool leads_to_a_schema(std::string_view reference) {
  enum class Place { kSchema, kList, kMap, kComponents } place = Place::kSchema;
  if (!reference.starts_with('#')) return false;
  reference.remove_prefix(1);
  while (!reference.empty()) {
    reference.remove_prefix(1);
    const std::string_view key = reference.substr(0, reference.find('/'));
    reference.remove_prefix(key.size());
    if (key.empty()) continue;  // as the library does
    if (place == Place::kComponents) {
      if (key != kComponents.second) return false;
      place = Place::kMap;
    } else if (place != Place::kSchema) {
      place = Place::kSchema;
    } else if (key == kComponents.first) {
      place = Place::kComponents;
    } else if (std::ranges::find(kSchemaLists, key) != kSchemaLists.end()) {
      place = Place::kList;
    } else if (std::ranges::find(kSchemaMaps, key) != kSchemaMaps.end()) {
      place = Place::kMap;
    } else if (std::ranges::find(kSchemas, key) == kSchemas.end()) {
      return false;
    }
  }
  return place == Place::kSchema;
}

}  // namespace atom
