// Arena: bump allocation for syntax trees and for the values of one render. Everything dies
// together; no destructor runs, so only trivially destructible types live here. The byte budget
// bounds what a template can allocate in total, which makes leaks and cycles impossible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "atom/chat_template/fault.h"

namespace atom::jinja {

class Arena {
 public:
  explicit Arena(int64_t max_bytes) : left_(max_bytes) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Aligned for every type that lives here (8 bytes).
  void* allocate(size_t bytes) {
    const size_t padding = (8 - (reinterpret_cast<uintptr_t>(cursor_) & 7)) & 7;
    if (padding <= static_cast<size_t>(end_ - cursor_)) cursor_ += padding;
    return this->bytes(bytes);
  }

  template <class T, class... Args>
  T* make(Args&&... args) {
    static_assert(std::is_trivially_destructible_v<T> && alignof(T) <= 8);
    return new (allocate(sizeof(T))) T{std::forward<Args>(args)...};
  }

  template <class T>
  T* array(size_t count) {
    static_assert(std::is_trivially_destructible_v<T> && alignof(T) <= 8);
    if (count > size_t{1} << 40) raise_limit("memory limit exceeded");
    T* const result = static_cast<T*>(allocate(count * sizeof(T)));
    for (size_t i = 0; i < count; ++i) new (result + i) T{};
    return result;
  }

  template <class T>
  std::span<T> copy(const std::vector<T>& items) {
    T* const result = array<T>(items.size());
    for (size_t i = 0; i < items.size(); ++i) result[i] = items[i];
    return {result, items.size()};
  }

  // Bytes that the caller fills; the last block handed out can grow in place (extend).
  char* bytes(size_t count) {
    charge(count);
    if (count > static_cast<size_t>(end_ - cursor_)) add_block(count);
    char* const result = cursor_;
    cursor_ += count;
    return result;
  }

  std::string_view copy(std::string_view text) {
    if (text.empty()) return {};
    char* const result = bytes(text.size());
    std::memcpy(result, text.data(), text.size());
    return {result, text.size()};
  }

  // Appends to a block that ends where the arena ends; false when it is elsewhere or there is no
  // room.
  bool extend(const char* block_end, std::string_view more) {
    if (block_end != cursor_ || more.size() > static_cast<size_t>(end_ - cursor_)) return false;
    charge(more.size());
    std::memcpy(cursor_, more.data(), more.size());
    cursor_ += more.size();
    return true;
  }

 private:
  void charge(size_t bytes) {
    if (static_cast<int64_t>(bytes) > left_) raise_limit("memory limit exceeded");
    left_ -= static_cast<int64_t>(bytes);
  }

  void add_block(size_t least) {
    const size_t size = least > next_block_ ? least : next_block_;
    cursor_ = blocks_.emplace_back(new char[size]).get();
    end_ = cursor_ + size;
    if (next_block_ < kLargestBlock) next_block_ *= 2;
  }

  static constexpr size_t kLargestBlock = size_t{1} << 20;
  std::vector<std::unique_ptr<char[]>> blocks_;
  char* cursor_ = nullptr;
  char* end_ = nullptr;
  size_t next_block_ = size_t{16} << 10;
  int64_t left_;
};

}  // namespace atom::jinja
