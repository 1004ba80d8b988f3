#include "atom/model_engine/ngram_index.h"

#include <algorithm>

#include "atom/core/check.h"
#include "atom/core/splitmix64.h"

namespace atom {
namespace {

// Earlier runs that are compared, latest first: bounds the time where one token fills the text.
constexpr int kMaxCandidates = 32;

// How many tokens before `end` are equal to those at the end of the text, up to `most`.
int64_t match_length(std::span<const int32_t> tokens, size_t end, size_t most) {
  const size_t last = tokens.size();
  size_t length = 0;
  while (length < std::min(most, end) && tokens[end - 1 - length] == tokens[last - 1 - length]) {
    ++length;
  }
  return static_cast<int64_t>(length);
}

}  // namespace

uint64_t NgramIndex::key(std::span<const int32_t> tokens, size_t end) const {
  uint64_t hash = 0;
  for (size_t i = end - static_cast<size_t>(min_match_); i < end; ++i) {
    hash = splitmix64(hash + static_cast<uint32_t>(tokens[i]));
  }
  return hash;
}

void NgramIndex::update(std::span<const int32_t> tokens) {
  for (size_t end = before_.size() + 1; end <= tokens.size(); ++end) {
    int32_t before = 0;
    if (end >= static_cast<size_t>(min_match_)) {
      int32_t& latest = latest_[key(tokens, end)];
      before = latest;
      latest = static_cast<int32_t>(end);
    }
    before_.push_back(before);
  }
}

void NgramIndex::propose(std::span<const int32_t> tokens, int64_t count,
                         std::vector<int32_t>& out) const {
  ATOM_CHECK(before_.size() == tokens.size()) << before_.size() << " of " << tokens.size();
  if (tokens.empty() || count <= 0) {
    return;
  }
  // Equal hashes may be of other tokens: a match counts by what it is.
  int64_t longest = min_match_ - 1;
  size_t best = 0;
  size_t end = static_cast<size_t>(before_.back());
  for (int i = 0; i < kMaxCandidates && end > 0 && longest < max_match_; ++i) {
    const int64_t length = match_length(tokens, end, static_cast<size_t>(max_match_));
    if (length > longest) {
      longest = length;
      best = end;
    }
    end = static_cast<size_t>(before_[end - 1]);
  }
  if (best == 0) {
    return;
  }
  const size_t period = tokens.size() - best;
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    out.push_back(tokens[best + i % period]);
  }
}

}  // namespace atom
