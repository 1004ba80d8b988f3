// Host buffers on huge pages: pieces of shared slabs are zero, apart, aligned, and end in any
// order.
#include "atom/core/buffer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

namespace atom {
namespace {

constexpr int64_t kMiB = 1 << 20;

bool holds(const Buffer& buffer, char value) {
  const auto* bytes = static_cast<const char*>(buffer.data());
  return std::all_of(bytes, bytes + buffer.size(), [&](char byte) { return byte == value; });
}

// Fills `count` buffers of `nbytes`, ends every second one, fills others in their place.
void use_pieces(int count, int64_t nbytes) {
  std::vector<Buffer> buffers;
  const auto add = [&](char value) {
    Result<Buffer> buffer = Buffer::allocate(nbytes, PageSize::kHuge);
    ASSERT_TRUE(buffer) << buffer.error().message;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0U);
    EXPECT_TRUE(holds(*buffer, 0));
    std::memset(buffer->data(), value, static_cast<size_t>(nbytes));
    buffers.push_back(std::move(*buffer));
  };
  for (int i = 0; i < count; ++i) {
    add(static_cast<char>(i + 1));
  }
  for (int i = 0; i < count; i += 2) {
    buffers[static_cast<size_t>(i)] = Buffer();
  }
  for (int i = 0; i < count; ++i) {
    add(static_cast<char>(-i - 1));
  }
  for (int i = 1; i < count; i += 2) {
    EXPECT_TRUE(holds(buffers[static_cast<size_t>(i)], static_cast<char>(i + 1))) << i;
  }
  for (int i = 0; i < count; ++i) {
    EXPECT_TRUE(holds(buffers[static_cast<size_t>(count + i)], static_cast<char>(-i - 1))) << i;
  }
}

TEST(Buffer, PiecesOfHugePages) {
  for (const int64_t nbytes : {int64_t{1}, int64_t{63}, int64_t{4096}, int64_t{5000}, kMiB + 1,
                               4 * kMiB - 1, 4 * kMiB, 5 * kMiB}) {
    SCOPED_TRACE(nbytes);
    use_pieces(20, nbytes);
  }
}

TEST(Buffer, PiecesOfSeveralThreads) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([] { use_pieces(50, 10000); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

TEST(Buffer, MovesAndNothing) {
  Result<Buffer> none = Buffer::allocate(0, PageSize::kHuge);
  ASSERT_TRUE(none);
  EXPECT_EQ(none->data(), nullptr);
  Result<Buffer> piece = Buffer::allocate(100, PageSize::kHuge);
  ASSERT_TRUE(piece);
  void* data = piece->data();
  Buffer moved(std::move(*piece));
  EXPECT_EQ(moved.data(), data);
  Buffer other = std::move(*Buffer::allocate(100));
  other = std::move(moved);
  EXPECT_EQ(other.data(), data);
  EXPECT_TRUE(holds(other, 0));
}

}  // namespace
}  // namespace atom
