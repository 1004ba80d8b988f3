// Decoder: token strings -> text, as a stream, so that decode() and the incremental detokeniser are
// the same code. A chain of stages as in tokenizer.json; from Fuse or ByteLevel on, the stages see
// one single text in chunks instead of tokens. Immutable; a DecodeState per sequence. To add a
// stage: a struct in DecodeStage, its branches in decoder.cpp, its reader in tokenizer_json.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "atom/core/error.h"

namespace atom {

struct ByteLevelStage {};     // byte alphabet -> bytes -> lossy UTF-8, all tokens as one
struct ByteFallbackStage {};  // runs of <0xNN> tokens -> characters, or one U+FFFD per byte
struct FuseStage {};          // all tokens become one
struct ReplaceStage {
  std::string literal;
  std::string content;
};
struct StripStage {
  std::string content;  // one character
  size_t start = 0;     // at most so many from the front
  size_t stop = 0;      // and from the end
};
struct MetaspaceDecodeStage {
  std::string replacement = "\xE2\x96\x81";
  bool strip_first = true;  // the first token loses its replacement characters
};
struct JoinStage {};  // no decoder: tokens with a space between
using DecodeStage = std::variant<ByteLevelStage, ByteFallbackStage, FuseStage, ReplaceStage,
                                 StripStage, MetaspaceDecodeStage, JoinStage>;

struct DecodeState {
  struct Stage {
    std::string held;      // input that cannot be passed on yet
    size_t count = 0;      // tokens, or characters stripped
    bool open = true;      // StripStage: still at the front
    bool special = false;  // JoinStage: the last token was special
  };
  std::vector<Stage> stages;
};

// A token as the decoder sees it.
struct DecodeToken {
  std::string_view text;
  bool special = false;
  bool is_bytes =
      false;  // `text` is already out of the byte alphabet (only for a first ByteLevelStage)
};

class Decoder {
 public:
  // Errors: a stage that cannot follow the ones before it.
  Status add(DecodeStage stage, std::string_view name);
  // The first stage takes tokens as raw bytes.
  bool takes_bytes() const {
    return !stages_.empty() && std::holds_alternative<ByteLevelStage>(stages_[0].stage);
  }
  // Nothing but ByteLevel: decoding is the concatenation of bytes(id), then lossy UTF-8.
  bool only_bytes() const { return takes_bytes() && stages_.size() == 1; }

  DecodeState start() const { return {.stages = std::vector<DecodeState::Stage>(stages_.size())}; }
  void push(DecodeState& state, const DecodeToken& token, bool spaces_between_special,
            std::string& out) const;
  void flush(DecodeState& state, std::string& out) const;

 private:
  struct Stage {
    DecodeStage stage;
    bool fused;  // its input is one text in chunks
  };
  struct Run;
  std::vector<Stage> stages_;
  bool fused_ = false;
};

}  // namespace atom
