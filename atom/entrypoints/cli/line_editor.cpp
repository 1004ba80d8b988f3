// The terminal side of LineEditor: raw mode, keys, redrawing one row.
#include "atom/entrypoints/cli/line_editor.h"

#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "atom/entrypoints/cli/terminal.h"

namespace atom::cli {
namespace {

constexpr size_t kMaxHistory = 1000;
constexpr size_t kMaxLineBytes = 1U << 20;

enum Key : int {
  kCtrlA = 1,
  kCtrlB,
  kCtrlC,
  kCtrlD,
  kCtrlE,
  kCtrlF,
  kCtrlH = 8,
  kTab,
  kNewline = 10,
  kCtrlK,
  kCtrlL,
  kReturn,
  kCtrlN,
  kCtrlP = 16,
  kCtrlU = 21,
  kCtrlW = 23,
  kEscape = 27,
  kBackspace = 127
};

class RawMode {
 public:
  RawMode() {
    if (tcgetattr(STDIN_FILENO, &saved_) != 0) return;
    termios raw = saved_;
    raw.c_iflag &= ~static_cast<tcflag_t>(BRKINT | ICRNL | INPCK | ISTRIP | IXON);
    raw.c_lflag &= ~static_cast<tcflag_t>(ECHO | ICANON | IEXTEN | ISIG);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    active_ = tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0;
  }
  ~RawMode() {
    if (active_) tcsetattr(STDIN_FILENO, TCSADRAIN, &saved_);
  }
  RawMode(const RawMode&) = delete;
  RawMode& operator=(const RawMode&) = delete;

 private:
  termios saved_{};
  bool active_ = false;
};

size_t terminal_columns() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 20) return 80;
  return size.ws_col;
}

bool draw(const std::string& prompt, const EditBuffer& buffer) {
  size_t cursor_column = 0;
  const std::string row = buffer.visible(terminal_columns() - prompt.size(), cursor_column);
  return write_out(
      str_format("\r{}{}\x1b[K\r\x1b[{}C", prompt, harmless(row), prompt.size() + cursor_column));
}

// One byte, or -1 at the end of input.
int read_byte() {
  unsigned char byte = 0;
  while (true) {
    const ssize_t got = read(STDIN_FILENO, &byte, 1);
    if (got == 1) return byte;
    if (got < 0 && errno == EINTR) continue;
    return -1;
  }
}

// The rest of an escape sequence as "[D", "[1;5C", "OH"; unknown ones are swallowed by the caller.
std::string read_escape() {
  std::string sequence;
  const int first = read_byte();
  if (first < 0) return sequence;
  sequence += static_cast<char>(first);
  if (first != '[' && first != 'O') return sequence;
  for (int i = 0; i < 16; ++i) {
    const int byte = read_byte();
    if (byte < 0) break;
    sequence += static_cast<char>(byte);
    if (byte >= 0x40) break;
  }
  return sequence;
}

// A whole UTF-8 character that starts with `lead`.
std::string read_character(int lead) {
  std::string bytes(1, static_cast<char>(lead));
  const int more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
  for (int i = 0; i < more; ++i) {
    const int byte = read_byte();
    if (byte < 0) break;
    bytes += static_cast<char>(byte);
  }
  return bytes;
}

void apply_escape(const std::string& sequence, EditBuffer& buffer) {
  if (sequence == "[D") buffer.move_left();
  if (sequence == "[C") buffer.move_right();
  if (sequence == "[H" || sequence == "OH" || sequence == "[1~") buffer.move_home();
  if (sequence == "[F" || sequence == "OF" || sequence == "[4~") buffer.move_end();
  if (sequence == "[3~") buffer.erase_at();
  if (sequence == "[1;5D" || sequence == "b") buffer.move_word_left();
  if (sequence == "[1;5C" || sequence == "f") buffer.move_word_right();
}

void apply_key(int key, EditBuffer& buffer) {
  switch (key) {
    case kCtrlA:
      return buffer.move_home();
    case kCtrlE:
      return buffer.move_end();
    case kCtrlB:
      return buffer.move_left();
    case kCtrlF:
      return buffer.move_right();
    case kCtrlH:
    case kBackspace:
      return buffer.erase_before();
    case kCtrlK:
      return buffer.erase_to_end();
    case kCtrlU:
      return buffer.erase_to_start();
    case kCtrlW:
      return buffer.erase_word_before();
    case kTab:
      return buffer.insert("  ");
    default:
      if (key >= 0x20 && buffer.text().size() < kMaxLineBytes) buffer.insert(read_character(key));
  }
}

// Up and down through earlier lines; the line being typed is kept as the newest.
class HistoryWalk {
 public:
  explicit HistoryWalk(std::vector<std::string> entries) : entries_(std::move(entries)) {
    entries_.emplace_back();
    at_ = entries_.size() - 1;
  }
  void move(int step, EditBuffer& buffer) {
    const bool possible = step < 0 ? at_ > 0 : at_ + 1 < entries_.size();
    if (!possible) return;
    entries_[at_] = buffer.text();
    at_ = step < 0 ? at_ - 1 : at_ + 1;
    buffer.set(entries_[at_]);
  }

 private:
  std::vector<std::string> entries_;
  size_t at_ = 0;
};

}  // namespace

LineEditor::LineEditor()
    : terminal_(cli::is_terminal(STDIN_FILENO) && cli::is_terminal(STDOUT_FILENO)) {}

LineEnd LineEditor::read_line(const std::string& prompt, std::string& line) {
  line.clear();
  return terminal_ ? edit(prompt, line) : read_plain(line);
}

void LineEditor::add_history(std::string entry) {
  if (entry.empty() || (!history_.empty() && history_.back() == entry)) return;
  history_.push_back(std::move(entry));
  if (history_.size() > kMaxHistory) history_.erase(history_.begin());
}

LineEnd LineEditor::read_plain(std::string& line) {
  while (true) {
    const size_t end = pending_.find('\n');
    if (end != std::string::npos || (at_end_ && !pending_.empty())) {
      line = pending_.substr(0, end);
      pending_.erase(0, end == std::string::npos ? end : end + 1);
      if (line.ends_with('\r')) line.pop_back();
      return LineEnd::kLine;
    }
    if (at_end_) return LineEnd::kEnd;
    char buffer[4096];
    const ssize_t got = read(STDIN_FILENO, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) {
      if (interrupted()) return LineEnd::kInterrupt;
      continue;
    }
    if (got <= 0) {
      at_end_ = true;
    } else {
      pending_.append(buffer, static_cast<size_t>(got));
    }
  }
}

LineEnd LineEditor::edit(const std::string& prompt, std::string& line) {
  const RawMode raw;
  EditBuffer buffer;
  HistoryWalk history(history_);
  while (true) {
    if (!draw(prompt, buffer)) return LineEnd::kEnd;
    const int key = read_byte();
    if (key == kReturn || key == kNewline) break;
    if (key < 0 || (key == kCtrlD && buffer.text().empty())) {
      (void)write_out("\n");
      return LineEnd::kEnd;
    }
    if (key == kCtrlC) return write_out("^C\n") ? LineEnd::kInterrupt : LineEnd::kEnd;
    const std::string escape = key == kEscape ? read_escape() : std::string();
    if (escape == "[A" || key == kCtrlP) {
      history.move(-1, buffer);
    } else if (escape == "[B" || key == kCtrlN) {
      history.move(1, buffer);
    } else if (key == kCtrlL) {
      if (!write_out("\x1b[H\x1b[2J")) return LineEnd::kEnd;
    } else if (key == kCtrlD) {
      buffer.erase_at();
    } else if (key == kEscape) {
      apply_escape(escape, buffer);
    } else {
      apply_key(key, buffer);
    }
  }
  line = buffer.text();
  return write_out("\n") ? LineEnd::kLine : LineEnd::kEnd;
}

}  // namespace atom::cli
