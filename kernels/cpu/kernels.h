// The CPU kernel table: raw pointers and plain structs, single-threaded, no allocation. A kernel
// computes a range of rows or work items, so that the caller decides how to spread it over threads;
// no result depends on how a range is cut. One table per instruction set; `reference` is the
// oracle, written to be read. To add a kernel: a field here, reference/, simd/, a row in
// tests/conformance.
#pragma once

#include <cstdint>

#include "kernels/common/data_format.h"
#include "kernels/common/dtype.h"
#include "kernels/common/params.h"
#include "kernels/cpu/mla.h"

namespace atom::cpu {

// Output features are packed and computed in panels of this many.
inline constexpr int64_t kPanelRows = 16;

// How a linear segment is stored and computed; chosen when it is packed (LinearSegment::kernel).
enum LinearKernel : int32_t {
  kStoredRows,   // rows as in the checkpoint, in logical order; the reference
  kPanelsF32,    // panels (panel_layout.h), f32 activations
  kPanelsBF16,   // panels of bf16, activations rounded to bf16
  kPanelsInt16,  // panels of integers, activations as 16-bit integers per 32 columns
  kPanelsInt8,   // panels of 8-bit integers with a scale per row, activations as 8-bit integers
                 // with a scale per token: INT8 checkpoints define their products so
  kPanelsF8,     // panels of e4m3, activations rounded to bf16
};

// Rows of one stored weight tensor, `row_bytes` apart, and its separate scales if it has any:
// scales and zeros [ceil(stored rows / block_n), ceil(cols / block_k)].
struct RowSource {
  const uint8_t* data = nullptr;
  int64_t rows = 0;
  int64_t row_bytes = 0;
  int64_t rotary_heads = 0;  // see WeightPart
  DataFormat format = {};
  int64_t cols = 0;
  const uint8_t* scales = nullptr;
  const uint8_t* zeros = nullptr;
  int64_t first_row = 0;  // row r is stored row first_row + r * row_step
  int64_t row_step = 1;
};

// Where a row of some source lies.
struct StoredRow {
  const RowSource* source = nullptr;
  int64_t row = 0;
  const uint8_t* data = nullptr;
};

struct PackArgs {
  const RowSource* sources = nullptr;  // stacked along rows
  int64_t num_sources = 0;
  DataFormat format = {};  // as packed (packed_format)
  int64_t rows = 0;        // of all sources
  int64_t cols = 0;
  uint8_t* out = nullptr;
};

// out[m, n] = x[m] . weight[n] + bias[n], for one segment of a weight.
struct LinearArgs {
  const float* x = nullptr;        // [num_tokens, cols]
  const uint8_t* input = nullptr;  // x as `prepare_input` wrote it, where the kernel asks for it
  int64_t num_tokens = 0;
  const uint8_t* weight = nullptr;  // packed
  DataFormat format = {};
  int64_t rows = 0;
  int64_t cols = 0;
  const float* bias = nullptr;  // [rows] or none
  float* out = nullptr;         // [num_tokens, out_stride], from this segment's first feature
  int64_t out_stride = 0;
  // The weight that is read after this one, to be fetched ahead; nullptr: what lies behind it.
  const uint8_t* next = nullptr;
};

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};

struct RmsNormArgs {
  const float* x = nullptr;  // [num_tokens, hidden_size]
  float* residual =
      nullptr;  // [num_tokens, hidden_size], or none: residual += x first, then it is normed
  const float* weight = nullptr;  // [hidden_size]
  float eps = 0;
  float* out = nullptr;  // may be x
  int64_t hidden_size = 0;
};

// See QkNormRopeKvWriteParams.
struct QkvArgs {
  float* qkv = nullptr;  // [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim]
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t rotary_dim = 0;
  const float* cos_sin = nullptr;  // [num_tokens, rotary_dim]
  const float* q_norm = nullptr;   // [head_dim] or none
  const float* k_norm = nullptr;
  float norm_eps = 0;
  const int64_t* slot_mapping = nullptr;  // [num_tokens]
  PagedKvCache cache;
};

// See PagedAttentionParams.
struct AttentionArgs {
  const float* qkv = nullptr;  // [num_tokens, qkv_stride]
  int64_t qkv_stride = 0;
  float* out = nullptr;  // [num_tokens, num_heads * head_dim]
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  float scale = 1.0F;
  int64_t sliding_window = 0;
  const float* sinks = nullptr;  // [num_heads] or none
  PagedKvCache cache;
  AttentionMetadata metadata;
};

// Query tokens [tokens.begin, tokens.end) of one sequence, for the heads of one kv head.
struct AttentionItem {
  int64_t sequence = 0;
  int64_t kv_head = 0;
  Range tokens;
};

inline constexpr int64_t kMaxHeadDim = 256;

struct Kernels {
  const char* name = nullptr;
  // Bytes that a segment takes when packed for `kernel`, and the kernel that suits a weight.
  int64_t (*packed_bytes)(int32_t kernel, const DataFormat& format, int64_t rows,
                          int64_t cols) = nullptr;
  int32_t (*choose_linear)(const DataFormat& format, int64_t cols,
                           bool exact_activations) = nullptr;
  void (*pack)(int32_t kernel, const PackArgs& args, Range panels) = nullptr;
  // x in the kernel's own layout: its size (0: the kernel reads x itself), and the conversion of
  // some rows.
  int64_t (*input_bytes)(int32_t kernel, int64_t num_tokens, int64_t cols) = nullptr;
  void (*prepare_input)(int32_t kernel, const LinearArgs& args, uint8_t* out,
                        Range tokens) = nullptr;
  void (*linear)(int32_t kernel, const LinearArgs& args, Range tokens, Range panels) = nullptr;

  void (*rms_norm)(const RmsNormArgs& args, Range tokens) = nullptr;
  // out[m, i] = silu(gate_up[m, i]) * gate_up[m, n + i]
  void (*silu_mul)(const float* gate_up, float* out, int64_t n, Range tokens) = nullptr;
  void (*qk_norm_rope_kv_write)(const QkvArgs& args, Range tokens) = nullptr;
  void (*attention)(const AttentionArgs& args, const AttentionItem& item) = nullptr;
  void (*mla_cache_write)(const MlaCacheWriteArgs& args, Range tokens) = nullptr;
  void (*mla_attention)(const MlaAttentionArgs& args, const MlaItem& item) = nullptr;
  int64_t mla_part_keys = 0;  // 0: an item always has all parts
  // Merges the states of all parts of the item's rows, in order, and writes `out`.
  void (*mla_merge)(const MlaAttentionArgs& args, const MlaItem& item) = nullptr;
};

const Kernels& reference_kernels();

// The tables that this processor can run, best last; the reference is the first.
struct KernelTables {
  const Kernels* tables[7] = {};
  int count = 0;
};
KernelTables available_kernels();
const Kernels& best_kernels();

// out [count] = values [begin, begin + count) of a row of any weight dtype without separate scales;
// for block types, begin and count are multiples of the block size.
void dequantize(DType dtype, const uint8_t* row, int64_t begin, int64_t count, float* out);

// The same for a row of any source, in any format; for GGUF types begin and count as above, for
// kU4 and kF4E2M1 begin is even.
void dequantize_row(const StoredRow& row, int64_t begin, int64_t count, float* out);

// Logical row `row` of one source, and of all sources of `args`.
StoredRow stored_row(const RowSource& source, int64_t row);
StoredRow stored_row(const PackArgs& args, int64_t row);

// The scales, and the zero points, of all tiles of a row.
const uint8_t* scale_row(const StoredRow& row);
const uint8_t* zero_row(const StoredRow& row);

// A weight as it is packed: like it is stored, but scales stand per row: parts whose scales are
// cut differently become one segment.
constexpr DataFormat packed_format(DataFormat stored, int64_t cols) {
  stored.block_n = has_scales(stored) ? 1 : 0;
  stored.block_k = stored.block_k >= cols ? -1 : stored.block_k;
  return stored;
}

}  // namespace atom::cpu
