#include "atom/model_engine/memory_groups.h"

#include <algorithm>
#include <fstream>
#include <string>

namespace atom {
namespace {

namespace fs = std::filesystem;

// The files of one version of cgroups.
struct GroupFiles {
  const char* limit;
  const char* used;
  const char* inactive_cache;
  const char* active_cache;
};
constexpr GroupFiles kVersion1{.limit = "memory.limit_in_bytes",
                               .used = "memory.usage_in_bytes",
                               .inactive_cache = "total_inactive_file",
                               .active_cache = "total_active_file"};
constexpr GroupFiles kVersion2{.limit = "memory.max",
                               .used = "memory.current",
                               .inactive_cache = "inactive_file",
                               .active_cache = "active_file"};

constexpr int64_t kNoLimit = int64_t{1} << 62;  // version 1 writes a number of this size

std::optional<int64_t> read_number(const fs::path& path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;  // not there, or "max"
}

std::optional<int64_t> left_in(const fs::path& group, const GroupFiles& files) {
  const std::optional<int64_t> limit = read_number(group / files.limit);
  const std::optional<int64_t> used = read_number(group / files.used);
  if (!limit || !used || *limit >= kNoLimit) return std::nullopt;
  // Page cache is given back when a program asks for memory.
  int64_t cache = 0;
  std::ifstream stat(group / "memory.stat");
  std::string key;
  for (int64_t bytes = 0; stat >> key >> bytes;) {
    cache += key == files.inactive_cache || key == files.active_cache ? bytes : 0;
  }
  return *limit - *used + cache;
}

// A limit of any group above binds too. A path that is not mounted here (a container that sees the
// host's names) ends at the root, which then is the container's own group.
void take_least(const fs::path& root, fs::path group, const GroupFiles& files,
                std::optional<int64_t>& least) {
  while (true) {
    if (const std::optional<int64_t> left = left_in(root / group.relative_path(), files))
      least = std::min(least.value_or(*left), *left);
    if (!group.has_relative_path()) return;
    group = group.parent_path();
  }
}

}  // namespace

std::optional<int64_t> memory_left_in_groups(const fs::path& membership, const fs::path& mount) {
  std::optional<int64_t> least;
  std::ifstream lines(membership);
  for (std::string line; std::getline(lines, line);) {  // id:controllers:path
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const fs::path group = line.substr(second + 1);
    if (controllers == ",,") take_least(mount, group, kVersion2, least);
    if (controllers.find(",memory,") != std::string::npos)
      take_least(mount / "memory", group, kVersion1, least);
  }
  return least;
}

}  // namespace atom
