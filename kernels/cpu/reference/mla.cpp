// Latent attention as it is defined: norm and rotation before the cache, softmax over all visible
// rows, which are keys and, in their first part, values.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/reference/reference_kernels.h"

namespace atom::cpu::reference {
namespace {

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

// The cache row of a position, real values.
void load_latent(const MlaAttentionArgs& args, int64_t sequence, int64_t position, float* out) {
  const AttentionMetadata& meta = args.metadata;
  const PagedKvCache& cache = args.cache;
  const int64_t size = args.shape.rank + args.shape.rope;
  const int64_t block =
      meta.block_tables[sequence * meta.block_table_stride + position / cache.block_size];
  const int64_t row = block * cache.block_size + position % cache.block_size;
  load_cache_row(cache.dtype,
                 static_cast<const char*>(cache.k) + row * dtype_bytes(cache.dtype, size), size,
                 cache.k_scale, out);
}

double dot(const float* a, const float* b, int64_t size) {
  double sum = 0;
  for (int64_t i = 0; i < size; ++i) {
    sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  }
  return sum;
}

// Scores are computed twice, once for the maximum, so that nothing as long as the context is
// stored.
void attend(const MlaAttentionArgs& args, int64_t sequence, int64_t last, const float* query,
            float* out) {
  const MlaShape& shape = args.shape;
  float row[kMaxLatentRank + kMaxLatentRope];
  const auto score = [&](int64_t position) {
    load_latent(args, sequence, position, row);
    return dot(query, row, shape.rank + shape.rope) * static_cast<double>(args.scale);
  };
  double top = -INFINITY;
  for (int64_t p = 0; p <= last; ++p) {
    top = std::max(top, score(p));
  }
  double total = 0.0;
  double sums[kMaxLatentRank] = {};
  for (int64_t p = 0; p <= last; ++p) {
    const double weight = std::exp(score(p) - top);
    total += weight;
    for (int64_t i = 0; i < shape.rank; ++i) {
      sums[i] += weight * static_cast<double>(row[i]);
    }
  }
  for (int64_t i = 0; i < shape.rank; ++i) {
    out[i] = static_cast<float>(sums[i] / total);
  }
}

}  // namespace

void mla_cache_write(const MlaCacheWriteArgs& args, Range tokens) {
  const MlaShape& shape = args.shape;
  const PagedKvCache& cache = args.cache;
  const int64_t size = shape.rank + shape.rope;
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
    float row[kMaxLatentRank + kMaxLatentRope];
    const float* latent = args.latent + m * size;
    norm_row(latent, args.norm, args.norm_eps, shape.rank, row);
    rotate_pairs(latent + shape.rank, cos_sin, shape.rope, row + shape.rank);
    store_cache_row(cache.dtype, row, size, cache.k_scale,
                    static_cast<char*>(cache.k) + slot * dtype_bytes(cache.dtype, size));
  }
}

void mla_attention(const MlaAttentionArgs& args, const MlaItem& item) {
  const AttentionMetadata& meta = args.metadata;
  const MlaShape& shape = args.shape;
  for (int64_t t = item.token_begin; t < item.token_end; ++t) {
    const int64_t position =
        meta.context_lens[item.sequence] - (meta.query_start[item.sequence + 1] - t);
    for (int64_t h = item.head_begin; h < item.head_end; ++h) {
      const int64_t row = t * shape.num_heads + h;
      attend(args, item.sequence, position, args.query + row * (shape.rank + shape.rope),
             args.out + row * shape.rank);
    }
  }
}

}  // namespace atom::cpu::reference
