// JSON as Python's json.dumps writes it, for files and lines that people and their scripts read:
// "key": value, numbers without exponents where they are of an ordinary size. Boost's own text
// has 7.7E1, which grep and awk misread. Text stays UTF-8. The API's answers have a writer of their
// own (entrypoints/openai/json_writer).
#pragma once

#include <boost/json/fwd.hpp>
#include <string>

namespace atom {

std::string json_text(const boost::json::value& value);

// The shortest digits that give this number back: 77.0, 0.0001, 1e-05, 1e+16. Not finite: null.
void append_json_number(std::string& out, double value);

}  // namespace atom
