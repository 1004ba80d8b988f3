#include "atom/model_engine/ngram_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace atom {
namespace {

using Tokens = std::vector<int32_t>;

Tokens proposed(const Tokens& text, int min_match, int max_match, int64_t count) {
  NgramIndex index(min_match, max_match);
  index.update(text);
  Tokens out;
  index.propose(text, count, out);
  return out;
}

TEST(NgramIndex, ProposesWhatFollowedBefore) {
  EXPECT_EQ(proposed({1, 2, 3, 4, 5, 1, 2}, 2, 4, 2), (Tokens{3, 4}));
  EXPECT_EQ(proposed({1, 2, 3, 4, 5, 2, 1}, 2, 4, 2), Tokens());      // never stood there
  EXPECT_EQ(proposed({7, 1, 2, 8, 1, 2}, 2, 4, 1), Tokens{8});        // one occurrence
  EXPECT_EQ(proposed({1, 2, 8, 1, 2, 9, 1, 2}, 2, 4, 1), Tokens{9});  // the latest of two
  // The longer match, though older.
  EXPECT_EQ(proposed({5, 1, 2, 8, 6, 1, 2, 9, 5, 1, 2}, 2, 4, 1), Tokens{8});
  EXPECT_EQ(proposed({5, 1, 2, 8, 6, 1, 2, 9, 5, 1, 2}, 2, 2, 1), Tokens{9});
}

TEST(NgramIndex, RepeatsWhatRepeats) {
  EXPECT_EQ(proposed({1, 2, 1, 2, 1, 2}, 2, 4, 5), (Tokens{1, 2, 1, 2, 1}));
  EXPECT_EQ(proposed({3, 3, 3, 3}, 2, 4, 4), (Tokens{3, 3, 3, 3}));
}

TEST(NgramIndex, ShortTextsAndNoCount) {
  EXPECT_EQ(proposed({}, 1, 4, 3), Tokens());
  EXPECT_EQ(proposed({1}, 2, 4, 3), Tokens());
  EXPECT_EQ(proposed({1, 1}, 1, 4, 0), Tokens());
  EXPECT_EQ(proposed({1, 1}, 1, 4, 2), (Tokens{1, 1}));
}

// Every earlier end of a run that equals the text's end, by brute force.
Tokens oracle(const Tokens& text, int min_match, int max_match, int64_t count) {
  int64_t longest = min_match - 1;
  size_t best = 0;
  for (size_t end = text.size() - 1; end > 0; --end) {
    int64_t length = 0;
    while (length < max_match && length < static_cast<int64_t>(end) &&
           text[end - 1 - static_cast<size_t>(length)] ==
               text[text.size() - 1 - static_cast<size_t>(length)]) {
      ++length;
    }
    if (length > longest) {
      longest = length;
      best = end;
    }
  }
  Tokens out;
  Tokens grown = text;
  for (int64_t i = 0; best > 0 && i < count; ++i) {
    out.push_back(grown[best + static_cast<size_t>(i)]);
    grown.push_back(out.back());
  }
  return out;
}

TEST(NgramIndex, EqualsBruteForceWhileTheTextGrows) {
  std::mt19937 random(7);
  size_t found = 0;
  for (int round = 0; round < 60; ++round) {
    const int min_match = 1 + round % 3;
    const int max_match = min_match + static_cast<int>(random() % 4);
    NgramIndex index(min_match, max_match);
    Tokens text;
    for (int step = 0; step < 25; ++step) {  // fewer occurrences than are looked at
      text.push_back(static_cast<int32_t>(random() % 4));
      index.update(text);
      Tokens out;
      index.propose(text, 6, out);
      EXPECT_EQ(out, oracle(text, min_match, max_match, 6)) << round << " " << step;
      found += out.size();
    }
  }
  EXPECT_GT(found, 100U);
}

TEST(NgramIndex, LooksAtFewOfManyOccurrences) {
  Tokens text(200000, 5);
  text.push_back(6);
  text.insert(text.end(), 100, 5);
  NgramIndex index(1, 16);
  index.update(text);
  Tokens out;
  for (int i = 0; i < 10000; ++i) {
    out.clear();
    index.propose(text, 4, out);
  }
  EXPECT_EQ(out, (Tokens{5, 5, 5, 5}));
}

}  // namespace
}  // namespace atom
