// The vendor's matrix library (cuBLASLt) behind one class: opened at run time, never linked, so
// that the backend loads where it is missing. Algorithms are chosen by timing the library's
// proposals once per shape and bucket of token counts. Not here: what to do without it
// (linear.cpp). Host only.
#pragma once

#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "kernels/common/device_runtime.h"
#include "kernels/common/dtype.h"

struct CUevent_st;  // the vendor's event

namespace atom::gpu {

// out [num_tokens, out_features] = x [num_tokens, in_features] . weight^T; x and weight are both
// bf16, or both e4m3, with a scale per row where scales are given.
struct LibraryProduct {
  const void* x = nullptr;
  const void* weight = nullptr;
  DType dtype = DType::kBF16;
  const float* x_scales = nullptr;       // [num_tokens]
  const float* weight_scales = nullptr;  // [out_features]
  void* out = nullptr;
  DType out_dtype = DType::kBF16;  // or f32
  int64_t num_tokens = 0;
  int64_t out_features = 0;
  int64_t in_features = 0;
  int64_t out_stride = 0;      // from row to row of out; 0: out_features
  bool leaves_scales = false;  // the caller can apply the scales: see multiply()
};

// Owner: a LinearContext. One thread, one stream at a time.
class MatrixLibrary {
 public:
  MatrixLibrary(void* workspace, int64_t workspace_bytes);
  ~MatrixLibrary();
  MatrixLibrary(const MatrixLibrary&) = delete;
  MatrixLibrary& operator=(const MatrixLibrary&) = delete;

  // Why it cannot be used, or nullptr.
  DeviceStatus status() const { return status_; }
  // See linear() about captures. A text when the library has no algorithm for the product.
  // `has_scales`: whether `out` has been multiplied with the scales, which only a product that
  // leaves_scales may lack.
  DeviceStatus multiply(const LibraryProduct& product, DeviceStream stream, bool& has_scales);

  // The largest number of tokens that shares an algorithm with num_tokens.
  static int64_t last_of_bucket(int64_t num_tokens);

 private:
  struct Algorithm;
  struct Problem;
  // out_features, in_features, bucket, dtype, out dtype, leaves_scales
  using Key = std::tuple<int64_t, int64_t, int64_t, int, int, bool>;

  std::vector<Algorithm> propose(const Problem& problem, bool scales_after) const;
  float time_of(Problem& problem, const LibraryProduct& product, const Algorithm& algorithm,
                DeviceStream stream, float best);
  DeviceStatus choose(const LibraryProduct& product, DeviceStream stream, Algorithm& out);
  DeviceStatus run(Problem& problem, const LibraryProduct& product, const Algorithm& algorithm,
                   DeviceStream stream);

  void* workspace_;
  int64_t workspace_bytes_;
  void* handle_ = nullptr;
  DeviceStatus status_ = nullptr;
  std::map<Key, Algorithm*> chosen_;
  CUevent_st* begin_ = nullptr;  // for timing
  CUevent_st* end_ = nullptr;
};

}  // namespace atom::gpu
