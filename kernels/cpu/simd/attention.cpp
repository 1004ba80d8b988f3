// Attention over the paged cache, blocked over keys and over the query rows (tokens x heads of one
// kv head) that share them. Keys are taken in blocks of 64, cut at absolute positions, in order:
// scores, online softmax, weighted values. Each row sees its own visible keys only and sums them
// one by one, so a result does not depend on which rows share an item: prefill in any chunks and
// decode give the same bits.
#include <math.h>

#include "kernels/cpu/simd/attention_tiles.h"
#include "kernels/cpu/simd/isa_kernels.h"
#include "kernels/cpu/simd/vec.h"

namespace atom::cpu::ATOM_ISA {
namespace {

// One pass over the keys for up to kMaxRows rows. Strides are padded to whole vectors.
struct Workspace {
  alignas(64) float keys[kMaxHeadDim][kKeys];     // transposed: one vector holds 16 keys
  alignas(64) float values[kKeys * kMaxHeadDim];  // [kKeys, width]
  alignas(64) float acc[kMaxRows * kMaxHeadDim];  // [rows, width]
  alignas(64) float scores[kMaxRows][kKeys];
  float top[kMaxRows];
  alignas(64) float total[kMaxRows][16];
  const float* query[kMaxRows];
  int64_t first[kMaxRows], last[kMaxRows];  // visible positions of a row, last included
};

// Where the keys and values of an item lie.
struct Pages {
  const AttentionArgs& args;
  const int32_t* blocks;  // of the sequence
  int64_t kv_head;
  int64_t row_bytes;

  ATOM_INLINE_MEMBER int64_t row_offset(int64_t position) const {
    const PagedKvCache& cache = args.cache;
    const int64_t block = blocks[position / cache.block_size];
    return ((block * args.num_kv_heads + kv_head) * cache.block_size +
            position % cache.block_size) *
           row_bytes;
  }
};

// Fills keys and values of positions [begin + keys.begin, begin + keys.end); the rest of the block
// is zero.
template <DType kType>
void load_keys(const Pages& pages, int64_t begin, Range keys, int64_t width, Workspace& w) {
  const int64_t d = pages.args.head_dim;
  const bool scaled = kType == DType::kF8E4M3;
  const F k_scale = f_set(pages.args.cache.k_scale);
  const F v_scale = f_set(pages.args.cache.v_scale);
  alignas(64) float rows[16][16];
  for (int64_t j = 0; j < kKeys; j += 16) {
    if (j + 16 <= keys.begin || j >= keys.end) {
      continue;  // no score of these keys is looked at, no value is used
    }
    for (int64_t i = 0; i < width; i += 16) {
      for (int64_t r = 0; r < 16; ++r) {
        if (j + r < keys.begin || j + r >= keys.end) {
          f_store(rows[r], f_zero());
          continue;
        }
        const int64_t offset = pages.row_offset(begin + j + r);
        const F key =
            load_first<kType>(static_cast<const uint8_t*>(pages.args.cache.k) + offset, i, d);
        const F value =
            load_first<kType>(static_cast<const uint8_t*>(pages.args.cache.v) + offset, i, d);
        f_store(rows[r], scaled ? f_mul(key, k_scale) : key);
        f_store(w.values + (j + r) * width + i, scaled ? f_mul(value, v_scale) : value);
      }
      transpose16(&rows[0][0], &w.keys[i][j], kKeys);
    }
  }
}

// The keys of block [begin, begin + kKeys) that row r sees, relative to begin.
ATOM_INLINE Range visible(const Workspace& w, int64_t r, int64_t begin) {
  const int64_t from = w.first[r] - begin;
  const int64_t to = w.last[r] + 1 - begin;
  return {from < 0 ? 0 : from, to > kKeys ? kKeys : to};
}

void attend_block(const AttentionArgs& args, int64_t rows, int64_t begin, int64_t width,
                  Workspace& w) {
  const float* weights[kMaxRows];
  for (int64_t r = 0; r < rows; ++r) {
    weights[r] = w.scores[r];
  }
  memset(w.scores, 0, sizeof(w.scores[0]) * static_cast<size_t>(rows));
  multiply_rows(w.query, rows, &w.keys[0][0], kKeys, {0, args.head_dim}, &w.scores[0][0]);
  for (int64_t r = 0; r < rows; ++r) {
    const Range keys = visible(w, r, begin);
    if (keys.begin >= keys.end) {
      continue;
    }
    const F shrink = softmax_block(w.scores[r], keys, args.scale, &w.top[r], w.total[r]);
    for (int64_t i = 0; i < width; i += 16) {
      f_store(w.acc + r * width + i, f_mul(f_load(w.acc + r * width + i), shrink));
    }
  }
  // Neighbouring rows with the same visible keys are multiplied together.
  for (int64_t r = 0; r < rows;) {
    const Range keys = visible(w, r, begin);
    int64_t end = r + 1;
    while (end < rows && visible(w, end, begin).begin == keys.begin &&
           visible(w, end, begin).end == keys.end) {
      ++end;
    }
    if (keys.begin < keys.end) {
      multiply_rows(weights + r, end - r, w.values, width, keys, w.acc + r * width);
    }
    r = end;
  }
}

// Rows are (token, head of the group), token by token.
void start_rows(const AttentionArgs& args, const AttentionItem& item, Range rows, int64_t width,
                Workspace& w) {
  const AttentionMetadata& meta = args.metadata;
  const int64_t group = args.num_heads / args.num_kv_heads;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const int64_t r = row - rows.begin;
    const int64_t token = item.tokens.begin + row / group;
    const int64_t head = item.kv_head * group + row % group;
    const int64_t position =
        meta.context_lens[item.sequence] - (meta.query_start[item.sequence + 1] - token);
    w.query[r] = args.qkv + token * args.qkv_stride + head * args.head_dim;
    w.last[r] = position;
    w.first[r] = args.sliding_window > 0 && position >= args.sliding_window
                     ? position - args.sliding_window + 1
                     : 0;
    w.top[r] = args.sinks == nullptr ? -INFINITY : args.sinks[head];
    memset(w.total[r], 0, sizeof(w.total[r]));
    w.total[r][0] = args.sinks == nullptr ? 0.0F : 1.0F;
    memset(w.acc + r * width, 0, sizeof(float) * static_cast<size_t>(width));
  }
}

void finish_rows(const AttentionArgs& args, const AttentionItem& item, Range rows, int64_t width,
                 const Workspace& w) {
  const int64_t group = args.num_heads / args.num_kv_heads;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const int64_t r = row - rows.begin;
    const int64_t token = item.tokens.begin + row / group;
    const int64_t head = item.kv_head * group + row % group;
    const F inverse = f_set(1.0F / f_sum(f_load(w.total[r])));
    float* out = args.out + (token * args.num_heads + head) * args.head_dim;
    for (int64_t i = 0; i < args.head_dim; i += 16) {
      f_store_first(out + i, f_mul(f_load(w.acc + r * width + i), inverse), args.head_dim - i);
    }
  }
}

template <DType kType>
void run(const AttentionArgs& args, const AttentionItem& item) {
  const int64_t group = args.num_heads / args.num_kv_heads;
  const int64_t all = (item.tokens.end - item.tokens.begin) * group;
  const int64_t width = (args.head_dim + 15) / 16 * 16;
  const Pages pages{
      .args = args,
      .blocks = args.metadata.block_tables + item.sequence * args.metadata.block_table_stride,
      .kv_head = item.kv_head,
      .row_bytes = args.head_dim * cache_value_bytes(kType)};
  Workspace w;
  for (int64_t row = 0; row < all; row += kMaxRows) {
    const Range rows{row, row + kMaxRows < all ? row + kMaxRows : all};
    const int64_t count = rows.end - rows.begin;
    start_rows(args, item, rows, width, w);
    const int64_t first = w.first[0];
    const int64_t last = w.last[count - 1];
    for (int64_t begin = first / kKeys * kKeys; begin <= last; begin += kKeys) {
      const Range keys{first > begin ? first - begin : 0,
                       last + 1 - begin < kKeys ? last + 1 - begin : kKeys};
      load_keys<kType>(pages, begin, keys, width, w);
      attend_block(args, count, begin, width, w);
    }
    finish_rows(args, item, rows, width, w);
  }
}

}  // namespace

void attention(const AttentionArgs& args, const AttentionItem& item) {
  switch (args.cache.dtype) {
    case DType::kF32:
      return run<DType::kF32>(args, item);
    case DType::kBF16:
      return run<DType::kBF16>(args, item);
    default:
      return run<DType::kF8E4M3>(args, item);
  }
}

}  // namespace atom::cpu::ATOM_ISA
