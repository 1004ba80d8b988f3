#include "atom/model_engine/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace atom {

StopStrings::StopStrings(const std::vector<std::string>& strings) {
  for (const std::string& text : strings) {
    if (text.empty()) {
      continue;
    }
    Pattern pattern{.text = text, .failure = std::vector<uint32_t>(text.size())};
    uint32_t border = 0;
    for (size_t i = 1; i < text.size(); ++i) {
      while (border > 0 && text[i] != text[border]) {
        border = pattern.failure[border - 1];
      }
      border += text[i] == text[border] ? 1 : 0;
      pattern.failure[i] = border;
    }
    patterns_.push_back(std::move(pattern));
  }
}

StopMatcher::StopMatcher(std::shared_ptr<const StopStrings> strings)
    : strings_(std::move(strings)), states_(strings_->patterns_.size()) {}

bool StopMatcher::append(std::string_view text, bool include_stop, std::string& out) {
  if (strings_->empty()) {
    out += text;
    return false;
  }
  uint32_t longest = 0;  // of the prefixes that end at the current byte
  for (size_t i = 0; i < text.size(); ++i) {
    longest = 0;
    bool found = false;
    for (size_t p = 0; p < states_.size(); ++p) {
      const StopStrings::Pattern& pattern = strings_->patterns_[p];
      uint32_t& state = states_[p];
      while (state > 0 && text[i] != pattern.text[state]) {
        state = pattern.failure[state - 1];
      }
      state += text[i] == pattern.text[state] ? 1 : 0;
      if (state == pattern.text.size() && (!found || state > strings_->patterns_[matched_].text.size())) {
        found = true;
        matched_ = p;
      }
      longest = std::max(longest, state);
    }
    if (found) {
      held_ += text.substr(0, i + 1);
      out += std::string_view(held_).substr(0, held_.size() - (include_stop ? 0 : matched().size()));
      held_.clear();
      return true;
    }
  }
  held_ += text;
  const size_t certain = held_.size() - std::min<size_t>(held_.size(), longest);
  if (!text.empty()) {
    out.append(held_, 0, certain);
    held_.erase(0, certain);
  }
  return false;
}

void StopMatcher::flush(std::string& out) {
  out += held_;
  held_.clear();
  std::ranges::fill(states_, 0);
}

}  // namespace atom
