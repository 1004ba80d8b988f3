#include "atom/entrypoints/parsers/text_pieces.h"

#include <algorithm>
#include <utility>

#include "atom/core/check.h"
#include "atom/entrypoints/parsers/output_parser.h"

namespace atom::parsers {
namespace {

constexpr std::string_view kSpaces = " \t\r\n";

}  // namespace

TagFinder::TagFinder(std::string_view tag) : tag_(tag) {
  ATOM_CHECK(!tag.empty() && tag.find(tag[0], 1) == std::string_view::npos);
}

bool TagFinder::push(std::string_view& text, std::string& before) {
  while (!text.empty()) {
    if (matched_ == 0) {
      const size_t at = std::min(text.find(tag_[0]), text.size());
      before.append(text, 0, at);
      text.remove_prefix(at);
    }
    while (!text.empty() && matched_ < tag_.size() && text[0] == tag_[matched_]) {
      ++matched_;
      text.remove_prefix(1);
    }
    if (matched_ == tag_.size()) {
      matched_ = 0;
      return true;
    }
    if (!text.empty()) before += flush();  // text[0] may begin the tag: the next round looks
  }
  return false;
}

std::string_view TagFinder::flush() { return tag_.substr(0, std::exchange(matched_, 0)); }

void EdgeTrimmer::push(std::string_view text, std::string& out) {
  const size_t first = std::min(text.find_first_not_of(kSpaces), text.size());
  held_ += text.substr(0, first);
  if (first == text.size()) return;
  if (at_cut_ && !any_) held_.erase(0, held_.find_first_not_of('\n'));
  out += held_;
  const size_t end = text.find_last_not_of(kSpaces) + 1;
  out += text.substr(first, end - first);
  held_ = text.substr(end);
  at_cut_ = false;
  any_ = true;
}

void EdgeTrimmer::cut() {
  held_.clear();
  at_cut_ = true;
}

void EdgeTrimmer::finish(std::string& out) {
  if (!at_cut_) out += held_;
  held_.clear();
}

void ParsedText::begin_call(int32_t index, std::string name, std::string id) {
  calls.push_back({.index = index,
                   .first = true,
                   .id = std::move(id),
                   .name = std::move(name),
                   .arguments = {}});
}

void ParsedText::add_arguments(int32_t index, std::string_view fragment) {
  if (fragment.empty()) return;
  if (calls.empty() || calls.back().index != index) calls.push_back({.index = index});
  calls.back().arguments += fragment;
}

}  // namespace atom::parsers
