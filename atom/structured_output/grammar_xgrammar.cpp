// GrammarCompiler and GrammarMatcher by the xgrammar library. Every call into it runs under a
// WorkBudget, and a compilation on a thread with a large stack: its recursion follows the grammar.
#include <dlpack/dlpack.h>
#include <xgrammar/xgrammar.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>

#include "atom/core/check.h"
#include "atom/core/printable.h"
#include "atom/structured_output/bounded_strings.h"
#include "atom/structured_output/grammar_cache.h"
#include "atom/structured_output/grammar_check.h"
#include "atom/structured_output/grammar_compiler.h"
#include "atom/structured_output/grammar_of_xgrammar.h"
#include "atom/structured_output/work_budget.h"
#include "atom/structured_output/xgrammar_logging.h"

namespace atom {
namespace {

constexpr int kJsonDepth = 256;      // of the library's own JSON parser; checked before
constexpr size_t kMaxMessage = 128;  // of the library; it may quote the text of a user

std::unexpected<Error> refuse(ErrorCode code, std::string message) {
  return std::unexpected(Error{.code = code, .message = std::move(message), .param = {}});
}

std::string one_line(std::string text) {
  while (!text.empty() && static_cast<unsigned char>(text.back()) <= ' ') text.pop_back();
  std::ranges::replace(text, '\n', ' ');
  return printable(text, kMaxMessage);
}

std::string message_of(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const std::exception& error) {
    return one_line(error.what());
  } catch (...) {
    return "unknown failure";
  }
}

struct Outcome {
  std::optional<xgrammar::CompiledGrammar> grammar;
  int64_t bytes = 0;
  std::string failure;  // when there is no grammar
  std::string warning;
  WorkBudget::Ending ending = WorkBudget::Ending::kNone;
  double seconds = 0;  // of CPU time
};

// A vocabulary in the library's form.
struct Vocabulary {
  explicit Vocabulary(xgrammar::TokenizerInfo tokens)
      : info(std::move(tokens)), compiler(info, /*max_threads=*/1, /*cache_enabled=*/false) {}
  xgrammar::TokenizerInfo info;
  xgrammar::GrammarCompiler compiler;
};

xgrammar::CompiledGrammar compile_form(Vocabulary& vocabulary, const GrammarSpec& spec,
                                       const CheckedGrammar& form) {
  return vocabulary.compiler.CompileGrammar(grammar_of(spec, form, vocabulary.info));
}

void compile_within(const GrammarLimits& limits, double seconds, Vocabulary& vocabulary,
                    const GrammarSpec& spec, const CheckedGrammar& form, Outcome& outcome) {
  outcome.warning.reserve(kMaxMessage);
  xgrammar::first_warning = &outcome.warning;
  std::exception_ptr failure;
  {
    WorkBudget budget({.cpu_seconds = seconds, .bytes = limits.compile_bytes});
    try {
      outcome.grammar.emplace(compile_form(vocabulary, spec, form));
      outcome.bytes = budget.bytes();
    } catch (...) {
      failure = std::current_exception();
    }
    outcome.ending = budget.exceeded();
    outcome.seconds = budget.seconds();
  }
  xgrammar::first_warning = nullptr;
  if (failure) {
    outcome.failure = message_of(failure);
  }
  outcome.warning = one_line(outcome.warning);
}

}  // namespace

class CompiledGrammar {
 public:
  CompiledGrammar(xgrammar::CompiledGrammar compiled, int64_t size, const GrammarLimits& bounds,
                  std::shared_ptr<std::atomic<int64_t>> live)
      : grammar(std::move(compiled)), bytes(size), limits(bounds), live_bytes(std::move(live)) {
    *live_bytes += bytes;
  }
  ~CompiledGrammar() { *live_bytes -= bytes; }

  xgrammar::CompiledGrammar grammar;
  int64_t bytes;
  GrammarLimits limits;
  std::shared_ptr<const std::vector<uint32_t>> wanted_tokens;  // nullptr: all
  std::vector<LengthBound> length_bounds;       // row i: where marker i may come next
  std::shared_ptr<const TokenLengths> lengths;  // there with length_bounds
  int64_t vocab_size = 0;

 private:
  std::shared_ptr<std::atomic<int64_t>> live_bytes;
};

struct GrammarCompiler::Impl {
  std::shared_ptr<const Tokenizer> tokenizer;
  int64_t vocab_size = 0;
  std::vector<int32_t> stop_token_ids;
  GrammarLimits limits;
  std::shared_ptr<std::atomic<int64_t>> live_bytes = std::make_shared<std::atomic<int64_t>>(0);

  // Tokens that may stand in JSON at all, [(vocab_size + 31) / 32].
  std::shared_ptr<const std::vector<uint32_t>> wanted_in_json, wanted_in_tags;
  std::shared_ptr<const TokenLengths> lengths;

  std::mutex compile_mutex;  // one compilation at a time
  std::optional<Vocabulary> vocabulary;

  mutable std::mutex cache_mutex;
  GrammarCache cache{0};
  Stats stats;

  // A set bit for every token without control characters but `allowed`. The library's strings of
  // bounded length may hold them, and JSON may not.
  std::shared_ptr<const std::vector<uint32_t>> without_controls(
      const std::vector<std::string>& tokens, std::string_view allowed) const {
    auto mask =
        std::make_shared<std::vector<uint32_t>>(static_cast<size_t>(vocab_size + 31) / 32, ~0U);
    for (size_t id = 0; id < tokens.size(); ++id) {
      if (std::ranges::any_of(tokens[id], [&](char c) {
            return static_cast<unsigned char>(c) < 0x20 &&
                   allowed.find(c) == std::string_view::npos;
          })) {
        (*mask)[id / 32] &= ~(1U << id % 32);
      }
    }
    return mask;
  }

  std::shared_ptr<const std::vector<uint32_t>> wanted(GrammarSpec::Kind kind) const {
    const bool json =
        kind == GrammarSpec::Kind::kJsonObject || kind == GrammarSpec::Kind::kJsonSchema;
    return json ? wanted_in_json
                : (kind == GrammarSpec::Kind::kStructuralTag ? wanted_in_tags : nullptr);
  }

  // The vocabulary in the library's form; made when the first grammar is compiled.
  void build_vocabulary() {
    std::vector<std::string> tokens(
        static_cast<size_t>(std::min(tokenizer->vocab_size(), vocab_size)));
    for (size_t id = 0; id < tokens.size(); ++id) {
      // An empty token never matches: the text of special tokens is not text of the answer.
      if (!tokenizer->is_special(static_cast<int32_t>(id))) {
        tokens[id] = tokenizer->token_bytes(static_cast<int32_t>(id));
      }
    }
    wanted_in_json = without_controls(tokens, "\n\r");
    wanted_in_tags = without_controls(tokens, "\n\r\t");
    lengths = std::make_shared<const TokenLengths>(tokens);
    tokens.resize(static_cast<size_t>(vocab_size));
    for (int64_t i = 0; i < kMaxLengthBounds; ++i) {
      tokens.push_back(length_marker(i));
    }
    xgrammar::SetMaxRecursionDepth(kJsonDepth);
    vocabulary.emplace(xgrammar::TokenizerInfo(tokens, xgrammar::VocabType::RAW,
                                               static_cast<int>(tokens.size()), stop_token_ids));
  }

  GrammarCache::Value compile_now(const GrammarSpec& spec, double& seconds_left) {
    ATOM_ASSIGN_OR_RETURN(CheckedGrammar form, check_grammar(spec, limits));
    if (!vocabulary) {
      build_vocabulary();
    }
    Outcome outcome;
    if (!run_on_large_stack(
            [&] { compile_within(limits, seconds_left, *vocabulary, spec, form, outcome); })) {
      return refuse(ErrorCode::kResourceExhausted, "no thread to compile the grammar on");
    }
    seconds_left = std::max(0.0, seconds_left - outcome.seconds);
    if (outcome.ending != WorkBudget::Ending::kNone) {
      return refuse(ErrorCode::kInvalidArgument,
                    outcome.ending == WorkBudget::Ending::kTime
                        ? str_format("too complex: compiling it takes more than {} s of CPU time",
                                     limits.compile_seconds)
                        : str_format("too complex: compiling it takes more than {} MiB",
                                     limits.compile_bytes >> 20));
    }
    if (!outcome.failure.empty() || !outcome.grammar) {
      return refuse(ErrorCode::kInvalidArgument, outcome.failure);
    }
    if (!outcome.warning.empty() && spec.exact) {
      return refuse(ErrorCode::kInvalidArgument, "cannot be enforced exactly: " + outcome.warning);
    }
    auto compiled = std::make_shared<CompiledGrammar>(std::move(*outcome.grammar), outcome.bytes,
                                                      limits, live_bytes);
    compiled->vocab_size = vocab_size;
    compiled->wanted_tokens = wanted(spec.kind);
    if (!form.bounds.empty()) {
      auto mask = std::make_shared<std::vector<uint32_t>>(*compiled->wanted_tokens);
      lengths->forbid_within_token(form.bounds, *mask);
      compiled->wanted_tokens = std::move(mask);
      compiled->length_bounds = std::move(form.bounds);
      compiled->lengths = lengths;
    }
    return std::shared_ptr<const CompiledGrammar>(std::move(compiled));
  }

  // Makes room among the living for `bytes` more; false when what is in use leaves none.
  bool make_room(int64_t bytes) {
    const std::lock_guard lock(cache_mutex);
    while (*live_bytes + bytes > limits.total_bytes) {
      if (!cache.drop_oldest()) {
        return false;
      }
    }
    return true;
  }

  std::optional<GrammarCache::Value> find(const std::string& key) {
    const std::lock_guard lock(cache_mutex);
    const GrammarCache::Value* const found = cache.find(key);
    if (found == nullptr) {
      return std::nullopt;
    }
    ++stats.hits;
    return *found;
  }
};

GrammarCompiler::GrammarCompiler(std::shared_ptr<const Tokenizer> tokenizer, int64_t vocab_size,
                                 std::vector<int32_t> stop_token_ids, GrammarLimits limits)
    : impl_(std::make_unique<Impl>()) {
  std::erase_if(stop_token_ids, [&](int32_t id) { return id < 0 || id >= vocab_size; });
  impl_->tokenizer = std::move(tokenizer);
  impl_->vocab_size = vocab_size;
  impl_->stop_token_ids = std::move(stop_token_ids);
  impl_->limits = limits;
  impl_->cache = GrammarCache(limits.cache_bytes);
}

GrammarCompiler::~GrammarCompiler() = default;

Result<std::shared_ptr<const CompiledGrammar>> GrammarCompiler::compile(const GrammarSpec& spec,
                                                                        double* seconds_left) {
  double all = impl_->limits.compile_seconds;
  double& seconds = seconds_left != nullptr ? *seconds_left : all;
  const bool cut = seconds < all;
  const std::string key = GrammarCache::key_of(spec);
  std::optional<GrammarCache::Value> value = impl_->find(key);
  if (!value) {
    const std::lock_guard compiling(impl_->compile_mutex);
    value = impl_->find(key);  // a caller before us may have asked for the same
    if (!value && !impl_->make_room(impl_->limits.compile_bytes)) {
      value = refuse(ErrorCode::kResourceExhausted,
                     "the grammars in use leave no memory for another one");
    } else if (!value) {
      value = impl_->compile_now(spec, seconds);
      const std::lock_guard lock(impl_->cache_mutex);
      ++impl_->stats.misses;
      // Refusals too, but not those that only the moment is to blame for.
      if (*value || (!cut && value->error().code == ErrorCode::kInvalidArgument))
        impl_->cache.put(key, *value, *value ? (**value)->bytes : 0);
    }
  }
  if (!*value) {
    value->error().param = spec.param;
    const std::lock_guard lock(impl_->cache_mutex);
    ++impl_->stats.refused;
  }
  return *std::move(value);
}

std::shared_ptr<const CompiledGrammar> GrammarCompiler::find(const GrammarSpec& spec) {
  const std::optional<GrammarCache::Value> value = impl_->find(GrammarCache::key_of(spec));
  return value && *value ? **value : nullptr;
}

GrammarCompiler::Stats GrammarCompiler::stats() const {
  const std::lock_guard lock(impl_->cache_mutex);
  Stats out = impl_->stats;
  out.num_cached = impl_->cache.size();
  out.cached_bytes = impl_->cache.bytes();
  out.live_bytes = *impl_->live_bytes;
  return out;
}

struct GrammarMatcher::Impl {
  std::shared_ptr<const CompiledGrammar> grammar;
  xgrammar::GrammarMatcher matcher;
  std::vector<uint32_t> mask;
  std::vector<uint32_t> library_mask;  // of the tokens and the markers behind them
  StringPosition position;
  double seconds_left = 0;
  int64_t bytes_left = 0;
  bool dead = false;

  // Runs a call of the matcher under what this sequence and its step have left.
  template <class Call>
  Status within_budget(GrammarStepBudget* step, Call call) {
    ATOM_CHECK(!dead) << "a matcher is used after its error";
    std::exception_ptr failure;
    WorkBudget::Ending ending{};
    const double step_share =
        step != nullptr ? step->seconds_each + step->seconds_left / 2 : seconds_left;
    {
      WorkBudget budget({.cpu_seconds = std::min(seconds_left, step_share), .bytes = bytes_left});
      try {
        call();
      } catch (...) {
        failure = std::current_exception();
      }
      const double seconds = budget.seconds();
      if (step != nullptr) {
        step->seconds_spent += seconds;
        step->seconds_left =
            std::max(0.0, step->seconds_left - std::max(0.0, seconds - step->seconds_each));
      }
      bytes_left -= budget.bytes();
      seconds_left = std::min(grammar->limits.matcher_seconds,
                              seconds_left - seconds + grammar->limits.matcher_seconds_per_token);
      ending = budget.exceeded();
    }
    if (!failure && ending == WorkBudget::Ending::kNone) {
      return {};
    }
    dead = true;
    if (ending != WorkBudget::Ending::kNone) {
      return refuse(ErrorCode::kResourceExhausted,
                    "the grammar of this request is too costly to follow");
    }
    return refuse(ErrorCode::kInternal, "grammar: " + message_of(failure));
  }

  void fill() {
    if (matcher.IsTerminated()) {
      std::ranges::fill(mask, 0U);
      return;
    }
    auto words = static_cast<int64_t>(library_mask.size());
    DLTensor tensor{.data = library_mask.data(),
                    .device = {.device_type = kDLCPU, .device_id = 0},
                    .ndim = 1,
                    .dtype = {.code = kDLInt, .bits = 32, .lanes = 1},
                    .shape = &words,
                    .strides = nullptr,
                    .byte_offset = 0};
    matcher.FillNextTokenBitmask(&tensor);
    std::ranges::copy_n(library_mask.begin(), static_cast<int64_t>(mask.size()), mask.begin());
    const auto tail = static_cast<uint32_t>(grammar->vocab_size % 32);
    mask.back() &= tail == 0 ? ~0U : (1U << tail) - 1;
    if (grammar->wanted_tokens) {
      std::ranges::transform(mask, *grammar->wanted_tokens, mask.begin(), std::bit_and<>());
    }
    keep_bounds();
  }

  // What the bounded strings that the text may be in leave. Where it may be in several (anyOf), it
  // keeps to the bounds of all, so that it fits whichever goes on; within a character no marker
  // tells, and it keeps to the bounds of the grammar.
  void keep_bounds() {
    const std::vector<LengthBound>& all = grammar->length_bounds;
    std::vector<LengthBound> here;
    for (size_t i = 0; i < all.size(); ++i) {
      const size_t bit = static_cast<size_t>(grammar->vocab_size) + i;
      if ((library_mask[bit / 32] >> bit % 32 & 1U) != 0) here.push_back(all[i]);
    }
    if (here.empty() && position.missing > 0) here = all;
    if (!here.empty()) grammar->lengths->forbid_next(tightest(here), position.length, mask);
  }

  void follow_length(int32_t token_id) {
    if (!grammar->length_bounds.empty()) {
      const xgrammar::TokenizerInfo vocabulary = grammar->grammar.GetTokenizerInfo();
      position.follow(vocabulary.GetDecodedVocab()[static_cast<size_t>(token_id)]);
    }
  }
};

GrammarMatcher::GrammarMatcher(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GrammarMatcher::~GrammarMatcher() = default;
GrammarMatcher::GrammarMatcher(GrammarMatcher&&) noexcept = default;
GrammarMatcher& GrammarMatcher::operator=(GrammarMatcher&&) noexcept = default;

GrammarMatcher::GrammarMatcher(std::shared_ptr<const CompiledGrammar> grammar) {
  const xgrammar::TokenizerInfo vocabulary = grammar->grammar.GetTokenizerInfo();
  const bool no_stop_token = vocabulary.GetStopTokenIds().empty();
  xgrammar::GrammarMatcher matcher(grammar->grammar, std::nullopt, no_stop_token);
  impl_ = std::make_unique<Impl>(
      Impl{.grammar = grammar,
           .matcher = std::move(matcher),
           .mask = std::vector<uint32_t>(static_cast<size_t>(grammar->vocab_size + 31) / 32),
           .library_mask = std::vector<uint32_t>(
               static_cast<size_t>(xgrammar::GetBitmaskSize(vocabulary.GetVocabSize()))),
           .seconds_left = grammar->limits.matcher_seconds,
           .bytes_left = grammar->limits.matcher_bytes});
}

std::span<const uint32_t> GrammarMatcher::mask() const { return impl_->mask; }

Status GrammarMatcher::start() {
  ATOM_RETURN_IF_ERROR(impl_->within_budget(nullptr, [&] { impl_->fill(); }));
  if (!allows_other_than({}) && !terminated()) {
    return refuse(ErrorCode::kInvalidArgument, "no text of this vocabulary satisfies it");
  }
  return {};
}

Status GrammarMatcher::advance(int32_t token_id, GrammarStepBudget* step) {
  bool accepted = false;
  ATOM_RETURN_IF_ERROR(impl_->within_budget(step, [&] {
    accepted = impl_->matcher.AcceptToken(token_id);
    if (accepted) {
      impl_->follow_length(token_id);
      impl_->fill();
    }
  }));
  if (!accepted) {
    return refuse(ErrorCode::kInternal,
                  str_format("grammar: token {} was drawn but is not allowed", token_id));
  }
  if (!terminated() && !allows_other_than({})) {
    return refuse(ErrorCode::kInvalidArgument,
                  "no token of this vocabulary continues the text as the grammar demands");
  }
  return {};
}

bool GrammarMatcher::terminated() const { return impl_->matcher.IsTerminated(); }

bool GrammarMatcher::allows_other_than(std::span<const int32_t> ids) const {
  size_t banned = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto id = static_cast<size_t>(ids[i]);
    const bool repeated = std::ranges::find(ids.first(i), ids[i]) != ids.first(i).end();
    banned += !repeated && (impl_->mask[id / 32] >> (id % 32) & 1U) != 0 ? 1 : 0;
  }
  size_t allowed = 0;
  for (const uint32_t word : impl_->mask) {
    allowed += static_cast<size_t>(std::popcount(word));
    if (allowed > banned) {
      return true;
    }
  }
  return false;
}

GrammarMatcher GrammarMatcher::fork() const {
  ATOM_CHECK(!impl_->dead);
  Impl copy{.grammar = impl_->grammar,
            .matcher = impl_->matcher.Fork(),
            .mask = impl_->mask,
            .library_mask = impl_->library_mask,
            .position = impl_->position,
            .seconds_left = impl_->seconds_left,
            .bytes_left = impl_->bytes_left};
  return GrammarMatcher(std::make_unique<Impl>(std::move(copy)));
}

}  // namespace atom
