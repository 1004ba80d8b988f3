#include "tests/support/byte_tokenizer.h"

#include <string>

#include "atom/core/check.h"

namespace atom::testing_support {
namespace {

// GPT-2's printable alphabet: bytes that print stand for themselves, the others follow from U+0100
// on.
std::string printable(int byte) {
  const auto prints = [](int b) {
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
  };
  int code = byte;
  if (!prints(byte)) {
    code = 0x100;
    for (int b = 0; b < byte; ++b) {
      code += prints(b) ? 0 : 1;
    }
  }
  if (code < 0x80) {
    return {static_cast<char>(code)};
  }
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

}  // namespace

std::shared_ptr<const Tokenizer> make_byte_tokenizer() {
  GgufVocab vocab;
  vocab.model = "gpt2";
  vocab.pre = "gpt-2";
  for (int byte = 0; byte < 256; ++byte) {
    vocab.tokens.push_back(printable(byte));
    vocab.token_types.push_back(1);
  }
  for (const char* special : {"<|begin|>", "<|end|>", "<|turn|>"}) {
    vocab.tokens.emplace_back(special);
    vocab.token_types.push_back(3);
  }
  vocab.bos_id = kByteBos;
  vocab.eos_id = kByteEos;
  vocab.add_bos = false;
  Result<std::shared_ptr<const Tokenizer>> tokenizer = Tokenizer::from_gguf(vocab);
  ATOM_CHECK(tokenizer.has_value()) << (tokenizer ? "" : tokenizer.error().message);
  return *tokenizer;
}

std::vector<int32_t> byte_ids(std::string_view text) {
  std::vector<int32_t> ids;
  for (const char c : text) {
    ids.push_back(static_cast<unsigned char>(c));
  }
  return ids;
}

}  // namespace atom::testing_support
