#include "atom/core/buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace atom {

Result<Buffer> Buffer::allocate(int64_t nbytes, PageSize pages) {
  Buffer buffer;
  if (nbytes == 0) {
    return buffer;
  }
  void* data = mmap(nullptr, static_cast<size_t>(nbytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return make_error(ErrorCode::kResourceExhausted, "cannot allocate {} bytes of host memory: {}",
                      nbytes, std::strerror(errno));
  }
  constexpr int64_t kHugePage = 2 << 20;
  if (pages == PageSize::kHuge && nbytes >= 2 * kHugePage) {
    madvise(data, static_cast<size_t>(nbytes), MADV_HUGEPAGE);
  }
  buffer.data_ = data;
  buffer.size_ = nbytes;
  return buffer;
}

Result<Buffer> Buffer::allocate_device(const DeviceRuntime& runtime, int64_t nbytes) {
  Buffer buffer;
  if (nbytes == 0) {
    return buffer;
  }
  if (const DeviceStatus failed = runtime.allocate(nbytes, &buffer.data_)) {
    return make_error(ErrorCode::kResourceExhausted,
                      "cannot allocate {} bytes of device memory: {}", nbytes, failed);
  }
  buffer.size_ = nbytes;
  buffer.runtime_ = &runtime;
  return buffer;
}

Result<Buffer> Buffer::allocate_pinned(const DeviceRuntime& runtime, int64_t nbytes) {
  Buffer buffer;
  if (nbytes == 0) {
    return buffer;
  }
  if (const DeviceStatus failed = runtime.allocate_pinned(nbytes, &buffer.data_)) {
    return make_error(ErrorCode::kResourceExhausted,
                      "cannot allocate {} bytes of pinned memory: {}", nbytes, failed);
  }
  buffer.size_ = nbytes;
  buffer.runtime_ = &runtime;
  buffer.pinned_ = true;
  return buffer;
}

Buffer::~Buffer() {
  if (data_ == nullptr) {
    return;
  }
  if (runtime_ == nullptr) {
    munmap(data_, static_cast<size_t>(size_));
  } else if (pinned_) {
    runtime_->deallocate_pinned(data_);
  } else {
    runtime_->deallocate(data_);
  }
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      runtime_(other.runtime_),
      pinned_(other.pinned_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(runtime_, other.runtime_);
  std::swap(pinned_, other.pinned_);
  return *this;
}

Tensor Arena::allocate(DType dtype, std::initializer_list<int64_t> shape) {
  constexpr int64_t kAlignment = 64;
  Tensor tensor(static_cast<char*>(buffer_.data()) + used_, dtype, shape);
  used_ += (tensor.nbytes() + kAlignment - 1) / kAlignment * kAlignment;
  peak_ = std::max(peak_, used_);
  ATOM_CHECK(used_ <= buffer_.size()) << "arena of " << buffer_.size() << " bytes needs " << used_;
  return tensor;
}

}  // namespace atom
