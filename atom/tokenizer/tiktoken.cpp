// tiktoken.model: lines of "base64(token bytes) rank". The file holds neither the pattern nor the
// special tokens; both are those of Kimi-K2, the only supported model that ships one. A token's
// rank is its id, and the merges follow from the ranks.
#include <algorithm>
#include <array>
#include <charconv>

#include "atom/tokenizer/loaders.h"

namespace atom {
namespace {

constexpr std::string_view kKimiPattern =
    R"([\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

bool decode_base64(std::string_view text, std::string& out) {
  out.clear();
  uint32_t bits = 0;
  int have = 0;
  size_t end = text.size();
  while (end > 0 && end + 2 > text.size() && text[end - 1] == '=') --end;
  if (text.empty() || text.size() % 4 != 0) return false;
  for (const char c : text.substr(0, end)) {
    const int value = c >= 'A' && c <= 'Z'   ? c - 'A'
                      : c >= 'a' && c <= 'z' ? c - 'a' + 26
                      : c >= '0' && c <= '9' ? c - '0' + 52
                      : c == '+'             ? 62
                      : c == '/'             ? 63
                                             : -1;
    if (value < 0) return false;
    bits = bits << 6 | static_cast<uint32_t>(value);
    if ((have += 6) >= 8) out += static_cast<char>(bits >> (have -= 8));
  }
  return !out.empty();
}

Status read_ranks(std::string_view text, Vocab& vocab) {
  std::string bytes;
  size_t line_number = 0;
  while (!text.empty()) {
    const size_t newline = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, newline);
    text.remove_prefix(std::min(newline + 1, text.size()));
    ++line_number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const size_t space = line.find(' ');
    int64_t rank = -1;
    const char* end = line.data() + line.size();
    const bool ok = space != std::string_view::npos &&
                    decode_base64(line.substr(0, space), bytes) &&
                    std::from_chars(line.data() + space + 1, end, rank).ptr == end;
    if (!ok) {
      return make_error(ErrorCode::kInvalidArgument, "line {} is not \"base64 rank\"", line_number);
    }
    if (auto added = vocab.add_bytes(bytes, rank); !added) {
      return make_error(added.error().code, "line {}: {}", line_number, added.error().message);
    }
  }
  if (vocab.num_tokens() == 0)
    return make_error(ErrorCode::kInvalidArgument, "the file holds no tokens");
  return vocab.finish(true);
}

// The 256 ids behind the ranks are special tokens; those without a name are <|reserved_token_ID|>.
Status add_reserved_tokens(int64_t first, AddedTokens& added) {
  constexpr int64_t kReserved = 256;
  for (int64_t id = first; id < first + kReserved; ++id) {
    if (added.by_id(static_cast<int32_t>(id)) != nullptr) continue;
    const std::string content = str_format("<|reserved_token_{}|>", id);
    ATOM_RETURN_IF_ERROR(
        added.add({.id = static_cast<int32_t>(id), .content = content, .special = true}, content));
  }
  return {};
}

}  // namespace

Status load_tiktoken(std::string_view text, const TokenizerConfig& config, TokenizerParts& parts) {
  Vocab& vocab = parts.model.vocab();
  ATOM_RETURN_IF_ERROR(read_ranks(text, vocab));
  parts.model.add_rank_merges();
  parts.model.set_options({.byte_level = true, .ignore_merges = true});
  parts.pre_tokenizer.add(SplitStage{.scanner = find_scanner(kKimiPattern), .regex = {}});
  ATOM_RETURN_IF_ERROR(parts.decoder.add(ByteLevelStage{}, "ByteLevel"));
  for (AddedToken token : config.added_tokens) {
    if (vocab.has(token.id)) {
      return make_error(ErrorCode::kInvalidArgument,
                        "added token \"{}\" has id {}, which is a rank already",
                        token.content.substr(0, 100), token.id);
    }
    token.normalized = false;
    const std::string content = token.content;
    ATOM_RETURN_IF_ERROR(parts.added.add(std::move(token), content));
  }
  return add_reserved_tokens(vocab.size(), parts.added);
}

}  // namespace atom
