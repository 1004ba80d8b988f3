// Small parts of which output parsers are made, for text that arrives in pieces: finding a tag, and
// keeping back spaces that may turn out to belong to the format. Each takes time linear in the
// text.
#pragma once

#include <string>
#include <string_view>

namespace atom::parsers {

// Finds a tag whose first byte does not occur in it again.
class TagFinder {
 public:
  explicit TagFinder(std::string_view tag);
  // Takes from the front of `text`, up to and with the tag; what cannot be part of it goes to
  // `before`. True when the tag is complete; `text` is what follows. Otherwise `text` is used up.
  bool push(std::string_view& text, std::string& before);
  // The beginning of a tag that is being held back; forgotten.
  std::string_view flush();

 private:
  std::string_view tag_;  // of static storage
  size_t matched_ = 0;
};

// Gives text on without the spaces at an edge where the format itself writes some.
class EdgeTrimmer {
 public:
  void push(std::string_view text, std::string& out);
  // The format goes on here (a tool call): spaces before this point are its own, and those after it
  // too if no more text follows; at the beginning of all text, newlines after it.
  void cut();
  // The text is over.
  void finish(std::string& out);

 private:
  std::string held_;     // spaces at the end so far
  bool at_cut_ = false;  // nothing but spaces since cut()
  bool any_ = false;     // something was given out
};

constexpr bool is_json_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

}  // namespace atom::parsers
