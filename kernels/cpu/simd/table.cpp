// The kernel table of one instruction set.
#include "kernels/cpu/activation_layout.h"
#include "kernels/cpu/pack_panels.h"
#include "kernels/cpu/panel_layout.h"
#include "kernels/cpu/simd/isa_kernels.h"

#define ATOM_TEXT_INNER(x) #x
#define ATOM_TEXT(x) ATOM_TEXT_INNER(x)

namespace atom::cpu::ATOM_ISA {
namespace {

#if defined(__AVX512BF16__)
constexpr bool kHasBF16 = true;
#else
constexpr bool kHasBF16 = false;
#endif
#if defined(__AVX512VNNI__)
constexpr bool kHasVnni = true;
#else
constexpr bool kHasVnni = false;
#endif

int64_t packed_bytes(int32_t, const DataFormat& format, int64_t rows, int64_t cols) {
  return (rows + kPanelRows - 1) / kPanelRows * panel_bytes(format, cols);
}

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
constexpr bool kHasF8 = true;  // with AMX, on Intel, f32 is faster than bf16 dot products
#else
constexpr bool kHasF8 = false;
#endif

// The largest magnitudes of 65536 products of 255 and 127 still fit 32 bits.
constexpr int64_t kMaxInt8Columns = 65536;

int32_t choose_linear(const DataFormat& format, int64_t cols, bool exact_activations) {
  const DType dtype = format.dtype;
  if (exact_activations || dtype == DType::kF32 || dtype == DType::kF16) {
    return kPanelsF32;
  }
  if (dtype == DType::kBF16) {
    return kHasBF16 ? kPanelsBF16 : kPanelsF32;
  }
  if (dtype == DType::kF8E4M3) {
    return kHasF8 ? kPanelsF8 : kPanelsF32;
  }
  if (dtype == DType::kI8 && kHasVnni && format.block_k <= 0 && cols <= kMaxInt8Columns) {
    return kPanelsInt8;
  }
  // Sums of two products of stored bytes above 128 do not fit the 16 bits of the instructions
  // before VNNI.
  const bool large = dtype == DType::kQ8_0 || dtype == DType::kI8;
  return kHasVnni || !large ? kPanelsInt16 : kPanelsF32;
}

void pack(int32_t, const PackArgs& args, Range panels) { pack_panels(args, panels); }

int64_t input_bytes(int32_t kernel, int64_t num_tokens, int64_t cols) {
  switch (kernel) {
    case kPanelsBF16:
    case kPanelsF8:
      return num_tokens * bf16_pairs(cols) * 4;
    case kPanelsInt8:
      return Int8View::bytes(num_tokens, cols);
    case kPanelsInt16:
      return Int16View::bytes(num_tokens, cols);
    default:
      return 0;
  }
}

void prepare_input(int32_t kernel, const LinearArgs& args, uint8_t* out, Range tokens) {
  if (kernel == kPanelsBF16) {
#if defined(__AMX_BF16__)
    prepare_bf16_tiles(args.x, args.num_tokens, args.cols, out, tokens);
#else
    prepare_bf16(args.x, args.num_tokens, args.cols, out, tokens);
#endif
  } else if (kernel == kPanelsF8) {
    prepare_bf16(args.x, args.num_tokens, args.cols, out, tokens);
  } else if (kernel == kPanelsInt8) {
    prepare_int8(args.x, args.num_tokens, args.cols, out, tokens);
  } else if (kernel == kPanelsInt16) {
    prepare_int16(args.x, args.num_tokens, args.cols, out, tokens);
  }
}

void linear(int32_t kernel, const LinearArgs& args, Range tokens, Range panels) {
  if (kernel == kPanelsInt16) {
    return linear_int16(args, tokens, panels);
  }
#if defined(__AVX512VNNI__)
  if (kernel == kPanelsInt8) {
    return linear_int8(args, tokens, panels);
  }
#endif
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
  if (kernel == kPanelsF8) {
    return linear_f8(args, tokens, panels);
  }
#endif
#if defined(__AMX_BF16__)
  if (kernel == kPanelsBF16) {
    return linear_bf16_tiles(args, tokens, panels);
  }
#elif defined(__AVX512BF16__)
  if (kernel == kPanelsBF16) {
    return linear_bf16(args, tokens, panels);
  }
#endif
  linear_f32(args, tokens, panels);
}

}  // namespace

extern const Kernels kKernels;
constexpr Kernels kKernels{
    .name = ATOM_TEXT(ATOM_ISA),
    .packed_bytes = packed_bytes,
    .choose_linear = choose_linear,
    .pack = pack,
    .input_bytes = input_bytes,
    .prepare_input = prepare_input,
    .linear = linear,
    .rms_norm = rms_norm,
    .silu_mul = silu_mul,
    .qk_norm_rope_kv_write = qk_norm_rope_kv_write,
    .attention = attention,
    .mla_cache_write = mla_cache_write,
    .mla_attention = mla_attention,
    .mla_part_keys = kMlaPartKeys,
    .mla_merge = mla_merge,
};

}  // namespace atom::cpu::ATOM_ISA
