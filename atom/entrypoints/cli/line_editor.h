// LineEditor: one line from the user. On a terminal with editing keys and an in-memory history;
// otherwise plain lines of stdin. Owns the terminal's mode only while read_line runs. One thread.
#pragma once

#include <string>
#include <vector>

namespace atom::cli {

enum class LineEnd {
  kLine,       // `line` is complete
  kInterrupt,  // Ctrl-C
  kEnd,        // Ctrl-D on an empty line, or the end of stdin
};

class LineEditor {
 public:
  LineEditor();
  // `prompt` is shown on a terminal only; it has no control characters.
  LineEnd read_line(const std::string& prompt, std::string& line);
  void add_history(std::string entry);
  bool is_terminal() const { return terminal_; }

 private:
  LineEnd read_plain(std::string& line);
  LineEnd edit(const std::string& prompt, std::string& line);

  bool terminal_;
  std::string pending_;  // bytes of stdin after the last line
  bool at_end_ = false;
  std::vector<std::string> history_;
};

// The state of one line being edited: text in UTF-8 and a cursor on a character boundary. No I/O,
// so that it can be tested key by key.
class EditBuffer {
 public:
  const std::string& text() const { return text_; }
  size_t cursor() const { return cursor_; }
  void set(std::string text);
  void insert(const std::string& bytes);
  void move_left();
  void move_right();
  void move_word_left();
  void move_word_right();
  void move_home() { cursor_ = 0; }
  void move_end() { cursor_ = text_.size(); }
  void erase_before();       // Backspace
  void erase_at();           // Delete
  void erase_word_before();  // Ctrl-W
  void erase_to_start();     // Ctrl-U
  void erase_to_end();       // Ctrl-K
  // What a row of `columns` cells shows, scrolled so that the cursor is in it, and the cursor's
  // cell.
  std::string visible(size_t columns, size_t& cursor_column) const;

 private:
  size_t previous(size_t at) const;
  size_t next(size_t at) const;
  std::string text_;
  size_t cursor_ = 0;
};

}  // namespace atom::cli
