// PipelineTokenizer: the one implementation of Tokenizer. added tokens -> normaliser ->
// pre-tokenizer -> BPE -> post-processor, and back through the decoder. The loaders
// (tokenizer_json, tiktoken, gguf_vocab) only differ in how they fill TokenizerParts.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "atom/tokenizer/added_tokens.h"
#include "atom/tokenizer/bpe_model.h"
#include "atom/tokenizer/decoder.h"
#include "atom/tokenizer/normalizer.h"
#include "atom/tokenizer/pre_tokenizer.h"
#include "atom/tokenizer/tokenizer.h"

namespace atom {

struct TokenizerParts {
  BpeModel model;
  AddedTokens added;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Decoder decoder;
  std::vector<int32_t> prefix_ids, suffix_ids;  // what add_special_tokens puts around the text
  std::string bos_token, eos_token, pad_token, unk_token;
};

class PipelineTokenizer final : public Tokenizer {
 public:
  explicit PipelineTokenizer(TokenizerParts parts);
  ~PipelineTokenizer() override;

  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const override;
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const override;
  std::string token_bytes(int32_t id) const override;
  std::string_view id_to_token(int32_t id) const override;
  std::optional<int32_t> token_to_id(std::string_view token) const override;
  bool is_special(int32_t id) const override;
  int64_t vocab_size() const override { return vocab_size_; }
  int64_t base_vocab_size() const override { return parts_.model.vocab().size(); }
  std::string_view bos_token() const override { return parts_.bos_token; }
  std::string_view eos_token() const override { return parts_.eos_token; }
  std::string_view pad_token() const override { return parts_.pad_token; }
  std::string_view unk_token() const override { return parts_.unk_token; }

  const Decoder& decoder() const { return parts_.decoder; }
  // What the decoder is given for this id; false when it is given nothing.
  bool decode_token(int32_t id, bool skip_special_tokens, DecodeToken& token) const;

 private:
  struct Scratch;
  class ScratchLease;
  void encode_piece(std::string_view text, bool at_start, Scratch& scratch,
                    std::vector<int32_t>& out) const;
  const AddedToken* added_token(int32_t id) const;

  TokenizerParts parts_;
  int64_t vocab_size_ = 0;
  std::vector<int32_t> added_index_;        // id -> index into parts_.added.tokens(), or -1
  std::vector<std::string> added_decoded_;  // what the decoder is given for an added token

  mutable std::mutex scratch_mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> free_scratch_;
};

}  // namespace atom
