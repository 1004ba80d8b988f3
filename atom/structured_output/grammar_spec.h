// GrammarSpec: the form that a request demands of its text, as plain data. Not compiled, not
// checked: GrammarCompiler does that (LLMEngine::add_request on the caller's thread). To add a
// kind: a value here, a row in the compiler's table, the request field that asks for it.
#pragma once

#include <cstdint>
#include <string>

namespace atom {

struct GrammarSpec {
  enum class Kind : uint8_t {
    kJsonObject,     // any JSON object; text is empty
    kJsonSchema,     // text: the JSON schema
    kRegex,          // text: an ECMAScript-like regular expression the whole output must match
    kChoice,         // text: a JSON array of strings, one of which is the whole output
    kGrammar,        // text: a grammar in GBNF-like EBNF with the rule `root`
    kStructuralTag,  // text: a structural tag as JSON
  };
  Kind kind = Kind::kJsonObject;
  std::string text;
  // A schema with a keyword that cannot be enforced is refused; when false, the keyword is left out
  // (for schemas of tools, which are written for people and models too).
  bool exact = true;
  bool any_whitespace = true;  // of JSON: false gives the compact form `{"a": 1}` only
  std::string param;  // the request field it came from, for messages; not part of its meaning

  bool operator==(const GrammarSpec& other) const {
    return kind == other.kind && text == other.text && exact == other.exact &&
           any_whitespace == other.any_whitespace;
  }
};

}  // namespace atom
