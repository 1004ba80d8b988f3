// Memory limits of cgroups, read from folders that look like them.
#include "atom/model_engine/memory_groups.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

namespace atom {
namespace {

namespace fs = std::filesystem;

class MemoryGroups : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(::testing::TempDir()) /
            ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text << '\n';
  }
  std::optional<int64_t> left() {
    return memory_left_in_groups(root_ / "membership", root_ / "mount");
  }

  fs::path root_;
};

TEST_F(MemoryGroups, NoGroupsNoLimit) {
  EXPECT_EQ(left(), std::nullopt);
  write("membership", "0::/");
  EXPECT_EQ(left(), std::nullopt);
  write("mount/memory.max", "max");
  write("mount/memory.current", "5");
  EXPECT_EQ(left(), std::nullopt);
  write("membership", "nonsense\n::\n0\n");
  EXPECT_EQ(left(), std::nullopt);
}

TEST_F(MemoryGroups, TheTightestGroupOnTheWayUpBinds) {
  write("membership", "0::/system.slice/atom.service");
  write("mount/system.slice/atom.service/memory.max", "5000");
  write("mount/system.slice/atom.service/memory.current", "1000");
  EXPECT_EQ(left(), 4000);
  write("mount/system.slice/memory.max", "3000");
  write("mount/system.slice/memory.current", "2000");
  EXPECT_EQ(left(), 1000);
  write("mount/system.slice/memory.stat", "anon 7\ninactive_file 20\nactive_file 3\n");
  EXPECT_EQ(left(), 1023);
}

TEST_F(MemoryGroups, AContainersRootIsItsGroup) {
  write("membership", "0::/host/name/of/it");
  write("mount/memory.max", "900");
  write("mount/memory.current", "1000");
  EXPECT_EQ(left(), -100);
}

TEST_F(MemoryGroups, Version1) {
  write("membership", "9:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n");
  write("mount/memory/docker/abc/memory.limit_in_bytes", "9223372036854771712");
  write("mount/memory/docker/abc/memory.usage_in_bytes", "100");
  EXPECT_EQ(left(), std::nullopt);
  write("mount/memory/docker/abc/memory.limit_in_bytes", "700");
  write("mount/memory/docker/abc/memory.stat", "inactive_file 1\ntotal_inactive_file 50\n");
  EXPECT_EQ(left(), 650);
}

}  // namespace
}  // namespace atom
