// Attention as it is defined: softmax over all visible keys of the paged cache, per token and head.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/reference/reference_kernels.h"

namespace atom::cpu::reference {
namespace {

struct Query {
  const float* q = nullptr;  // [head_dim]
  int64_t sequence = 0;
  int64_t kv_head = 0;
  int64_t first_key = 0;  // visible positions are [first_key, last_key]
  int64_t last_key = 0;
};

void load_row(const AttentionArgs& args, const Query& query, int64_t position, bool is_key,
              float* out) {
  const AttentionMetadata& meta = args.metadata;
  const PagedKvCache& cache = args.cache;
  const int64_t block =
      meta.block_tables[query.sequence * meta.block_table_stride + position / cache.block_size];
  const int64_t row =
      (block * args.num_kv_heads + query.kv_head) * cache.block_size + position % cache.block_size;
  const void* base = is_key ? cache.k : cache.v;
  load_cache_row(cache.dtype,
                 static_cast<const char*>(base) + row * dtype_bytes(cache.dtype, args.head_dim),
                 args.head_dim, is_key ? cache.k_scale : cache.v_scale, out);
}

double score(const AttentionArgs& args, const Query& query, int64_t position) {
  float key[kMaxHeadDim];
  load_row(args, query, position, true, key);
  double sum = 0;
  for (int64_t i = 0; i < args.head_dim; ++i) {
    sum += static_cast<double>(query.q[i]) * static_cast<double>(key[i]);
  }
  return sum * static_cast<double>(args.scale);
}

// Scores are computed twice, once for the maximum, so that nothing as long as the context is
// stored.
void attend(const AttentionArgs& args, const Query& query, const float* sink, float* out) {
  double top = sink == nullptr ? -INFINITY : static_cast<double>(*sink);
  for (int64_t p = query.first_key; p <= query.last_key; ++p) {
    top = std::max(top, score(args, query, p));
  }
  double total = sink == nullptr ? 0.0 : std::exp(static_cast<double>(*sink) - top);
  double sums[kMaxHeadDim] = {};
  float value[kMaxHeadDim];
  for (int64_t p = query.first_key; p <= query.last_key; ++p) {
    const double weight = std::exp(score(args, query, p) - top);
    total += weight;
    load_row(args, query, p, false, value);
    for (int64_t i = 0; i < args.head_dim; ++i) {
      sums[i] += weight * static_cast<double>(value[i]);
    }
  }
  for (int64_t i = 0; i < args.head_dim; ++i) {
    out[i] = static_cast<float>(sums[i] / total);
  }
}

}  // namespace

void attention(const AttentionArgs& args, const AttentionItem& item) {
  const AttentionMetadata& meta = args.metadata;
  const int64_t group = args.num_heads / args.num_kv_heads;
  for (int64_t t = item.tokens.begin; t < item.tokens.end; ++t) {
    const int64_t position =
        meta.context_lens[item.sequence] - (meta.query_start[item.sequence + 1] - t);
    for (int64_t head = item.kv_head * group; head < (item.kv_head + 1) * group; ++head) {
      const Query query{.q = args.qkv + t * args.qkv_stride + head * args.head_dim,
                        .sequence = item.sequence,
                        .kv_head = item.kv_head,
                        .first_key = args.sliding_window > 0
                                         ? std::max<int64_t>(0, position - args.sliding_window + 1)
                                         : 0,
                        .last_key = position};
      attend(args, query, args.sinks == nullptr ? nullptr : args.sinks + head,
             args.out + (t * args.num_heads + head) * args.head_dim);
    }
  }
}

}  // namespace atom::cpu::reference
