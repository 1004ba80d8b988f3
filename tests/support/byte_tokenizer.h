// A real byte-level tokenizer without merges for tests: id b is the byte b, then three special
// tokens.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "atom/tokenizer/tokenizer.h"

namespace atom::testing_support {

inline constexpr int32_t kByteBos = 256;  // <|begin|>
inline constexpr int32_t kByteEos = 257;  // <|end|>
inline constexpr int32_t kByteEot = 258;  // <|turn|>
inline constexpr int64_t kByteVocabSize = 259;

std::shared_ptr<const Tokenizer> make_byte_tokenizer();
// The ids of `text`: its bytes.
std::vector<int32_t> byte_ids(std::string_view text);

}  // namespace atom::testing_support
