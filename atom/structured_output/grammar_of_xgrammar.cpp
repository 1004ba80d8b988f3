#include "atom/structured_output/xgrammar_logging.h"
// The library's own header, for which the above stands in as its logging.
#include <grammar_impl.h>

#include <optional>
#include <stdexcept>
#include <variant>

#include "atom/core/check.h"
#include "atom/structured_output/grammar_of_xgrammar.h"

namespace atom {
namespace {

constexpr int kMaxWhitespace = 64;  // between two JSON tokens; endless runs end a request

xgrammar::Grammar read_form(const GrammarSpec& spec, const CheckedGrammar& form,
                            const xgrammar::TokenizerInfo& vocabulary) {
  switch (spec.kind) {
    case GrammarSpec::Kind::kJsonObject:
    case GrammarSpec::Kind::kJsonSchema:
      return xgrammar::Grammar::FromJSONSchema(
          form.text, spec.any_whitespace, std::nullopt, std::nullopt,
          /*strict_mode=*/true, spec.any_whitespace ? std::optional(kMaxWhitespace) : std::nullopt);
    case GrammarSpec::Kind::kRegex:
      return xgrammar::Grammar::FromRegex(form.text);
    case GrammarSpec::Kind::kChoice:
    case GrammarSpec::Kind::kGrammar:
      return xgrammar::Grammar::FromEBNF(form.text, "root");
    case GrammarSpec::Kind::kStructuralTag: {
      auto grammar = xgrammar::Grammar::FromStructuralTag(form.text, vocabulary);
      if (auto* const good = std::get_if<xgrammar::Grammar>(&grammar)) return *good;
      throw std::invalid_argument(std::visit([](const auto& error) { return error.what(); },
                                             std::get<xgrammar::StructuralTagError>(grammar)));
    }
  }
  throw std::invalid_argument("unknown kind of grammar");
}

// `patterns`: placeholder to pattern, of one size.
void place_patterns(xgrammar::Grammar& grammar,
                    const std::map<std::string, std::string>& patterns) {
  using Expression = xgrammar::Grammar::Impl::GrammarExprType;
  for (int32_t id = 0; !patterns.empty() && id < grammar->NumGrammarExprs(); ++id) {
    auto expression = grammar->GetGrammarExpr(id);
    if (expression.type != Expression::kRegex) continue;
    const auto found = patterns.find(grammar->GetRegexString(expression));
    if (found == patterns.end()) continue;
    ATOM_CHECK(found->first.size() == found->second.size());
    expression.SetData(0, 0);  // not the library's form of a JSON string
    for (int32_t i = 1; i < expression.size(); ++i)
      expression.SetData(i, static_cast<uint8_t>(found->second[static_cast<size_t>(i) - 1]));
  }
}

}  // namespace

xgrammar::Grammar grammar_of(const GrammarSpec& spec, const CheckedGrammar& form,
                             const xgrammar::TokenizerInfo& vocabulary) {
  xgrammar::Grammar grammar = read_form(spec, form, vocabulary);
  place_patterns(grammar, form.patterns);
  return grammar;
}

}  // namespace atom
