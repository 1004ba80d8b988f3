// EditBuffer: cursor movement and deletion over whole UTF-8 characters, and what fits into one row.
#include <utf8proc.h>

#include <utility>

#include "atom/entrypoints/cli/line_editor.h"

namespace atom::cli {
namespace {

bool continues(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

// Cells of the character that starts at `at`; combining marks take none.
size_t cells_at(const std::string& text, size_t at) {
  utf8proc_int32_t code = 0;
  const auto length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                                       static_cast<utf8proc_ssize_t>(text.size() - at), &code);
  if (length <= 0) return 1;
  const int width = utf8proc_charwidth(code);
  return width < 0 ? 0 : static_cast<size_t>(width);
}

bool is_space(char c) { return c == ' ' || c == '\t'; }

}  // namespace

void EditBuffer::set(std::string text) {
  text_ = std::move(text);
  cursor_ = text_.size();
}

void EditBuffer::insert(const std::string& bytes) {
  text_.insert(cursor_, bytes);
  cursor_ += bytes.size();
}

// Combining marks move with the character before them.
size_t EditBuffer::previous(size_t at) const {
  while (at > 0) {
    --at;
    if (!continues(text_[at]) && (cells_at(text_, at) > 0 || at == 0)) break;
  }
  return at;
}

size_t EditBuffer::next(size_t at) const {
  if (at >= text_.size()) return text_.size();
  do {
    ++at;
  } while (at < text_.size() && (continues(text_[at]) || cells_at(text_, at) == 0));
  return at;
}

void EditBuffer::move_left() { cursor_ = previous(cursor_); }
void EditBuffer::move_right() { cursor_ = next(cursor_); }

void EditBuffer::move_word_left() {
  while (cursor_ > 0 && is_space(text_[cursor_ - 1])) --cursor_;
  while (cursor_ > 0 && !is_space(text_[cursor_ - 1])) --cursor_;
}

void EditBuffer::move_word_right() {
  while (cursor_ < text_.size() && is_space(text_[cursor_])) ++cursor_;
  while (cursor_ < text_.size() && !is_space(text_[cursor_])) ++cursor_;
}

void EditBuffer::erase_before() {
  const size_t start = previous(cursor_);
  text_.erase(start, cursor_ - start);
  cursor_ = start;
}

void EditBuffer::erase_at() { text_.erase(cursor_, next(cursor_) - cursor_); }

void EditBuffer::erase_word_before() {
  const size_t end = cursor_;
  move_word_left();
  text_.erase(cursor_, end - cursor_);
}

void EditBuffer::erase_to_start() {
  text_.erase(0, cursor_);
  cursor_ = 0;
}

void EditBuffer::erase_to_end() { text_.erase(cursor_); }

std::string EditBuffer::visible(size_t columns, size_t& cursor_column) const {
  // The window starts as far left as it can while the cursor still fits.
  size_t start = cursor_;
  size_t used = 0;
  while (start > 0) {
    const size_t before = previous(start);
    const size_t width = cells_at(text_, before);
    if (used + width >= columns) break;
    used += width;
    start = before;
  }
  cursor_column = used;
  size_t end = cursor_;
  while (end < text_.size()) {
    const size_t width = cells_at(text_, end);
    if (used + width >= columns) break;
    used += width;
    end = next(end);
  }
  return text_.substr(start, end - start);
}

}  // namespace atom::cli
