#include "atom/core/buffer.h"

#include <sys/mman.h>

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

Buffer::~Buffer() {
  if (data_ != nullptr) {
    munmap(data_, static_cast<size_t>(size_));
  }
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Tensor Arena::allocate(DType dtype, std::initializer_list<int64_t> shape) {
  constexpr int64_t kAlignment = 64;
  Tensor tensor(static_cast<char*>(buffer_.data()) + used_, dtype, shape);
  used_ += (tensor.nbytes() + kAlignment - 1) / kAlignment * kAlignment;
  ATOM_CHECK(used_ <= buffer_.size()) << "arena of " << buffer_.size() << " bytes needs " << used_;
  return tensor;
}

}  // namespace atom
