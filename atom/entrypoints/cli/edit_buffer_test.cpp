// EditBuffer key by key: whole characters, words, wide characters and the scrolled view.
#include <gtest/gtest.h>

#include "atom/entrypoints/cli/line_editor.h"
#include "atom/entrypoints/cli/terminal.h"

namespace atom::cli {
namespace {

EditBuffer with(const std::string& text) {
  EditBuffer buffer;
  buffer.set(text);
  return buffer;
}

TEST(EditBuffer, MovesAndErasesWholeCharacters) {
  EditBuffer buffer = with("aé你e\u0301");  // the last one is e with a combining accent
  buffer.move_left();
  EXPECT_EQ(buffer.cursor(), std::string("aé你").size());
  buffer.erase_before();
  EXPECT_EQ(buffer.text(), "aée\u0301");
  buffer.erase_at();
  EXPECT_EQ(buffer.text(), "aé");
  buffer.move_home();
  buffer.move_left();
  buffer.erase_before();
  EXPECT_EQ(buffer.text(), "aé");
  buffer.move_right();
  buffer.insert("ß");
  EXPECT_EQ(buffer.text(), "aßé");
  buffer.move_end();
  buffer.move_right();
  buffer.erase_at();
  EXPECT_EQ(buffer.text(), "aßé");
}

TEST(EditBuffer, Words) {
  EditBuffer buffer = with("one two  three");
  buffer.erase_word_before();
  EXPECT_EQ(buffer.text(), "one two  ");
  buffer.move_word_left();
  EXPECT_EQ(buffer.cursor(), 4U);
  buffer.erase_to_end();
  EXPECT_EQ(buffer.text(), "one ");
  buffer.move_home();
  buffer.move_word_right();
  buffer.erase_to_start();
  EXPECT_EQ(buffer.text(), " ");
}

TEST(EditBuffer, TheViewHoldsTheCursor) {
  size_t column = 0;
  EXPECT_EQ(with("abc").visible(10, column), "abc");
  EXPECT_EQ(column, 3U);
  EXPECT_EQ(with("abcdefghij").visible(5, column), "ghij");
  EXPECT_EQ(column, 4U);
  EXPECT_EQ(with("你好吗").visible(5, column), "好吗") << "two cells each";
  EXPECT_EQ(column, 4U);
  EditBuffer buffer = with("abcdefghij");
  buffer.move_home();
  EXPECT_EQ(buffer.visible(5, column), "abcd");
  EXPECT_EQ(column, 0U);
}

TEST(EditBuffer, SurvivesBytesThatAreNoText) {
  EditBuffer buffer = with("\xff\x80\x80z");
  for (int i = 0; i < 5; ++i) buffer.move_left();
  for (int i = 0; i < 5; ++i) buffer.move_right();
  for (int i = 0; i < 5; ++i) buffer.erase_before();
  EXPECT_EQ(buffer.text(), "");
}

TEST(Terminal, ModelTextCannotSendEscapeSequences) {
  EXPECT_EQ(harmless("a\nb\tc"), "a\nb\tc");
  EXPECT_EQ(harmless("\x1b[2J\r\x7f"), "\\x1b[2J\\x0d\\x7f");
  EXPECT_EQ(harmless("\xc2\x9b"
                     "31m"),
            "\\x9b31m")
      << "C1 control as UTF-8";
  EXPECT_EQ(harmless("é你"), "é你");
}

}  // namespace
}  // namespace atom::cli
