// The grammars that hold a model to its own form of tool calls, as structural tags: what
// tool_choice "required" or a named function demand, and "auto" with strict tools. Their texts are
// read back by the parser of the same format. To add a family: its CallForm in parser_table.cpp.
#pragma once

#include <boost/json/fwd.hpp>
#include <string_view>
#include <vector>

#include "atom/entrypoints/parsers/parser_table.h"
#include "atom/structured_output/grammar_spec.h"

namespace atom::parsers {

struct ToolGrammarRequest {
  const boost::json::array* tools = nullptr;  // checked; not empty
  std::string_view named;                     // the one that must be called; empty: any
  bool required = true;                       // else text, and calls of strict tools in their form
  bool parallel = true;                       // several calls
  bool loose = false;                         // only strict tools keep to their schemas
  const GrammarSpec* answer = nullptr;        // what a text must be if it is not calls; may be null
};

// Some tool has "strict": true.
bool has_strict_tool(const boost::json::array& tools);

GrammarSpec tool_grammar(const CallForm& form, const ToolGrammarRequest& request,
                         const ReasoningFormat* reasoning, ReasoningStart start);

// The same grammar for what follows the reasoning, if there can be any. nullptr: none.
GrammarSpec after_reasoning(GrammarSpec spec, const ReasoningFormat* reasoning,
                            ReasoningStart start);

}  // namespace atom::parsers
