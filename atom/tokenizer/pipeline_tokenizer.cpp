#include "atom/tokenizer/pipeline_tokenizer.h"

#include <algorithm>

#include "atom/tokenizer/unicode.h"

namespace atom {

// Working memory of one encode() call.
struct PipelineTokenizer::Scratch {
  BpeScratch bpe;
  WordList words;
  std::string sanitized, normalized;
  std::vector<AddedTokens::Part> raw_parts, parts;

  // Memory that a long text left behind; not the word cache.
  size_t slack() const {
    return bpe.symbols.capacity() * 28 + bpe.heap.capacity() * 8 + words.words.capacity() * 16 +
           words.scratch.capacity() * 16 + words.buffer[0].capacity() + words.buffer[1].capacity() +
           sanitized.capacity() + normalized.capacity() + raw_parts.capacity() * 24 +
           parts.capacity() * 24;
  }
};

// Takes a Scratch from the tokenizer's free list and gives it back, so that word caches stay warm.
class PipelineTokenizer::ScratchLease {
 public:
  explicit ScratchLease(const PipelineTokenizer& owner) : owner_(owner) {
    const std::lock_guard lock(owner_.scratch_mutex_);
    if (owner_.free_scratch_.empty()) {
      scratch_ = std::make_unique<Scratch>();
    } else {
      scratch_ = std::move(owner_.free_scratch_.back());
      owner_.free_scratch_.pop_back();
    }
  }
  ~ScratchLease() {
    constexpr size_t kMaxSlack = 4 << 20;
    if (scratch_->slack() > kMaxSlack) {
      auto fresh = std::make_unique<Scratch>();
      fresh->bpe.cache = std::move(scratch_->bpe.cache);
      scratch_ = std::move(fresh);
    }
    const std::lock_guard lock(owner_.scratch_mutex_);
    owner_.free_scratch_.push_back(std::move(scratch_));
  }
  ScratchLease(const ScratchLease&) = delete;
  ScratchLease& operator=(const ScratchLease&) = delete;
  Scratch& operator*() { return *scratch_; }

 private:
  const PipelineTokenizer& owner_;
  std::unique_ptr<Scratch> scratch_;
};

PipelineTokenizer::PipelineTokenizer(TokenizerParts parts) : parts_(std::move(parts)) {
  vocab_size_ = parts_.model.vocab().size();
  const std::vector<AddedToken>& added = parts_.added.tokens();
  for (const AddedToken& t : added) vocab_size_ = std::max<int64_t>(vocab_size_, t.id + 1);
  added_index_.assign(vocab_size_, -1);
  added_decoded_.resize(added.size());
  for (size_t i = 0; i < added.size(); ++i) {
    added_index_[added[i].id] = static_cast<int32_t>(i);
    std::string buffer;
    std::string text(added[i].normalized ? parts_.normalizer.run(added[i].content, buffer)
                                         : std::string_view(added[i].content));
    if (!parts_.decoder.takes_bytes() || !append_alphabet_bytes(text, added_decoded_[i])) {
      added_decoded_[i] = std::move(text);
    }
  }
}

PipelineTokenizer::~PipelineTokenizer() = default;

void PipelineTokenizer::encode_piece(std::string_view text, bool at_start, Scratch& scratch,
                                     std::vector<int32_t>& out) const {
  if (parts_.pre_tokenizer.empty()) {
    parts_.model.encode_word(text, scratch.bpe, out);
    return;
  }
  parts_.pre_tokenizer.run(text, at_start, scratch.words);
  for (const WordList::Span& word : scratch.words.words) {
    parts_.model.encode_word(scratch.words.word(word), scratch.bpe, out);
  }
}

std::vector<int32_t> PipelineTokenizer::encode(std::string_view text,
                                               bool add_special_tokens) const {
  ScratchLease lease(*this);
  Scratch& scratch = *lease;
  std::vector<int32_t> out;
  out.reserve(text.size() / 4 + 8);
  if (add_special_tokens) out.insert(out.end(), parts_.prefix_ids.begin(), parts_.prefix_ids.end());
  if (valid_utf8_prefix(text) < text.size()) {
    scratch.sanitized.clear();
    append_lossy_utf8(text, false, scratch.sanitized);
    text = scratch.sanitized;
  }
  const std::vector<AddedToken>& added = parts_.added.tokens();
  scratch.raw_parts.clear();
  parts_.added.split(text, false, scratch.raw_parts);
  for (const AddedTokens::Part& raw : scratch.raw_parts) {
    if (raw.token >= 0) {
      out.push_back(added[raw.token].id);
      continue;
    }
    const std::string_view piece =
        parts_.normalizer.run(text.substr(raw.begin, raw.end - raw.begin), scratch.normalized);
    scratch.parts.clear();
    parts_.added.split(piece, true, scratch.parts);
    for (const AddedTokens::Part& part : scratch.parts) {
      if (part.token >= 0) {
        out.push_back(added[part.token].id);
      } else {
        encode_piece(piece.substr(part.begin, part.end - part.begin),
                     raw.begin == 0 && part.begin == 0, scratch, out);
      }
    }
  }
  if (add_special_tokens) out.insert(out.end(), parts_.suffix_ids.begin(), parts_.suffix_ids.end());
  return out;
}

const AddedToken* PipelineTokenizer::added_token(int32_t id) const {
  if (id < 0 || id >= vocab_size_ || added_index_[id] < 0) return nullptr;
  return &parts_.added.tokens()[added_index_[id]];
}

bool PipelineTokenizer::decode_token(int32_t id, bool skip_special_tokens,
                                     DecodeToken& token) const {
  const Vocab& vocab = parts_.model.vocab();
  if (const AddedToken* added = added_token(id)) {
    if (added->special && skip_special_tokens) return false;
    token = {.text = added_decoded_[added_index_[id]],
             .special = added->special,
             .is_bytes = parts_.decoder.takes_bytes()};
    return true;
  }
  if (!vocab.has(id)) return false;
  const bool bytes = parts_.decoder.takes_bytes() && parts_.model.options().byte_level;
  token = {.text = bytes ? vocab.bytes(id) : vocab.token(id), .special = false, .is_bytes = bytes};
  return true;
}

std::string PipelineTokenizer::decode(std::span<const int32_t> ids,
                                      bool skip_special_tokens) const {
  std::string out;
  DecodeToken token;
  if (parts_.decoder.only_bytes() && parts_.model.options().byte_level) {
    std::string bytes;
    bytes.reserve(ids.size() * 5);
    for (const int32_t id : ids) {
      if (decode_token(id, skip_special_tokens, token)) bytes += token.text;
    }
    if (valid_utf8_prefix(bytes) == bytes.size()) return bytes;
    append_lossy_utf8(bytes, false, out);
    return out;
  }
  DecodeState state = parts_.decoder.start();
  for (const int32_t id : ids) {
    if (decode_token(id, skip_special_tokens, token)) parts_.decoder.push(state, token, true, out);
  }
  parts_.decoder.flush(state, out);
  return out;
}

std::string PipelineTokenizer::token_bytes(int32_t id) const {
  if (const AddedToken* added = added_token(id)) return added->content;
  const Vocab& vocab = parts_.model.vocab();
  if (!vocab.has(id)) return {};
  if (parts_.model.options().byte_level) return std::string(vocab.bytes(id));
  const std::string_view text = vocab.token(id);
  if (parts_.model.options().byte_fallback) {
    // The fallback token of this byte, by what the decoder makes of it.
    if (const int byte = parts_.model.fallback_byte(id); byte >= 0)
      return std::string(1, static_cast<char>(byte));
  }
  constexpr std::string_view kSpaceMark = "\xE2\x96\x81";
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (text.substr(i).starts_with(kSpaceMark)) {
      out += ' ';
      i += kSpaceMark.size();
    } else {
      out += text[i++];
    }
  }
  return out;
}

std::string_view PipelineTokenizer::id_to_token(int32_t id) const {
  if (const AddedToken* added = added_token(id)) return added->content;
  return parts_.model.vocab().token(id);
}

std::optional<int32_t> PipelineTokenizer::token_to_id(std::string_view token) const {
  if (const AddedToken* added = parts_.added.by_content(token)) return added->id;
  if (valid_utf8_prefix(token) < token.size()) return std::nullopt;
  const int32_t id = parts_.model.vocab().find(token);
  return id >= 0 ? std::optional(id) : std::nullopt;
}

bool PipelineTokenizer::is_special(int32_t id) const {
  const AddedToken* added = added_token(id);
  return added != nullptr && added->special;
}

}  // namespace atom
