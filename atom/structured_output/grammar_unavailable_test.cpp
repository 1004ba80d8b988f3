#include <gtest/gtest.h>

#include "atom/structured_output/grammar_compiler.h"
#include "tests/support/byte_tokenizer.h"

namespace atom {
namespace {

TEST(GrammarCompiler, ABuildWithoutTheLibraryRefusesByName) {
  GrammarCompiler compiler(testing_support::make_byte_tokenizer(), testing_support::kByteVocabSize,
                           {testing_support::kByteEos});
  const auto grammar = compiler.compile({.param = "response_format"});
  ASSERT_FALSE(grammar);
  EXPECT_EQ(grammar.error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(grammar.error().param, "response_format");
}

}  // namespace
}  // namespace atom
