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
      if (state == pattern.text.size() &&
          (!found || state > strings_->patterns_[matched_].text.size())) {
        found = true;
        matched_ = p;
      }
      longest = std::max(longest, state);
    }
    if (found) {
      held_ += text.substr(0, i + 1);
      give_out(held_.size() - (include_stop ? 0 : matched().size()), out);
      held_.clear();
      held_begin_ = 0;
      return true;
    }
  }
  held_ += text;
  if (!text.empty()) {
    give_out(held_.size() - longest, out);
  }
  return false;
}

void StopMatcher::give_out(size_t end, std::string& out) {
  out.append(held_, held_begin_, end - held_begin_);
  held_begin_ = end;
  if (2 * held_begin_ >= held_.size()) {
    held_.erase(0, held_begin_);
    held_begin_ = 0;
  }
}

void StopMatcher::flush(std::string& out) {
  give_out(held_.size(), out);
  std::ranges::fill(states_, 0);
}

}  // namespace atom
