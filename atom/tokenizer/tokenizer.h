// Tokenizer: text <-> token ids, equal id for id to the `tokenizers` library reading the same
// tokenizer.json. One immutable object for tokenizer.json, tiktoken and GGUF vocabularies; safe to
// use from many threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "atom/core/error.h"

namespace atom {

// The tokenizer.ggml.* metadata of a GGUF file, as plain data (filled by model_loader/gguf).
struct GgufVocab {
  std::string model;  // "llama" (SentencePiece) or "gpt2" (byte-level BPE)
  std::string pre;    // pre-tokenizer name: "smollm", "qwen2", "llama-bpe", ...
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<int32_t>
      token_types;  // 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
  std::vector<std::string> merges;
  std::optional<int32_t> bos_id, eos_id, unk_id, pad_id;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Reads tokenizer.json or tiktoken.model, and tokenizer_config.json beside it.
  static Result<std::shared_ptr<const Tokenizer>> from_directory(const std::filesystem::path& dir);
  static Result<std::shared_ptr<const Tokenizer>> from_gguf(const GgufVocab& vocab);

  // Special-token text inside `text` becomes the special token, as in `tokenizers`.
  // add_special_tokens adds what the post-processor (and add_bos_token / add_eos_token) says.
  virtual std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const = 0;
  // Invalid UTF-8 becomes U+FFFD as in `tokenizers`. Ids outside the vocabulary are skipped.
  virtual std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const = 0;
  // The raw bytes that this token stands for in running text (special tokens: their text).
  virtual std::string token_bytes(int32_t id) const = 0;
  // The vocabulary entry itself ("Ġthe", "▁the").
  virtual std::string_view id_to_token(int32_t id) const = 0;
  virtual std::optional<int32_t> token_to_id(std::string_view token) const = 0;
  virtual bool is_special(int32_t id) const = 0;
  virtual int64_t vocab_size() const = 0;  // largest id + 1
  // Without the added tokens: `vocab_size` of transformers' tokenizers.
  virtual int64_t base_vocab_size() const { return vocab_size(); }

  // Special tokens as tokenizer_config.json names them; empty when there is none.
  virtual std::string_view bos_token() const = 0;
  virtual std::string_view eos_token() const = 0;
  virtual std::string_view pad_token() const = 0;
  virtual std::string_view unk_token() const = 0;
};

// Turns a stream of token ids into text; never emits half a character. The concatenation of all
// push() results and flush() equals decode() of all ids. One object per sequence, one thread.
class IncrementalDetokenizer {
 public:
  IncrementalDetokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special_tokens,
                         bool spaces_between_special_tokens = true);
  ~IncrementalDetokenizer();
  IncrementalDetokenizer(IncrementalDetokenizer&&) noexcept;
  IncrementalDetokenizer& operator=(IncrementalDetokenizer&&) noexcept;

  // Text that became certain with this token; may be empty.
  std::string push(int32_t id);
  // What is still held back, with U+FFFD for an unfinished character.
  std::string flush();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace atom
