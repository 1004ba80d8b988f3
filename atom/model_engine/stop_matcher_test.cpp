#include "atom/model_engine/stop_matcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <random>

namespace atom {
namespace {

struct Outcome {
  std::string text;
  std::string matched;  // empty: none
  bool operator==(const Outcome&) const = default;
};

// What the matcher must do, written to be read: the earliest end wins, then the longest.
Outcome reference(const std::string& text, const std::vector<std::string>& stops, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    const std::string* best = nullptr;
    for (const std::string& stop : stops) {
      if (!stop.empty() && stop.size() <= end &&
          text.compare(end - stop.size(), stop.size(), stop) == 0 &&
          (best == nullptr || stop.size() > best->size())) {
        best = &stop;
      }
    }
    if (best != nullptr) {
      return {.text = text.substr(0, end - (include ? 0 : best->size())), .matched = *best};
    }
  }
  return {.text = text, .matched = ""};
}

std::string random_text(std::mt19937& random, size_t length) {
  std::string text(length, 'a');
  std::ranges::generate(text, [&] { return static_cast<char>('a' + random() % 2); });
  return text;
}

TEST(StopMatcher, EqualsTheReferenceHoweverTheTextIsCut) {
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops(random() % 4);
    std::ranges::generate(stops, [&] { return random_text(random, random() % 6); });
    const std::string text = random_text(random, random() % 40);
    const bool include = random() % 2 == 0;
    StopMatcher matcher(std::make_shared<const StopStrings>(stops));
    Outcome outcome;
    bool stopped = false;
    for (size_t at = 0; at < text.size() && !stopped;) {
      const size_t size = std::min<size_t>(text.size() - at, random() % 5);
      stopped = matcher.append(text.substr(at, size), include, outcome.text);
      at += size;
      if (stopped) {
        outcome.matched = matcher.matched();
        break;
      }
      // Only what may still become a stop string is held back.
      const std::string seen = text.substr(0, at);
      const std::string held = seen.substr(outcome.text.size());
      ASSERT_TRUE(held.empty() || std::ranges::any_of(stops,
                                                      [&](const std::string& stop) {
                                                        return held.size() < stop.size() &&
                                                               stop.starts_with(held);
                                                      }))
          << "held '" << held << "' of '" << seen << "'";
    }
    if (!stopped) {
      matcher.flush(outcome.text);
    }
    ASSERT_EQ(outcome, reference(text, stops, include)) << "text " << text << " round " << round;
  }
}

TEST(StopMatcher, NeverEmitsTextThatBelongsToTheStopString) {
  StopMatcher matcher(
      std::make_shared<const StopStrings>(std::vector<std::string>{"</s>", "\n\n"}));
  std::string out;
  for (const char* piece : {"a<", "/", "s", "<", "/s"}) {
    EXPECT_FALSE(matcher.append(piece, false, out));
  }
  EXPECT_EQ(out, "a</s");
  EXPECT_TRUE(matcher.append("> tail", false, out));
  EXPECT_EQ(out, "a</s");
  EXPECT_EQ(matcher.matched(), "</s>");
}

TEST(StopMatcher, IsLinearOnRepetitiveText) {
  // Quadratic work would be 10^10 steps here.
  StopMatcher matcher(std::make_shared<const StopStrings>(
      std::vector<std::string>{std::string(100'000, 'a') + "b"}));
  std::string out;
  for (int i = 0; i < 200'000; ++i) {
    ASSERT_FALSE(matcher.append("a", false, out));
  }
  matcher.flush(out);
  EXPECT_EQ(out.size(), 200'000U);
}

}  // namespace
}  // namespace atom
