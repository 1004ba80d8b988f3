// GrammarCompiler and GrammarMatcher of a build without the grammar library: every spec is refused
// by name, so that no matcher ever exists.
#include <utility>

#include "atom/core/check.h"
#include "atom/structured_output/grammar_compiler.h"

namespace atom {

class CompiledGrammar {};

struct GrammarCompiler::Impl {};

GrammarCompiler::GrammarCompiler(std::shared_ptr<const Tokenizer>, int64_t, std::vector<int32_t>,
                                 GrammarLimits)
    : impl_(std::make_unique<Impl>()) {}
GrammarCompiler::~GrammarCompiler() = default;

Result<std::shared_ptr<const CompiledGrammar>> GrammarCompiler::compile(const GrammarSpec& spec,
                                                                        double*) {
  return std::unexpected(
      Error{.code = ErrorCode::kUnsupported,
            .message = "structured outputs are not in this build (ATOM_WITH_XGRAMMAR is off)",
            .param = spec.param});
}

std::shared_ptr<const CompiledGrammar> GrammarCompiler::find(const GrammarSpec&) { return nullptr; }
GrammarCompiler::Stats GrammarCompiler::stats() const { return {}; }

struct GrammarMatcher::Impl {};

GrammarMatcher::GrammarMatcher(std::shared_ptr<const CompiledGrammar>) {
  ATOM_CHECK(false) << "no grammar can be compiled in this build";
}
GrammarMatcher::GrammarMatcher(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GrammarMatcher::~GrammarMatcher() = default;
GrammarMatcher::GrammarMatcher(GrammarMatcher&&) noexcept = default;
GrammarMatcher& GrammarMatcher::operator=(GrammarMatcher&&) noexcept = default;
std::span<const uint32_t> GrammarMatcher::mask() const { return {}; }
Status GrammarMatcher::start() { return {}; }
Status GrammarMatcher::advance(int32_t, GrammarStepBudget*) { return {}; }
bool GrammarMatcher::terminated() const { return true; }
bool GrammarMatcher::allows_other_than(std::span<const int32_t>) const { return false; }
GrammarMatcher GrammarMatcher::fork() const { return GrammarMatcher(std::unique_ptr<Impl>{}); }

}  // namespace atom
