// IncrementalDetokenizer: the decoder of the tokenizer, fed one token at a time. All hold-back
// rules live in the decoder's stages; this file only owns the state of one sequence.
#include "atom/core/check.h"
#include "atom/tokenizer/pipeline_tokenizer.h"

namespace atom {

struct IncrementalDetokenizer::State {
  std::shared_ptr<const Tokenizer> owner;
  const PipelineTokenizer* pipeline;  // null: another implementation of Tokenizer (tests)
  Decoder decoder;                    // for those: bytes, then lossy UTF-8
  bool skip_special_tokens;
  bool spaces_between_special_tokens;
  DecodeState decode;

  const Decoder& stages() const { return pipeline != nullptr ? pipeline->decoder() : decoder; }
};

IncrementalDetokenizer::IncrementalDetokenizer(std::shared_ptr<const Tokenizer> tokenizer,
                                               bool skip_special_tokens,
                                               bool spaces_between_special_tokens) {
  const auto* pipeline = dynamic_cast<const PipelineTokenizer*>(tokenizer.get());
  state_ = std::make_unique<State>();
  state_->owner = std::move(tokenizer);
  state_->pipeline = pipeline;
  state_->skip_special_tokens = skip_special_tokens;
  state_->spaces_between_special_tokens = spaces_between_special_tokens;
  if (pipeline == nullptr) {
    const Status added = state_->decoder.add(ByteLevelStage{}, "ByteLevel");
    ATOM_CHECK(added.has_value());
  }
  state_->decode = state_->stages().start();
}

IncrementalDetokenizer::~IncrementalDetokenizer() = default;
IncrementalDetokenizer::IncrementalDetokenizer(IncrementalDetokenizer&&) noexcept = default;
IncrementalDetokenizer& IncrementalDetokenizer::operator=(IncrementalDetokenizer&&) noexcept =
    default;

std::string IncrementalDetokenizer::push(int32_t id) {
  std::string out;
  DecodeToken token;
  std::string bytes;
  bool wanted;
  if (state_->pipeline != nullptr) {
    wanted = state_->pipeline->decode_token(id, state_->skip_special_tokens, token);
  } else {
    wanted = !(state_->skip_special_tokens && state_->owner->is_special(id));
    bytes = state_->owner->token_bytes(id);
    token = {.text = bytes, .is_bytes = true};
  }
  if (wanted)
    state_->stages().push(state_->decode, token, state_->spaces_between_special_tokens, out);
  return out;
}

std::string IncrementalDetokenizer::flush() {
  std::string out;
  state_->stages().flush(state_->decode, out);
  return out;
}

}  // namespace atom
