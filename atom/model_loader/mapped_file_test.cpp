#include "atom/model_loader/mapped_file.h"

#include <sys/socket.h>
#include <sys/un.h>

#include "atom/model_loader/test_files.h"
#include "atom/model_loader/text.h"

namespace atom {
namespace {

using testing::TempDir;
using testing::write_file;

TEST(MappedFile, MapsRegularFilesOnly) {
  TempDir dir;
  write_file(dir / "a", "content");
  const auto file = MappedFile::open(dir / "a");
  ASSERT_TRUE(file);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>((*file)->bytes().data()), 7), "content");
  write_file(dir / "empty", "");
  EXPECT_TRUE((*MappedFile::open(dir / "empty"))->bytes().empty());
  EXPECT_REFUSED(MappedFile::open(dir / "none"), "none", "No such file");
  EXPECT_REFUSED(MappedFile::open(dir.path()), "not a regular file", "a directory");
  EXPECT_REFUSED(MappedFile::open("/dev/null"), "a device");
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  const std::string name = dir / "socket";
  ASSERT_LT(name.size(), sizeof address.sun_path);
  name.copy(address.sun_path, name.size());
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_REFUSED(MappedFile::open(dir / "socket"), "a socket");
  close(fd);
}

TEST(MappedFile, ReadsSmallFilesUpToTheLimit) {
  TempDir dir;
  write_file(dir / "a", "12345");
  EXPECT_EQ(*read_small_file(dir / "a", 5), "12345");
  EXPECT_REFUSED(read_small_file(dir / "a", 4), "too large", "found 5", "at most 4");
  EXPECT_EQ(read_small_file(dir / "b", 4).error().code, ErrorCode::kNotFound);
}

TEST(MappedFile, AFileCutShortInUseEndsTheProcessInOneLine) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  TempDir dir;
  write_file(dir / "cut.safetensors", std::string(1 << 16, 'x'));
  const auto use_after_cut = [&] {
    install_fault_message();
    const auto file = MappedFile::open(dir / "cut.safetensors");
    std::filesystem::resize_file(dir / "cut.safetensors", 16);
    volatile const std::byte* data = (*file)->bytes().data();
    [[maybe_unused]] const std::byte last = data[(1 << 16) - 1];
  };
  EXPECT_EXIT(use_after_cut(), ::testing::ExitedWithCode(1),
              "cut.safetensors: the file was cut short");
}

TEST(Text, PrintsAnythingOnOneLine) {
  EXPECT_EQ(printable(std::string("a\nb\x1b\x7f")), "a\\x0ab\\x1b\\x7f");
  EXPECT_EQ(printable(std::string("h\xc3\xa9 \xf0\x9f\x98\x80")), "h\xc3\xa9 \xf0\x9f\x98\x80");
  EXPECT_EQ(printable(std::string("\xff\xc3(\xed\xa0\x80\xc0\x80")),
            "\\xff\\xc3(\\xed\\xa0\\x80\\xc0\\x80");
  EXPECT_LT(printable(std::string(10'000, 'x')).size(), 200u);
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(98362432), "98.4 MB");
  EXPECT_EQ(human_bytes(1'240'000'000), "1.24 GB");
}

}  // namespace
}  // namespace atom
