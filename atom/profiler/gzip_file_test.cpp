#include "atom/profiler/gzip_file.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace atom {
namespace {

namespace fs = std::filesystem;

class GzipFileTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ =
        fs::path(testing::TempDir()) /
        ("gzip_file_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(dir_);
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  std::string path() const { return (dir_ / "a.json.gz").string(); }
  std::string read() const {
    std::string text;
    const Status status = read_gzip(path(), [&](std::string_view piece) -> Status {
      text += piece;
      return {};
    });
    EXPECT_TRUE(status) << status.error().message;
    return text;
  }
  static std::string some_text(size_t bytes) {
    std::string text;
    uint32_t state = 1;
    while (text.size() < bytes) {
      state = state * 1664525 + 1013904223;
      text += "{\"name\":\"kernel" + std::to_string(state >> 20) + "\"},\n";
    }
    text.resize(bytes);
    return text;
  }

  fs::path dir_;
};

TEST_F(GzipFileTest, ReadsBackWhatWasWritten) {
  for (const size_t bytes : {size_t{0}, size_t{1}, (size_t{1} << 20) - 1, size_t{1} << 20,
                             (size_t{1} << 20) + 1, size_t{9} << 20}) {
    const std::string text = some_text(bytes);
    auto file = GzipFile::create(path());
    ASSERT_TRUE(file) << file.error().message;
    for (size_t at = 0; at < bytes; at += 300'007) {
      ASSERT_TRUE((*file)->append(std::string_view(text).substr(at, 300'007)));
    }
    EXPECT_FALSE(fs::exists(path()));
    ASSERT_TRUE((*file)->finish());
    EXPECT_EQ(read(), text) << bytes;
    // One member, as the tool for it says, too.
    EXPECT_EQ(std::system(("gzip -t " + path()).c_str()), 0);
    fs::remove(path());
  }
  EXPECT_TRUE(fs::is_empty(dir_));
}

TEST_F(GzipFileTest, NothingIsLeftOfAFileThatIsNotFinished) {
  auto file = GzipFile::create(path());
  ASSERT_TRUE(file);
  ASSERT_TRUE((*file)->append(some_text(3 << 20)));
  file->reset();
  EXPECT_TRUE(fs::is_empty(dir_));
}

TEST_F(GzipFileTest, AFolderThatIsNotThereIsNamed) {
  const auto file = GzipFile::create((dir_ / "no" / "a.gz").string());
  ASSERT_FALSE(file);
  EXPECT_NE(file.error().message.find("No such file"), std::string::npos);
}

TEST_F(GzipFileTest, AHiddenNameThatIsTakenIsNotFollowed) {
  fs::create_symlink("elsewhere", dir_ / ".a.json.gz.partial");
  EXPECT_FALSE(GzipFile::create(path()));
  EXPECT_FALSE(fs::exists(dir_ / "elsewhere"));
}

TEST_F(GzipFileTest, PlainTextIsReadToo) {
  std::ofstream(path()) << "plain";
  EXPECT_EQ(read(), "plain");
}

TEST_F(GzipFileTest, ADamagedFileIsRefused) {
  auto file = GzipFile::create(path());
  ASSERT_TRUE((*file)->append(some_text(2 << 20)));
  ASSERT_TRUE((*file)->finish());
  fs::resize_file(path(), fs::file_size(path()) / 2);
  const Status status = read_gzip(path(), [](std::string_view) -> Status { return {}; });
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kDataLoss);
}

}  // namespace
}  // namespace atom
