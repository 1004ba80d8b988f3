// NgramIndex: where runs of tokens occurred before in one text, for drafts by prompt lookup: what
// followed the newest tokens when they last occurred may follow again. Owned by a Sequence.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace atom {

class NgramIndex {
 public:
  // The newest min_match tokens at least must have occurred before; matches are told apart up to
  // max_match.
  NgramIndex(int min_match, int max_match) : min_match_(min_match), max_match_(max_match) {}

  // `tokens` is the whole text, whose beginning this index has seen; a constant time per new token.
  void update(std::span<const int32_t> tokens);
  // Appends to `out` at most `count` tokens that may follow `tokens`, the text as last given to
  // update(); nothing when its end never occurred before. The longest match wins, then the latest.
  // A match that overlaps the end goes on into what it proposes: a repeated text is repeated.
  void propose(std::span<const int32_t> tokens, int64_t count, std::vector<int32_t>& out) const;

 private:
  uint64_t key(std::span<const int32_t> tokens, size_t end) const;

  int min_match_;
  int max_match_;
  // Position behind the latest run of min_match tokens by hash of the run, and before[i - 1]: the
  // one before the run that ends at i; 0: none.
  std::unordered_map<uint64_t, int32_t> latest_;
  std::vector<int32_t> before_;
};

}  // namespace atom
