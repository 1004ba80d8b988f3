// The ways to fill TokenizerParts from files; called by Tokenizer::from_directory only.
// Every error names the key inside the file; the caller puts the file name in front.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "atom/core/error.h"
#include "atom/tokenizer/pipeline_tokenizer.h"

namespace atom {

inline constexpr size_t kMaxMessage = 600;  // bytes of an error, which may quote the file

// What tokenizer_config.json says about tokens; the chat template is not read here.
struct TokenizerConfig {
  std::optional<bool> add_bos_token, add_eos_token;
  std::string bos_token, eos_token, pad_token, unk_token;  // empty: none
  std::vector<AddedToken> added_tokens;                    // added_tokens_decoder, by id
};
Result<TokenizerConfig> parse_tokenizer_config(std::string_view text);

Status load_tokenizer_json(std::string_view text, TokenizerParts& parts);
// `text`: lines "base64 rank". Special tokens come from the config.
Status load_tiktoken(std::string_view text, const TokenizerConfig& config, TokenizerParts& parts);

// add_bos_token, add_eos_token and the names of the special tokens. Errors: a token that is asked
// for and is not in the vocabulary.
Status apply_tokenizer_config(const TokenizerConfig& config, TokenizerParts& parts);

}  // namespace atom
