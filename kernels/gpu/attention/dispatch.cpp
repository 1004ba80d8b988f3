// Which attention kernel a model takes, and the size of their workspace. ATOM_GPU_SM90A: the build
// holds the kernels of sm90/. Host code.
#include <algorithm>

#include "kernels/gpu/attention/instances.h"
#include "kernels/gpu/vendor/gpu_runtime.h"

namespace atom::gpu {

bool attention_supports(const PagedAttentionArgs& args) {
  const int32_t dim = args.head_dim;
  const int64_t page = args.cache.block_size;
  // The products are NVIDIA's; portable_attention.h takes what these do not.
  return ATOM_GPU_CUDA != 0 && (dim == 64 || dim == 96 || dim == 128 || dim == 256) &&
         (page == 16 || page == 32 || page == 64) && args.num_kv_heads > 0 &&
         args.num_heads % args.num_kv_heads == 0 &&
         (args.cache.dtype == DType::kBF16 || args.cache.dtype == DType::kF8E4M3);
}

int64_t attention_workspace_bytes(const AttentionLimits& limits) {
  const int64_t rows = limits.max_seqs * limits.max_decode_queries * limits.num_heads;
  // A slot holds 8 or 16 rows, used or not: at worst one row of an item.
  const int64_t items = std::min(rows, limits.max_seqs * limits.num_heads + rows / 8);
  const int64_t slots = std::max<int64_t>(2 * kMaxDecodeGrid, items * kInvariantPieces);
  return kPrefillCounterBytes +
         decode_counter_bytes(limits.max_seqs, limits.max_decode_queries, limits.num_heads) +
         slots * 16 * (limits.head_dim + 2) * 4;
}

#if ATOM_GPU_CUDA

void decode_attention(const PagedAttentionArgs& args, void* stream) {
  if (args.metadata.num_seqs == 0) {
    return;
  }
#ifdef ATOM_GPU_SM90A
  // Of bf16: 3 to 6 % faster from here on, much slower on short contexts, where its blocks wait at
  // the ends of items.
  constexpr int64_t kLongContext = 1024;
  constexpr int64_t kManyKeys = 65536;
  const int64_t context = args.metadata.mean_context_len;
  if (!args.portable && context >= kLongContext && context * args.metadata.num_seqs >= kManyKeys &&
      launch_decode_sm90(args, stream)) {
    return;
  }
#endif
  switch (args.head_dim) {
    case 64:
      return launch_decode<64>(args, stream);
    case 96:
      return launch_decode<96>(args, stream);
    case 128:
      return launch_decode<128>(args, stream);
    default:
      return launch_decode<256>(args, stream);
  }
}

void prefill_attention(const PagedAttentionArgs& args, void* stream) {
  if (args.metadata.num_seqs == 0) {
    return;
  }
#ifdef ATOM_GPU_SM90A
  if (!args.portable && launch_prefill_sm90(args, stream)) {
    return;
  }
#endif
  switch (args.head_dim) {
    case 64:
      return launch_prefill<64>(args, stream);
    case 96:
      return launch_prefill<96>(args, stream);
    case 128:
      return launch_prefill<128>(args, stream);
    default:
      return launch_prefill<256>(args, stream);
  }
}

bool step_attention([[maybe_unused]] const QkNormRopeKvWriteArgs& rope,
                    [[maybe_unused]] const PagedAttentionArgs& args,
                    [[maybe_unused]] void* stream) {
#ifdef ATOM_GPU_SM90A
  return launch_step_sm90(rope, args, stream);
#else
  return false;
#endif
}

#else

bool step_attention(const QkNormRopeKvWriteArgs&, const PagedAttentionArgs&, void*) {
  return false;
}
void decode_attention(const PagedAttentionArgs&, void*) {}
void prefill_attention(const PagedAttentionArgs&, void*) {}

#endif

}  // namespace atom::gpu
