// IncrementalDetokenizer: the decoder of the tokenizer, fed one token at a time. All hold-back rules live in
// the decoder's stages; this file only owns the state of one sequence.
#include "atom/core/check.h"
#include "atom/tokenizer/pipeline_tokenizer.h"

namespace atom {

struct IncrementalDetokenizer::State {
  std::shared_ptr<const Tokenizer> owner;
  const PipelineTokenizer* tokenizer;
  bool skip_special_tokens;
  bool spaces_between_special_tokens;
  DecodeState decode;
};

IncrementalDetokenizer::IncrementalDetokenizer(std::shared_ptr<const Tokenizer> tokenizer,
                                               bool skip_special_tokens,
                                               bool spaces_between_special_tokens) {
  const auto* pipeline = dynamic_cast<const PipelineTokenizer*>(tokenizer.get());
  ATOM_CHECK(pipeline != nullptr) << "a tokenizer that did not come from Tokenizer::from_*";
  state_ = std::make_unique<State>(State{.owner = std::move(tokenizer),
                                         .tokenizer = pipeline,
                                         .skip_special_tokens = skip_special_tokens,
                                         .spaces_between_special_tokens = spaces_between_special_tokens,
                                         .decode = pipeline->decoder().start()});
}

IncrementalDetokenizer::~IncrementalDetokenizer() = default;
IncrementalDetokenizer::IncrementalDetokenizer(IncrementalDetokenizer&&) noexcept = default;
IncrementalDetokenizer& IncrementalDetokenizer::operator=(IncrementalDetokenizer&&) noexcept = default;

std::string IncrementalDetokenizer::push(int32_t id) {
  std::string out;
  DecodeToken token;
  if (state_->tokenizer->decode_token(id, state_->skip_special_tokens, token)) {
    state_->tokenizer->decoder().push(state_->decode, token, state_->spaces_between_special_tokens, out);
  }
  return out;
}

std::string IncrementalDetokenizer::flush() {
  std::string out;
  state_->tokenizer->decoder().flush(state_->decode, out);
  return out;
}

}  // namespace atom
