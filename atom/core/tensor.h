// Tensor: a view (pointer, dtype, shape, device) on memory that somebody else owns: a Buffer, the
// step arena, the KV pool or a mapped checkpoint. Rows are contiguous; dimension 0 may have a
// stride.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

#include "atom/core/check.h"
#include "kernels/common/dtype.h"

namespace atom {

enum class DeviceType : uint8_t { kCpu, kCuda, kHip };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

class Tensor {
 public:
  static constexpr int kMaxRank = 4;

  Tensor() = default;
  Tensor(void* data, DType dtype, std::initializer_list<int64_t> shape, Device device = {})
      : data_(data), dtype_(dtype), device_(device) {
    ATOM_CHECK(shape.size() <= kMaxRank);
    for (const int64_t dim : shape) {
      shape_[rank_++] = dim;
    }
  }

  void* data() const { return data_; }
  template <class T>
  T* data_as() const {
    return static_cast<T*>(data_);
  }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  int rank() const { return rank_; }
  int64_t dim(int i) const { return shape_[i]; }
  bool defined() const { return data_ != nullptr; }
  int64_t numel() const {
    int64_t count = 1;
    for (int i = 0; i < rank_; ++i) {
      count *= shape_[i];
    }
    return rank_ == 0 ? 0 : count;
  }
  int64_t nbytes() const { return dtype_bytes(dtype_, numel()); }

  // Rows [begin, begin + count) of dimension 0; shares the memory.
  Tensor rows(int64_t begin, int64_t count) const {
    Tensor view = *this;
    int64_t row = 1;
    for (int i = 1; i < rank_; ++i) {
      row *= shape_[i];
    }
    view.data_ = static_cast<char*>(data_) + dtype_bytes(dtype_, begin * row);
    view.shape_[0] = count;
    return view;
  }

 private:
  void* data_ = nullptr;
  std::array<int64_t, kMaxRank> shape_{};
  DType dtype_ = DType::kF32;
  Device device_;
  int8_t rank_ = 0;
};

}  // namespace atom
