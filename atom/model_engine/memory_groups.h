// memory_left_in_groups: what the cgroups of this process (a container's or a service's limit)
// leave it, versions 1 and 2. Not the machine's free memory: that is memory_plan.cpp's.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace atom {

// Bytes: the least that any group on the way up to the root leaves, page cache counted as free; may
// be negative. Nothing: no group has a limit. The arguments are for tests.
std::optional<int64_t> memory_left_in_groups(
    const std::filesystem::path& membership = "/proc/self/cgroup",
    const std::filesystem::path& mount = "/sys/fs/cgroup");

}  // namespace atom
