// Tokenizer::from_gguf: the tokenizer.ggml.* metadata of a GGUF file -> PipelineTokenizer. A GGUF
// does not carry normaliser, pre-tokenizer and decoder; tokenizer.ggml.model and .pre name them,
// and this file says what the names stand for, so that ids equal those of the model's
// tokenizer.json. To add a pre-tokenizer: a row in kPreTokenizers.
#include <algorithm>
#include <array>

#include "atom/core/printable.h"
#include "atom/tokenizer/loaders.h"
#include "atom/tokenizer/pipeline_tokenizer.h"
#include "atom/tokenizer/unicode.h"

namespace atom {
namespace {

enum TokenType {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

struct GgufPreTokenizer {
  std::string_view name;
  std::array<std::string_view, 3> patterns;  // one after the other; empty ones are left out
  bool nfc = false;
  bool ignore_merges = false;
  bool add_bos = false;  // when the file does not say
};

constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kThreeDigits =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kOneDigit =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kO200k =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kKimi =
    R"([\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kDeepseekCjk = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+";
constexpr std::string_view kDeepseekWords =
    "[!\"#$%&'()*+,\\-./"
    ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";

constexpr GgufPreTokenizer kPreTokenizers[] = {
    {.name = "gpt-2", .patterns = {kGpt2}},
    {.name = "default", .patterns = {kGpt2}},
    {.name = "phi-2", .patterns = {kGpt2}},
    {.name = "olmo", .patterns = {kGpt2}},
    {.name = "smollm", .patterns = {R"(\p{N})", kGpt2}},
    {.name = "starcoder", .patterns = {R"(\p{N})", kGpt2}},
    {.name = "refact", .patterns = {R"(\p{N})", kGpt2}},
    {.name = "codeshell", .patterns = {R"(\p{N})", kGpt2}},
    {.name = "command-r", .patterns = {R"(\p{N})", kGpt2}, .nfc = true},
    {.name = "exaone", .patterns = {R"(\p{N})", kGpt2}},
    {.name = "llama-bpe", .patterns = {kThreeDigits}, .ignore_merges = true, .add_bos = true},
    {.name = "llama3", .patterns = {kThreeDigits}, .ignore_merges = true, .add_bos = true},
    {.name = "llama-v3", .patterns = {kThreeDigits}, .ignore_merges = true, .add_bos = true},
    {.name = "falcon3", .patterns = {kThreeDigits}, .ignore_merges = true, .add_bos = true},
    {.name = "pixtral", .patterns = {kTekken}, .ignore_merges = true, .add_bos = true},
    {.name = "dbrx", .patterns = {kThreeDigits}},
    {.name = "smaug-bpe", .patterns = {kThreeDigits}},
    {.name = "glm4", .patterns = {kThreeDigits}},
    {.name = "chatglm-bpe", .patterns = {kThreeDigits}},
    {.name = "qwen2", .patterns = {kOneDigit}, .nfc = true},
    {.name = "deepseek-r1-qwen", .patterns = {kOneDigit}, .nfc = true},
    {.name = "stablelm2", .patterns = {kOneDigit}, .nfc = true},
    {.name = "megrez", .patterns = {kOneDigit}},
    {.name = "gpt-4o", .patterns = {kO200k}, .ignore_merges = true},
    {.name = "llama4", .patterns = {kO200k}, .ignore_merges = true, .add_bos = true},
    {.name = "tekken", .patterns = {kTekken}, .ignore_merges = true, .add_bos = true},
    {.name = "deepseek-v3", .patterns = {R"(\p{N}{1,3})", kDeepseekCjk, kDeepseekWords}},
    {.name = "kimi-k2", .patterns = {kKimi}},
};

Result<const GgufPreTokenizer*> find_pre(std::string_view name) {
  if (name.empty()) name = "default";
  std::string known;
  for (const GgufPreTokenizer& p : kPreTokenizers) {
    if (p.name == name) return &p;
    known += known.empty() ? "" : ", ";
    known += p.name;
  }
  return make_error(ErrorCode::kUnsupported, "tokenizer.ggml.pre is \"{}\"; supported are {}", name,
                    known);
}

int type_of(const GgufVocab& v, size_t i) {
  return i < v.token_types.size() ? v.token_types[i] : kNormal;
}

Status add_tokens(const GgufVocab& v, bool byte_level, TokenizerParts& parts) {
  if (v.tokens.empty())
    return make_error(ErrorCode::kInvalidArgument, "tokenizer.ggml.tokens is empty");
  if (!v.token_types.empty() && v.token_types.size() != v.tokens.size()) {
    return make_error(ErrorCode::kInvalidArgument,
                      "tokenizer.ggml.token_type has {} entries, tokenizer.ggml.tokens has {}",
                      v.token_types.size(), v.tokens.size());
  }
  Vocab& vocab = parts.model.vocab();
  size_t bytes = 0;
  for (const std::string& t : v.tokens) bytes += t.size();
  vocab.reserve(v.tokens.size(), bytes);
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    const std::string& token = v.tokens[i];
    if (valid_utf8_prefix(token) != token.size()) {
      return make_error(ErrorCode::kInvalidArgument, "tokenizer.ggml.tokens[{}] is not UTF-8", i);
    }
    if (type_of(v, i) == kUnused) continue;  // padding; may repeat
    ATOM_RETURN_IF_ERROR(vocab.add(token, static_cast<int64_t>(i)));
  }
  ATOM_RETURN_IF_ERROR(vocab.finish(byte_level));
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    const int type = type_of(v, i);
    if (type != kControl && type != kUserDefined && !(type == kUnknown && !byte_level)) continue;
    ATOM_RETURN_IF_ERROR(parts.added.add(
        {.id = static_cast<int32_t>(i), .content = v.tokens[i], .special = type != kUserDefined},
        v.tokens[i]));
  }
  return {};
}

Status name_special_tokens(const GgufVocab& v, TokenizerParts& parts) {
  const auto name = [&](const char* key, const std::optional<int32_t>& id,
                        std::string& text) -> Status {
    if (!id) return {};
    if (*id < 0 || static_cast<size_t>(*id) >= v.tokens.size()) {
      return make_error(ErrorCode::kInvalidArgument,
                        "tokenizer.ggml.{} is {}, but there are {} tokens", key, *id,
                        v.tokens.size());
    }
    text = v.tokens[*id];
    return {};
  };
  ATOM_RETURN_IF_ERROR(name("bos_token_id", v.bos_id, parts.bos_token));
  ATOM_RETURN_IF_ERROR(name("eos_token_id", v.eos_id, parts.eos_token));
  ATOM_RETURN_IF_ERROR(name("unknown_token_id", v.unk_id, parts.unk_token));
  return name("padding_token_id", v.pad_id, parts.pad_token);
}

Status add_merges(const GgufVocab& v, BpeModel& model) {
  std::vector<BpeModel::Merge> merges;
  merges.reserve(v.merges.size());
  for (size_t i = 0; i < v.merges.size(); ++i) {
    const std::string_view merge = v.merges[i];
    const size_t space = merge.find(' ', 1);
    if (valid_utf8_prefix(merge) != merge.size() || space == std::string_view::npos) {
      return make_error(ErrorCode::kInvalidArgument,
                        "tokenizer.ggml.merges[{}] is not two tokens with a space", i);
    }
    merges.push_back({merge.substr(0, space), merge.substr(space + 1)});
  }
  return model.add_merges(merges);
}

Status build_byte_level(const GgufVocab& v, TokenizerParts& parts) {
  ATOM_ASSIGN_OR_RETURN(const GgufPreTokenizer* pre, find_pre(v.pre));
  ATOM_RETURN_IF_ERROR(add_tokens(v, true, parts));
  ATOM_RETURN_IF_ERROR(add_merges(v, parts.model));
  parts.model.set_options({.byte_level = true, .ignore_merges = pre->ignore_merges});
  if (pre->nfc) parts.normalizer.add(UnicodeStep{UnicodeForm::kNfc});
  for (const std::string_view pattern : pre->patterns) {
    if (!pattern.empty())
      parts.pre_tokenizer.add(SplitStage{.scanner = find_scanner(pattern), .regex = {}});
  }
  ATOM_RETURN_IF_ERROR(parts.decoder.add(ByteLevelStage{}, "ByteLevel"));
  if (v.add_bos.value_or(pre->add_bos) && v.bos_id) parts.prefix_ids.push_back(*v.bos_id);
  if (v.add_eos.value_or(false) && v.eos_id) parts.suffix_ids.push_back(*v.eos_id);
  return {};
}

// SentencePiece keeps a score per token; a pair merges when its concatenation is a token, best
// score first. Written as merges: every way to cut a token in two, by score, ties as the
// tokenizer.json converters have them.
Status add_scored_merges(const GgufVocab& v, BpeModel& model) {
  struct Cut {
    float score;
    int32_t token, left, right;
    uint32_t left_size;
  };
  const Vocab& vocab = model.vocab();
  std::vector<Cut> cuts;
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    if (type_of(v, i) != kNormal && type_of(v, i) != kUserDefined) continue;
    const std::string_view token = v.tokens[i];
    for (size_t cut = token.empty() ? 0 : utf8_length(token[0]); cut < token.size();
         cut += utf8_length(token[cut])) {
      const int32_t left = vocab.find(token.substr(0, cut));
      const int32_t right = left < 0 ? -1 : vocab.find(token.substr(cut));
      if (right < 0) continue;
      cuts.push_back(
          {v.scores[i], static_cast<int32_t>(i), left, right, static_cast<uint32_t>(cut)});
    }
  }
  std::stable_sort(cuts.begin(), cuts.end(), [](const Cut& a, const Cut& b) {
    if (a.score != b.score) return a.score > b.score;
    if (a.token != b.token) return a.token < b.token;
    return a.left != b.left ? a.left < b.left : a.right < b.right;
  });
  std::vector<BpeModel::Merge> merges;
  merges.reserve(cuts.size());
  for (const Cut& c : cuts) {
    const std::string_view token = v.tokens[c.token];
    merges.push_back({token.substr(0, c.left_size), token.substr(c.left_size)});
  }
  return model.add_merges(merges);
}

Status build_sentencepiece(const GgufVocab& v, TokenizerParts& parts) {
  constexpr const char* kMark = "\xE2\x96\x81";
  if (v.merges.empty() && v.scores.size() != v.tokens.size()) {
    return make_error(ErrorCode::kInvalidArgument,
                      "tokenizer.ggml.scores has {} entries, tokenizer.ggml.tokens has {}",
                      v.scores.size(), v.tokens.size());
  }
  if (std::any_of(v.scores.begin(), v.scores.end(), [](float s) { return s != s; })) {
    return make_error(ErrorCode::kInvalidArgument, "tokenizer.ggml.scores holds a NaN");
  }
  ATOM_RETURN_IF_ERROR(add_tokens(v, false, parts));
  ATOM_RETURN_IF_ERROR(v.merges.empty() ? add_scored_merges(v, parts.model)
                                        : add_merges(v, parts.model));
  parts.model.set_options(
      {.byte_fallback = true, .fuse_unk = true, .unk_id = v.unk_id.value_or(-1)});
  const bool prefix = v.add_space_prefix.value_or(true);
  if (prefix) parts.normalizer.add(PrependStep{kMark});
  parts.normalizer.add(ReplaceStep{.literal = " ", .regex = {}, .content = kMark});
  ATOM_RETURN_IF_ERROR(
      parts.decoder.add(ReplaceStage{.literal = kMark, .content = " "}, "Replace"));
  ATOM_RETURN_IF_ERROR(parts.decoder.add(ByteFallbackStage{}, "ByteFallback"));
  ATOM_RETURN_IF_ERROR(parts.decoder.add(FuseStage{}, "Fuse"));
  if (prefix) {
    ATOM_RETURN_IF_ERROR(
        parts.decoder.add(StripStage{.content = " ", .start = 1, .stop = 0}, "Strip"));
  }
  if (v.add_bos.value_or(true) && v.bos_id) parts.prefix_ids.push_back(*v.bos_id);
  if (v.add_eos.value_or(false) && v.eos_id) parts.suffix_ids.push_back(*v.eos_id);
  return {};
}

Status build(const GgufVocab& vocab, TokenizerParts& parts) {
  ATOM_RETURN_IF_ERROR(name_special_tokens(vocab, parts));
  if (vocab.model == "gpt2") return build_byte_level(vocab, parts);
  if (vocab.model == "llama") return build_sentencepiece(vocab, parts);
  return make_error(ErrorCode::kUnsupported,
                    "tokenizer.ggml.model is \"{}\"; supported are gpt2, llama", vocab.model);
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> Tokenizer::from_gguf(const GgufVocab& vocab) {
  TokenizerParts parts;
  if (const Status built = build(vocab, parts); !built)
    return make_error(built.error().code, "{}", printable(built.error().message, kMaxMessage));
  return std::make_shared<const PipelineTokenizer>(std::move(parts));
}

}  // namespace atom
