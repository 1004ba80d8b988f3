// Latent attention over the paged cache. All heads share the cached rows, so a loaded block of 64
// keys serves up to kMaxRows rows (tokens x heads): scores, online softmax, weighted values, as in
// attention.cpp. The context is cut into parts of kMlaPartKeys keys at absolute positions; each
// part is summed up alone and merged into the parts before it, so that parts may be computed by
// several threads and a result has the same bits however a prompt is cut and work is divided.
// A bf16 cache is multiplied as it is (attention_pairs.h) where the processor and the shape allow.
#include <math.h>

#include "kernels/cpu/simd/attention_pairs.h"
#include "kernels/cpu/simd/attention_tiles.h"
#include "kernels/cpu/simd/isa_kernels.h"
#include "kernels/cpu/simd/vec.h"

namespace atom::cpu::ATOM_ISA {
namespace {

constexpr int64_t kMaxRow = kMaxLatentRank + kMaxLatentRope;
constexpr int64_t kMaxState = kMaxLatentRank + 32;

// What one pass over the keys of a part adds up for a row.
struct RowSums {
  float top;
  alignas(64) float total[16];
};

// One pass for up to kMaxRows rows. Strides are padded to whole vectors.
struct Workspace {
  alignas(64) float keys[kMaxRow][kKeys];            // transposed: one vector holds 16 keys
  alignas(64) float values[kKeys * kMaxLatentRank];  // [kKeys, width]
  // The same of pairs: words of two neighbouring values of a key, of a value of two neighbours.
  alignas(64) uint32_t key_pairs[kMaxRow / 2][kKeys];
  alignas(64) uint32_t value_pairs[kKeys / 2 * kMaxLatentRank];
  alignas(64) uint16_t query_bf16[kMaxRows][kMaxRow];
  alignas(64) uint16_t weights_bf16[kMaxRows][kKeys];
  alignas(64) float acc[kMaxRows * kMaxLatentRank];  // [rows, width], of the current part
  alignas(64) float states[kMaxRows * kMaxState];    // of the parts before it
  alignas(64) float scores[kMaxRows][kKeys];
  RowSums sums[kMaxRows];
  const float* query[kMaxRows];
  int64_t last[kMaxRows];  // visible positions of a row are [0, last]
};

ATOM_INLINE int64_t padded(int64_t size) { return (size + 15) / 16 * 16; }

// Neighbours (2i, 2i + 1) turn by the angle whose cosine and sine are given.
void rotate_pairs(const float* in, const float* cos_sin, int64_t size, float* out) {
  const int64_t half = size / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float a = in[2 * i];
    const float b = in[2 * i + 1];
    out[2 * i] = a * cos_sin[i] - b * cos_sin[half + i];
    out[2 * i + 1] = b * cos_sin[i] + a * cos_sin[half + i];
  }
}

// Fills keys and values of positions [begin, begin + count); the rest of a started vector is zero.
template <DType kType>
void load_keys(const MlaAttentionArgs& args, const int32_t* blocks, int64_t begin, int64_t count,
               Workspace& w) {
  const PagedKvCache& cache = args.cache;
  const int64_t size = args.shape.rank + args.shape.rope;
  const int64_t width = padded(args.shape.rank);
  const int64_t row_bytes = size * cache_value_bytes(kType);
  const F scale = f_set(cache.k_scale);
  alignas(64) float tile[16][16];
  for (int64_t j = 0; j < count; j += 16) {
    const uint8_t* rows[16] = {};
    const int64_t filled = count - j < 16 ? count - j : 16;
    for (int64_t r = 0; r < filled; ++r) {
      const int64_t position = begin + j + r;
      const int64_t slot =
          blocks[position / cache.block_size] * cache.block_size + position % cache.block_size;
      rows[r] = static_cast<const uint8_t*>(cache.k) + slot * row_bytes;
    }
    for (int64_t r = filled; r < 16; ++r) {
      f_store(tile[r], f_zero());
    }
    for (int64_t i = 0; i < size; i += 16) {
      for (int64_t r = 0; r < filled; ++r) {
        const F stored = load_first<kType>(rows[r], i, size);
        const F key = kType == DType::kF8E4M3 ? f_mul(stored, scale) : stored;
        f_store(tile[r], key);
        if (i < width) {
          f_store(w.values + (j + r) * width + i, key);
        }
      }
      transpose16(&tile[0][0], &w.keys[i][j], kKeys);
    }
  }
}

// Asks for the rows of the next block while this one is computed: rows of a cache block follow each
// other.
void prefetch_keys(const MlaAttentionArgs& args, const int32_t* blocks, int64_t begin, int64_t end,
                   int64_t row_bytes) {
  const PagedKvCache& cache = args.cache;
  for (int64_t position = begin; position < end;) {
    const int64_t within = position % cache.block_size;
    const int64_t left = cache.block_size - within;
    const int64_t count = end - position < left ? end - position : left;
    const int64_t slot = blocks[position / cache.block_size] * cache.block_size + within;
    prefetch(static_cast<const uint8_t*>(cache.k) + slot * row_bytes, count * row_bytes);
    position += count;
  }
}

// The keys of block [begin, begin + kKeys) that row r sees, relative to begin.
ATOM_INLINE Range visible(const Workspace& w, int64_t r, int64_t begin) {
  const int64_t to = w.last[r] + 1 - begin;
  return {0, to < 0 ? 0 : to > kKeys ? kKeys : to};
}

void attend_block(const MlaAttentionArgs& args, int64_t rows, int64_t begin, Workspace& w) {
  const int64_t width = padded(args.shape.rank);
  const float* weights[kMaxRows];
  for (int64_t r = 0; r < rows; ++r) {
    weights[r] = w.scores[r];
  }
  memset(w.scores, 0, sizeof(w.scores[0]) * static_cast<size_t>(rows));
  multiply_rows(w.query, rows, &w.keys[0][0], kKeys, {0, args.shape.rank + args.shape.rope},
                &w.scores[0][0]);
  for (int64_t r = 0; r < rows; ++r) {
    const Range keys = visible(w, r, begin);
    if (keys.end == 0) {
      continue;
    }
    const F shrink = softmax_block(w.scores[r], keys, args.scale, &w.sums[r].top, w.sums[r].total);
    for (int64_t i = 0; i < width; i += 16) {
      f_store(w.acc + r * width + i, f_mul(f_load(w.acc + r * width + i), shrink));
    }
  }
  // Neighbouring rows with the same visible keys are multiplied together.
  for (int64_t r = 0; r < rows;) {
    const Range keys = visible(w, r, begin);
    int64_t end = r + 1;
    while (end < rows && visible(w, end, begin).end == keys.end) {
      ++end;
    }
    if (keys.end > 0) {
      multiply_rows(weights + r, end - r, w.values, width, keys, w.acc + r * width);
    }
    r = end;
  }
}

// The products of run(): of the cache expanded to f32.
template <DType kType>
struct Expanded {
  static void convert_query(const MlaShape&, int64_t, Workspace&) {}
  static void load(const MlaAttentionArgs& args, const int32_t* blocks, int64_t begin,
                   int64_t count, Workspace& w) {
    load_keys<kType>(args, blocks, begin, count, w);
  }
  static void attend(const MlaAttentionArgs& args, int64_t rows, int64_t begin, Workspace& w) {
    attend_block(args, rows, begin, w);
  }
};

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
// Cache rows are whole vectors of words, latents whole vectors of values.
bool fits_pairs(const MlaShape& shape) {
  return (shape.rank + shape.rope) % 32 == 0 && shape.rank % 16 == 0;
}

// Of a bf16 cache as it is.
struct Pairs {
  static void convert_query(const MlaShape& shape, int64_t row, Workspace& w) {
    for (int64_t i = 0; i < shape.rank + shape.rope; i += 16) {
      store_bf16(w.query_bf16[row] + i, f_load(w.query[row] + i));
    }
  }

  // As load_keys; of a last pair the second half is zero.
  static void load(const MlaAttentionArgs& args, const int32_t* blocks, int64_t begin,
                   int64_t count, Workspace& w) {
    const PagedKvCache& cache = args.cache;
    const int64_t size = args.shape.rank + args.shape.rope;
    const int64_t width = args.shape.rank;
    const uint16_t* rows[kKeys];
    for (int64_t j = 0; j < count; ++j) {
      const int64_t position = begin + j;
      const int64_t slot =
          blocks[position / cache.block_size] * cache.block_size + position % cache.block_size;
      rows[j] = static_cast<const uint16_t*>(cache.k) + slot * size;
    }
    alignas(64) float tile[16][16] = {};
    for (int64_t j = 0; j < count; j += 16) {
      const int64_t filled = count - j < 16 ? count - j : 16;
      for (int64_t r = filled; r < 16; ++r) {
        f_store(tile[r], f_zero());
      }
      for (int64_t i = 0; i < size; i += 32) {
        for (int64_t r = 0; r < filled; ++r) {
          i_store(tile[r], i_load(rows[j + r] + i));
        }
        transpose16(&tile[0][0], reinterpret_cast<float*>(&w.key_pairs[i / 2][j]), kKeys);
      }
    }
    for (int64_t j = 0; j < count; j += 2) {
      for (int64_t i = 0; i < width; i += 16) {
        const I second = j + 1 < count ? i_shl<16>(i_load_u16(rows[j + 1] + i)) : i_zero();
        i_store(w.value_pairs + j / 2 * width + i, i_or(i_load_u16(rows[j] + i), second));
      }
    }
  }

  // As attend_block.
  static void attend(const MlaAttentionArgs& args, int64_t rows, int64_t begin, Workspace& w) {
    const int64_t width = args.shape.rank;
    const int64_t seen = visible(w, rows - 1, begin).end;  // tokens follow each other: the most
    memset(w.scores, 0, sizeof(w.scores[0]) * static_cast<size_t>(rows));
    multiply_pair_rows({.a = w.query_bf16[0],
                        .a_stride = kMaxRow,
                        .b = w.key_pairs[0],
                        .stride = kKeys,
                        .count = args.shape.rank + args.shape.rope,
                        .c = w.scores[0]},
                       rows, padded(seen));
    for (int64_t r = 0; r < rows; ++r) {
      const Range keys = visible(w, r, begin);
      if (keys.end == 0) {
        continue;
      }
      const F shrink =
          softmax_block(w.scores[r], keys, args.scale, &w.sums[r].top, w.sums[r].total);
      for (int64_t j = 0; j < kKeys; j += 16) {
        store_bf16(w.weights_bf16[r] + j, f_load(w.scores[r] + j));
      }
      for (int64_t i = 0; i < width; i += 16) {
        f_store(w.acc + r * width + i, f_mul(f_load(w.acc + r * width + i), shrink));
      }
    }
    for (int64_t r = 0; r < rows;) {
      const Range keys = visible(w, r, begin);
      int64_t end = r + 1;
      while (end < rows && visible(w, end, begin).end == keys.end) {
        ++end;
      }
      if (keys.end > 0) {
        multiply_pair_rows({.a = w.weights_bf16[r],
                            .a_stride = kKeys,
                            .b = w.value_pairs,
                            .stride = width,
                            .count = keys.end,
                            .c = w.acc + r * width},
                           end - r, width);
      }
      r = end;
    }
  }
};
#endif

// A state is [width] sums of weighted values, [16] lanes of the sum of weights, the largest score.
void empty_state(float* state, int64_t width) {
  memset(state, 0, sizeof(float) * static_cast<size_t>(width + 32));
  state[width + 16] = -INFINITY;
}

// Adds the sums of the next part.
void merge_state(float* state, const float* acc, const RowSums& sums, int64_t width) {
  const float before = state[width + 16];
  const float top = before > sums.top ? before : sums.top;
  const F old_share = f_exp(f_set(before - top));
  const F new_share = f_exp(f_set(sums.top - top));
  for (int64_t i = 0; i < width; i += 16) {
    f_store(state + i, f_fma(f_load(acc + i), new_share, f_mul(f_load(state + i), old_share)));
  }
  f_store(state + width,
          f_fma(f_load(sums.total), new_share, f_mul(f_load(state + width), old_share)));
  state[width + 16] = top;
}

void write_row(const MlaAttentionArgs& args, const float* state, int64_t row) {
  const int64_t rank = args.shape.rank;
  const F inverse = f_set(1.0F / f_sum(f_load(state + padded(rank))));
  float* out = args.out + row * rank;
  for (int64_t i = 0; i < rank; i += 16) {
    f_store_first(out + i, f_mul(f_load(state + i), inverse), rank - i);
  }
}

// Where row `row` of an item lies in the step, as (token, head).
struct RowPlace {
  int64_t row;   // of query and out
  int64_t last;  // its position
};

ATOM_INLINE RowPlace place(const MlaAttentionArgs& args, const MlaItem& item, int64_t row) {
  const AttentionMetadata& meta = args.metadata;
  const int64_t heads = item.head_end - item.head_begin;
  const int64_t token = item.token_begin + row / heads;
  const int64_t head = item.head_begin + row % heads;
  return {token * args.shape.num_heads + head,
          meta.context_lens[item.sequence] - (meta.query_start[item.sequence + 1] - token)};
}

void start_part(int64_t rows, int64_t width, Workspace& w) {
  for (int64_t r = 0; r < rows; ++r) {
    w.sums[r].top = -INFINITY;
    memset(w.sums[r].total, 0, sizeof(w.sums[r].total));
    memset(w.acc + r * width, 0, sizeof(float) * static_cast<size_t>(width));
  }
}

// Rows `rows` of the item over the keys of one part.
template <class Products>
void run_part(const MlaAttentionArgs& args, const MlaItem& item, Range rows, int64_t part,
              Workspace& w) {
  const int64_t width = padded(args.shape.rank);
  const int64_t count = rows.end - rows.begin;
  const int32_t* blocks =
      args.metadata.block_tables + item.sequence * args.metadata.block_table_stride;
  start_part(count, width, w);
  const int64_t last = w.last[count - 1];  // tokens follow each other, so the largest
  const int64_t part_end = (part + 1) * kMlaPartKeys;
  for (int64_t begin = part * kMlaPartKeys; begin <= last && begin < part_end; begin += kKeys) {
    const int64_t filled = last + 1 - begin < kKeys ? last + 1 - begin : kKeys;
    Products::load(args, blocks, begin, filled, w);
    const int64_t next = begin + kKeys;
    prefetch_keys(args, blocks, next, last + 1 < next + kKeys ? last + 1 : next + kKeys,
                  (args.shape.rank + args.shape.rope) * cache_value_bytes(args.cache.dtype));
    Products::attend(args, count, begin, w);
  }
  const int64_t size = mla_state_size(args.shape);
  for (int64_t r = 0; r < count; ++r) {
    if (w.last[r] < part * kMlaPartKeys) {
      continue;
    }
    if (item.states == nullptr) {
      merge_state(w.states + r * size, w.acc + r * width, w.sums[r], width);
      continue;
    }
    float* state = item.states + ((part - item.part_begin) * item.rows() + rows.begin + r) * size;
    memcpy(state, w.acc + r * width, sizeof(float) * static_cast<size_t>(width));
    memcpy(state + width, w.sums[r].total, sizeof(w.sums[r].total));
    state[width + 16] = w.sums[r].top;
  }
}

template <class Products>
void run(const MlaAttentionArgs& args, const MlaItem& item) {
  const int64_t size = mla_state_size(args.shape);
  const int64_t query_size = args.shape.rank + args.shape.rope;
  Workspace w;
  for (int64_t row = 0; row < item.rows(); row += kMaxRows) {
    const Range rows{row, row + kMaxRows < item.rows() ? row + kMaxRows : item.rows()};
    for (int64_t r = 0; r < rows.end - rows.begin; ++r) {
      const RowPlace at = place(args, item, row + r);
      w.query[r] = args.query + at.row * query_size;
      w.last[r] = at.last;
      Products::convert_query(args.shape, r, w);
      empty_state(w.states + r * size, padded(args.shape.rank));
    }
    for (int64_t part = item.part_begin; part < item.part_end; ++part) {
      run_part<Products>(args, item, rows, part, w);
    }
    for (int64_t r = 0; item.states == nullptr && r < rows.end - rows.begin; ++r) {
      write_row(args, w.states + r * size, place(args, item, row + r).row);
    }
  }
}

}  // namespace

void mla_cache_write(const MlaCacheWriteArgs& args, Range tokens) {
  const MlaShape& shape = args.shape;
  const PagedKvCache& cache = args.cache;
  const int64_t size = shape.rank + shape.rope;
  const int64_t row_bytes = size * cache_value_bytes(cache.dtype);
  for (int64_t m = tokens.begin; m < tokens.end; ++m) {
    const float* cos_sin = args.cos_sin + m * shape.rope;
    for (int64_t h = m * shape.num_heads; h < (m + 1) * shape.num_heads; ++h) {
      rotate_pairs(args.q + h * (shape.nope + shape.rope) + shape.nope, cos_sin, shape.rope,
                   args.query + h * size + shape.rank);
    }
    const int64_t slot = args.slot_mapping[m];
    if (slot < 0) {
      continue;
    }
    float row[kMaxRow];
    const float* latent = args.latent + m * size;
    norm_row(latent, args.norm, args.norm_eps, shape.rank, row);
    rotate_pairs(latent + shape.rank, cos_sin, shape.rope, row + shape.rank);
    store_cache_row(cache.dtype, row, size, cache.k_scale,
                    static_cast<uint8_t*>(cache.k) + slot * row_bytes);
  }
}

void mla_attention(const MlaAttentionArgs& args, const MlaItem& item) {
  switch (args.cache.dtype) {
    case DType::kF32:
      return run<Expanded<DType::kF32>>(args, item);
    case DType::kBF16:
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
      if (fits_pairs(args.shape)) {
        return run<Pairs>(args, item);
      }
#endif
      return run<Expanded<DType::kBF16>>(args, item);
    default:
      return run<Expanded<DType::kF8E4M3>>(args, item);
  }
}

void mla_merge(const MlaAttentionArgs& args, const MlaItem& item) {
  const int64_t size = mla_state_size(args.shape);
  const int64_t width = padded(args.shape.rank);
  alignas(64) float merged[kMaxState];
  for (int64_t r = 0; r < item.rows(); ++r) {
    const RowPlace at = place(args, item, r);
    empty_state(merged, width);
    for (int64_t part = 0; part * kMlaPartKeys <= at.last; ++part) {
      const float* state = item.states + (part * item.rows() + r) * size;
      RowSums sums{.top = state[width + 16], .total = {}};
      memcpy(sums.total, state + width, sizeof(sums.total));
      merge_state(merged, state, sums, width);
    }
    write_row(args, merged, at.row);
  }
}

}  // namespace atom::cpu::ATOM_ISA
