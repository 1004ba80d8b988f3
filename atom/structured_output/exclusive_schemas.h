// Whether the branches of a schema's oneOf exclude each other, so that oneOf says what anyOf says.
// Proved by types, by const and enum, and by a required property that tells objects apart (tagged
// unions), through references. What cannot be proved so counts as overlapping. Values are not
// compared with patterns or ranges. Knows nothing of grammars.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/value.hpp>

namespace atom {

// `root`: the schema that references start from. Bounded work whatever the schema.
bool are_exclusive(const boost::json::array& branches, const boost::json::value& root);

// OpenAPI's `discriminator`, as pydantic writes it, names a property that every branch must have,
// also where the branch has a default for it and does not list it as required: makes it required.
// True if it changed anything.
bool require_discriminators(boost::json::value& root);

}  // namespace atom
