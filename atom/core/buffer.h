// Buffer: owned memory, 64-byte aligned: of the host (zero-filled and lazily backed: pages count
// only once touched), or of a device or pinned, through its DeviceRuntime. Arena: bump allocator
// for one step's activations; fixed base address, reset per step, so captured steps can replay.
// Neither is thread-safe; allocating is.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>

#include "atom/core/error.h"
#include "atom/core/tensor.h"
#include "kernels/common/device_runtime.h"

namespace atom {

// kHuge asks for 2 MiB pages: for memory that is read as a whole (weights); small pieces share
// them. Memory that may stay untouched (KV cache, workspace) keeps normal pages, else every first
// touch costs 2 MiB.
enum class PageSize : uint8_t { kNormal, kHuge };

class Buffer {
 public:
  Buffer() = default;
  static Result<Buffer> allocate(int64_t nbytes, PageSize pages = PageSize::kNormal);
  // Uninitialised memory of the calling thread's device; `runtime` outlives the buffer.
  static Result<Buffer> allocate_device(const DeviceRuntime& runtime, int64_t nbytes);
  // Host memory that the device can reach and copy from without a detour.
  static Result<Buffer> allocate_pinned(const DeviceRuntime& runtime, int64_t nbytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  int64_t size_ = 0;
  const DeviceRuntime* runtime_ = nullptr;  // nullptr: plain host memory
  bool pinned_ = false;
  std::shared_ptr<void> slab_;  // that this is a piece of
};

class Arena {
 public:
  Arena() = default;
  explicit Arena(Buffer buffer) : buffer_(std::move(buffer)) {}

  // A tensor of uninitialised memory, valid until reset(). The arena was sized for the largest
  // step, so running out is our own bug.
  Tensor allocate(DType dtype, std::initializer_list<int64_t> shape);
  void reset() { used_ = 0; }
  int64_t mark() const { return used_; }
  void rewind(int64_t mark) { used_ = mark; }
  int64_t capacity() const { return buffer_.size(); }
  void* data() const { return buffer_.data(); }
  // The most that was ever in use, in bytes.
  int64_t peak() const { return peak_; }

 private:
  Buffer buffer_;
  int64_t used_ = 0;
  int64_t peak_ = 0;
};

}  // namespace atom
