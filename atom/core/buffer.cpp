#include "atom/core/buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <utility>

namespace atom {
namespace {

constexpr int64_t kPage = 4096;
constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kSlabBytes = 32 * kHugePage;

Result<void*> map(int64_t nbytes) {
  void* data = mmap(nullptr, static_cast<size_t>(nbytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return make_error(ErrorCode::kResourceExhausted, "cannot allocate {} bytes of host memory: {}",
                      nbytes, std::strerror(errno));
  }
  return data;
}

// Huge pages that small pieces share, one after the other. A slab lives as long as its pieces; of a
// piece that ends before, the pages are given back.
class Slab {
 public:
  static Result<std::shared_ptr<Slab>> create() {
    ATOM_ASSIGN_OR_RETURN(void* const data, map(kSlabBytes));
    madvise(data, kSlabBytes, MADV_HUGEPAGE);
    return std::make_shared<Slab>(static_cast<char*>(data));
  }
  // Pieces begin where huge pages do.
  explicit Slab(char* data)
      : data_(data),
        used_((kHugePage - reinterpret_cast<intptr_t>(data) % kHugePage) % kHugePage) {}
  ~Slab() { munmap(data_, kSlabBytes); }
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

  // nullptr: full
  void* take(int64_t nbytes) {
    constexpr int64_t kAlignment = 64;
    if (nbytes > kSlabBytes - used_) {
      return nullptr;
    }
    return data_ +
           std::exchange(used_, (used_ + nbytes + kAlignment - 1) / kAlignment * kAlignment);
  }

 private:
  char* data_;
  int64_t used_;
};

// The slab that is being filled; it is not kept alive here.
struct OpenSlab {
  std::mutex mutex;
  std::weak_ptr<Slab> slab;
};

Result<std::pair<void*, std::shared_ptr<void>>> take_piece(int64_t nbytes) {
  static OpenSlab open;
  const std::lock_guard lock(open.mutex);
  std::shared_ptr<Slab> slab = open.slab.lock();
  void* data = slab != nullptr ? slab->take(nbytes) : nullptr;
  if (data == nullptr) {
    ATOM_ASSIGN_OR_RETURN(slab, Slab::create());
    open.slab = slab;
    data = slab->take(nbytes);
  }
  return std::pair<void*, std::shared_ptr<void>>(data, std::move(slab));
}

// The whole pages of a piece; the others are its neighbours', too.
void give_back(void* data, int64_t nbytes) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + kPage - 1) / kPage * kPage;
  const uintptr_t end = (address + static_cast<uintptr_t>(nbytes)) / kPage * kPage;
  if (begin < end) {
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }
}

}  // namespace

Result<Buffer> Buffer::allocate(int64_t nbytes, PageSize pages) {
  Buffer buffer;
  if (nbytes == 0) {
    return buffer;
  }
  if (pages == PageSize::kHuge && nbytes < 2 * kHugePage) {
    ATOM_ASSIGN_OR_RETURN(auto piece, take_piece(nbytes));
    buffer.data_ = piece.first;
    buffer.slab_ = std::move(piece.second);
  } else {
    ATOM_ASSIGN_OR_RETURN(buffer.data_, map(nbytes));
  }
  if (pages == PageSize::kHuge && buffer.slab_ == nullptr) {
    madvise(buffer.data_, static_cast<size_t>(nbytes), MADV_HUGEPAGE);
  }
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
  if (slab_ != nullptr) {
    give_back(data_, size_);
  } else if (runtime_ == nullptr) {
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
      pinned_(other.pinned_),
      slab_(std::move(other.slab_)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(runtime_, other.runtime_);
  std::swap(pinned_, other.pinned_);
  std::swap(slab_, other.slab_);
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
