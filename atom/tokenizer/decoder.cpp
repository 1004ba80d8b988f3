#include "atom/tokenizer/decoder.h"

#include <algorithm>

#include "atom/tokenizer/unicode.h"

namespace atom {
namespace {

constexpr size_t kMaxStages = 32;
constexpr std::string_view kReplacementChar = "\xEF\xBF\xBD";

// The byte of a token <0xNN>, else -1.
int fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

// Number of bytes of `text` that must wait because they may begin `literal`.
size_t partial_match(std::string_view text, std::string_view literal) {
  for (size_t n = std::min(literal.size() - 1, text.size()); n > 0; --n) {
    if (text.ends_with(literal.substr(0, n))) return n;
  }
  return 0;
}

void replace_all(std::string_view text, const ReplaceStage& stage, std::string& out) {
  size_t done = 0;
  for (size_t at; (at = text.find(stage.literal, done)) != std::string_view::npos;) {
    out += text.substr(done, at - done);
    out += stage.content;
    done = at + stage.literal.size();
  }
  out += text.substr(done);
}

}  // namespace

Status Decoder::add(DecodeStage stage, std::string_view name) {
  if (stages_.size() >= kMaxStages) {
    return make_error(ErrorCode::kUnsupported, "more than {} decoders in a sequence", kMaxStages);
  }
  const bool follows_fused = std::holds_alternative<FuseStage>(stage) ||
                             std::holds_alternative<ReplaceStage>(stage) ||
                             std::holds_alternative<StripStage>(stage);
  if (fused_ && !follows_fused) {
    return make_error(ErrorCode::kUnsupported,
                      "decoder {} after Fuse or ByteLevel is not supported", name);
  }
  const bool fuses =
      std::holds_alternative<FuseStage>(stage) || std::holds_alternative<ByteLevelStage>(stage);
  stages_.push_back({std::move(stage), fused_});
  fused_ |= fuses;
  return {};
}

// One pass of a token, or of the end, through the chain.
struct Decoder::Run {
  const Decoder& decoder;
  DecodeState& state;
  bool spaces_between_special;
  std::string& out;

  void push(size_t i, const DecodeToken& token) {
    if (i == decoder.stages_.size()) {
      out += token.text;
      return;
    }
    const Stage& stage = decoder.stages_[i];
    std::visit([&](const auto& s) { this->apply(s, i, stage.fused, token); }, stage.stage);
  }

  void flush(size_t i) {
    if (i == decoder.stages_.size()) return;
    std::visit([&](const auto& s) { this->finish(s, i); }, decoder.stages_[i].stage);
    flush(i + 1);
  }

  void apply(const FuseStage&, size_t i, bool, const DecodeToken& token) { push(i + 1, token); }

  void apply(const ByteLevelStage&, size_t i, bool, const DecodeToken& token) {
    std::string& held = state.stages[i].held;
    if (token.is_bytes || !append_alphabet_bytes(token.text, held)) held += token.text;
    std::string text;
    held.erase(0, append_lossy_utf8(held, true, text));
    if (!text.empty()) push(i + 1, {.text = text});
  }
  void finish(const ByteLevelStage&, size_t i) {
    std::string text;
    append_lossy_utf8(state.stages[i].held, false, text);
    state.stages[i].held.clear();
    if (!text.empty()) push(i + 1, {.text = text});
  }

  void apply(const ByteFallbackStage& s, size_t i, bool, const DecodeToken& token) {
    const int byte = fallback_byte(token.text);
    if (byte >= 0) {
      state.stages[i].held += static_cast<char>(byte);
      return;
    }
    finish(s, i);
    push(i + 1, token);
  }
  void finish(const ByteFallbackStage&, size_t i) {
    std::string bytes;
    bytes.swap(state.stages[i].held);
    if (bytes.empty()) return;
    if (valid_utf8_prefix(bytes) == bytes.size()) {
      push(i + 1, {.text = bytes});
    } else {
      for (size_t n = 0; n < bytes.size(); ++n) push(i + 1, {.text = kReplacementChar});
    }
  }

  void apply(const ReplaceStage& s, size_t i, bool fused, const DecodeToken& token) {
    std::string& held = state.stages[i].held;
    std::string text;
    if (!fused) {
      replace_all(token.text, s, text);
    } else {
      held += token.text;
      // Matches do not overlap, so what waits starts after the last one.
      size_t done = held.rfind(s.literal);
      done = done == std::string::npos ? 0 : last_match_end(held, s.literal);
      const size_t keep = partial_match(std::string_view(held).substr(done), s.literal);
      replace_all(std::string_view(held).substr(0, held.size() - keep), s, text);
      held.erase(0, held.size() - keep);
    }
    push(i + 1, {.text = text, .special = token.special});
  }
  static size_t last_match_end(std::string_view text, std::string_view literal) {
    size_t done = 0;
    for (size_t at; (at = text.find(literal, done)) != std::string_view::npos;)
      done = at + literal.size();
    return done;
  }
  void finish(const ReplaceStage&, size_t i) { pass_held(i); }

  void apply(const StripStage& s, size_t i, bool fused, const DecodeToken& token) {
    DecodeState::Stage& own = state.stages[i];
    if (!fused) own = {};
    own.held += token.text;
    std::string_view text = own.held;
    while (own.open && own.count < s.start && text.starts_with(s.content)) {
      text.remove_prefix(s.content.size());
      ++own.count;
    }
    if (!text.empty() || own.count >= s.start) own.open = false;
    size_t tail = 0;
    while (tail < s.stop &&
           text.substr(0, text.size() - tail * s.content.size()).ends_with(s.content))
      ++tail;
    const std::string ready(text.substr(0, text.size() - tail * s.content.size()));
    own.held = fused ? std::string(text.substr(ready.size())) : std::string();
    push(i + 1, {.text = ready, .special = token.special});
  }
  void finish(const StripStage&, size_t i) { state.stages[i].held.clear(); }

  void apply(const MetaspaceDecodeStage& s, size_t i, bool, const DecodeToken& token) {
    const bool first = state.stages[i].count++ == 0;
    std::string text;
    replace_all(token.text, {s.replacement, first && s.strip_first ? "" : " "}, text);
    push(i + 1, {.text = text, .special = token.special});
  }

  void apply(const JoinStage&, size_t i, bool, const DecodeToken& token) {
    DecodeState::Stage& own = state.stages[i];
    const bool both_special = own.special && token.special;
    if (own.count++ > 0 && (spaces_between_special || !both_special)) push(i + 1, {.text = " "});
    own.special = token.special;
    push(i + 1, token);
  }

  template <class S>
  void finish(const S&, size_t) {}  // stages that hold nothing back

  void pass_held(size_t i) {
    std::string text;
    text.swap(state.stages[i].held);
    if (!text.empty()) push(i + 1, {.text = text});
  }
};

void Decoder::push(DecodeState& state, const DecodeToken& token, bool spaces_between_special,
                   std::string& out) const {
  Run{*this, state, spaces_between_special, out}.push(0, token);
}

void Decoder::flush(DecodeState& state, std::string& out) const {
  Run{*this, state, true, out}.flush(0);
}

}  // namespace atom
