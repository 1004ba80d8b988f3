// Tensor maps of row-major matrices for copy_box (hopper.h): boxes of 128 bytes of some rows, with
// the 128-byte swizzle. Host code, C++20.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace atom::gpu::sm90 {

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                 const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                 const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// The driver's function, or nullptr where the driver is too old.
inline EncodeTiled tensor_map_encoder() {
  static const EncodeTiled found = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult result{};
    (void)cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                           cudaEnableDefault, &result);
    return reinterpret_cast<EncodeTiled>(entry);
  }();
  return found;
}

// Of bytes [rows, row_bytes], a multiple of 16; what lies outside arrives as zeros.
inline bool make_byte_map(const void* data, int64_t rows, int64_t row_bytes, int box_rows,
                          CUtensorMap* map) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(row_bytes), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(row_bytes)};
  const cuuint32_t box[2] = {128, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  return tensor_map_encoder()(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, const_cast<void*>(data), sizes,
                              strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                              CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                              CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace atom::gpu::sm90
