// tokenizer.json, then (after a NUL) text: a file loads or is refused in one line; a tokenizer that
// loads gives ids inside its vocabulary for any text, and decodes them the same in one piece, token
// by token, and whatever the text was.
#include <memory>
#include <string>
#include <string_view>

#include "atom/tokenizer/loaders.h"
#include "atom/tokenizer/pipeline_tokenizer.h"
#include "tests/fuzz/check.h"

namespace {

using namespace atom;

void check(const std::shared_ptr<const Tokenizer>& tokenizer, std::string_view text) {
  for (const bool special : {false, true}) {
    const std::vector<int32_t> ids = tokenizer->encode(text, special);
    for (const int32_t id : ids) FUZZ_CHECK(id >= 0 && id < tokenizer->vocab_size());
    FUZZ_CHECK(tokenizer->encode(text, special) == ids);  // caches change nothing
    const std::string whole = tokenizer->decode(ids, special);
    FUZZ_CHECK(fuzz::is_utf8(whole));
    IncrementalDetokenizer detokenizer(tokenizer, special);
    std::string pieces;
    for (const int32_t id : ids) {
      const std::string piece = detokenizer.push(id);
      FUZZ_CHECK(fuzz::is_utf8(piece));
      pieces += piece;
    }
    pieces += detokenizer.flush();
    FUZZ_CHECK(pieces == whole);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = input.find('\0');
  TokenizerParts parts;
  if (const Status loaded = load_tokenizer_json(input.substr(0, end), parts); !loaded) {
    FUZZ_CHECK(fuzz::is_clean_message(loaded.error().message));
    return 0;
  }
  const std::shared_ptr<const Tokenizer> tokenizer =
      std::make_shared<const PipelineTokenizer>(std::move(parts));
  FUZZ_CHECK(tokenizer->vocab_size() >= 0);
  for (int32_t id = -1; id <= std::min<int64_t>(tokenizer->vocab_size(), 300); ++id) {
    (void)tokenizer->id_to_token(id);
    (void)tokenizer->token_bytes(id);
    (void)tokenizer->is_special(id);
  }
  if (end != std::string_view::npos) check(tokenizer, input.substr(end + 1));
  return 0;
}
