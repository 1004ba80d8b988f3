#include "atom/tokenizer/pre_tokenizer.h"

namespace atom {
namespace {

using Span = WordList::Span;

// Calls piece(begin, end, is_match) for the parts of text[word]: matches and what lies between.
template <class F>
void for_each_part(const SplitStage& stage, std::string_view text, Span word, const F& piece) {
  const std::string_view whole = text.substr(word.begin, word.end - word.begin);
  size_t done = 0;  // end of the last part
  size_t at = 0;
  const auto match = [&](size_t begin, size_t end) {
    if (begin > done) piece(word.begin + done, word.begin + begin, stage.invert);
    piece(word.begin + begin, word.begin + end, !stage.invert);
    done = end;
  };
  if (stage.scanner != nullptr) {
    while (at < whole.size()) {
      const size_t end = stage.scanner(whole, at);
      if (end > at) match(at, end);
      at = end > at ? end : at + utf8_length(whole[at]);
    }
  } else {
    Regex::Match m;
    while (at <= whole.size() && stage.regex->find(whole, at, m)) {
      if (m.end > m.begin) match(m.begin, m.end);
      at = m.end;
      if (m.end == m.begin) at += m.end < whole.size() ? utf8_length(whole[m.end]) : 1;
    }
  }
  if (done < whole.size()) piece(word.begin + done, word.end, stage.invert);
}

template <class F>
void for_each_part(const CharSplitStage& stage, std::string_view text, Span word, const F& piece) {
  size_t done = word.begin;
  for (size_t at = word.begin; at < word.end;) {
    const CodePoint c = decode_utf8(text.data() + at);
    const size_t end = at + c.length;
    if (contains(stage.set, char_class(c.value))) {
      if (at > done) piece(done, at, false);
      piece(at, end, true);
      done = end;
    }
    at = end;
  }
  if (done < word.end) piece(done, word.end, false);
}

// Joins matches with their neighbours as `behavior` says. `parts` alternates freely; `is_match` is
// kept in the order of parts.
class PartJoiner {
 public:
  PartJoiner(SplitBehavior behavior, std::vector<Span>& out) : behavior_(behavior), out_(out) {}

  void start_word() { first_ = out_.size(), previous_match_ = false; }
  void add(size_t begin, size_t end, bool is_match) {
    const bool has_previous = out_.size() > first_;
    bool join = false;
    switch (behavior_) {
      case SplitBehavior::kIsolated:
        break;
      case SplitBehavior::kRemoved:
        if (is_match) return;
        break;
      case SplitBehavior::kContiguous:
        join = is_match == previous_match_;
        break;
      case SplitBehavior::kMergedWithPrevious:
        join = is_match && !previous_match_;
        break;
      // Seen from the end: a match takes the part behind it unless that is a match too.
      case SplitBehavior::kMergedWithNext:
        join = previous_match_ && !is_match;
        break;
    }
    if (join && has_previous) {
      out_.back().end = end;
    } else {
      out_.push_back({begin, end});
    }
    previous_match_ = is_match;
  }

 private:
  SplitBehavior behavior_;
  std::vector<Span>& out_;
  size_t first_ = 0;
  bool previous_match_ = false;
};

template <class Stage>
void split(const Stage& stage, WordList& list) {
  list.scratch.clear();
  PartJoiner joiner(stage.behavior, list.scratch);
  for (const Span& word : list.words) {
    joiner.start_word();
    for_each_part(stage, list.text, word, [&](size_t begin, size_t end, bool is_match) {
      joiner.add(begin, end, is_match);
    });
  }
  list.words.swap(list.scratch);
}

// The buffer that list.text does not point into.
std::string& free_buffer(WordList& list) {
  return list.buffer[list.text.data() == list.buffer[0].data() ? 1 : 0];
}

void apply(const SplitStage& stage, WordList& list) { split(stage, list); }
void apply(const CharSplitStage& stage, WordList& list) { split(stage, list); }

void apply(const PrefixSpaceStage&, WordList& list) {
  std::string& out = free_buffer(list);
  out.clear();
  list.scratch.clear();
  for (const Span& word : list.words) {
    const std::string_view text = list.word(word);
    const size_t begin = out.size();
    if (text.front() != ' ') out += ' ';
    out += text;
    list.scratch.push_back({begin, out.size()});
  }
  list.text = out;
  list.words.swap(list.scratch);
}

void apply(const MetaspaceStage& stage, WordList& list) {
  using Prepend = MetaspaceStage::Prepend;
  std::string& out = free_buffer(list);
  out.clear();
  list.scratch.clear();
  const std::string_view mark = stage.replacement;
  for (const Span& word : list.words) {
    const std::string_view text = list.word(word);
    const bool marked = text.starts_with(mark) || text.front() == ' ';
    const bool wanted = stage.prepend == Prepend::kAlways ||
                        (stage.prepend == Prepend::kFirst && list.at_start && word.begin == 0);
    size_t begin = out.size();
    if (wanted && !marked) out += mark;
    for (size_t i = 0; i < text.size();) {
      const bool is_mark = text[i] == ' ' || text.substr(i).starts_with(mark);
      if (is_mark && stage.split && out.size() > begin) {
        list.scratch.push_back({begin, out.size()});
        begin = out.size();
      }
      if (is_mark) {
        out += mark;
        i += text[i] == ' ' ? 1 : mark.size();
      } else {
        const size_t n = utf8_length(text[i]);
        out.append(text, i, n);
        i += n;
      }
    }
    if (out.size() > begin) list.scratch.push_back({begin, out.size()});
  }
  list.text = out;
  list.words.swap(list.scratch);
}

}  // namespace

void PreTokenizer::add(PreStage stage) { stages_.push_back(std::move(stage)); }

void PreTokenizer::run(std::string_view text, bool at_start, WordList& list) const {
  list.text = text;
  list.at_start = at_start;
  list.words.clear();
  if (text.empty()) return;
  list.words.push_back({0, text.size()});
  for (const PreStage& stage : stages_) {
    std::visit([&](const auto& s) { apply(s, list); }, stage);
  }
}

}  // namespace atom
