// Types and sizes of weights that the products take.
#include "kernels/gpu/linear.h"

namespace atom::gpu {
namespace {

constexpr int64_t kRowMultiple = 8;

DeviceStatus check_packed(const LinearArgs& args) {
  switch (args.weight_dtype) {
    case DType::kF8E4M3:
      if (args.scale_values != 128) {
        return "linear: e4m3 in blocks of other sizes than 128 values";
      }
      break;
    case DType::kI8:
      break;
    case DType::kU4:
      if (args.scale_values != 128 && args.scale_values != 32) {
        return "linear: u4 in groups of other sizes than 32 and 128";
      }
      break;
    case DType::kF4E2M1:
      if (args.scale_values != 32) {
        return "linear: e2m1 in groups of other sizes than 32";
      }
      break;
    default:
      return "linear: a type of weights with scales that there is no kernel for";
  }
  const bool bytes = args.weight_dtype == DType::kF8E4M3 || args.weight_dtype == DType::kI8;
  if (args.in_features % (bytes ? 16 : 32) != 0 || args.out_features % kRowMultiple != 0) {
    return "linear: sizes of a packed weight are not multiples of 16 bytes and 8 rows";
  }
  if (args.epilogue == LinearEpilogue::kSiluMul && args.out_features % (2 * kRowMultiple) != 0) {
    return "linear: rows of gate of a packed weight are not a multiple of 8";
  }
  return nullptr;
}

}  // namespace

DeviceStatus check_linear_weight(const LinearArgs& args) {
  if (is_packed(args)) {
    return check_packed(args);
  }
  const bool e4m3 = args.weight_dtype == DType::kF8E4M3;
  if (!e4m3 && args.weight_dtype != DType::kBF16) {
    return "linear: the weight is neither bf16 nor e4m3";
  }
  return args.in_features % (e4m3 ? 16 : 8) == 0
             ? nullptr
             : "linear: in_features is not a multiple of 16 bytes";
}

}  // namespace atom::gpu
