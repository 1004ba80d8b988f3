// Which instance of Hopper's decode attention a model takes: head dims 64 and 128. Two blocks of
// four warps a multiprocessor: one streams while the other meets at the end of an item (64 x 8192,
// bf16: 4443 GB/s, where one block of eight reaches 4375).
#include "kernels/gpu/sm90/decode_launch.h"

namespace atom::gpu {
namespace {

template <int kHeadDim, bool kE4M3>
bool launch(const PagedAttentionArgs& args, void* stream) {
  constexpr int kWarps = 4;
  constexpr int kBlocks = 2;
  const int rows = args.num_heads / args.num_kv_heads * args.max_decode_queries;
  return rows <= 8 ? sm90::launch_decode_ring<DecodeTraits<kHeadDim, kE4M3, 1, kWarps>, kBlocks>(
                         args, stream)
                   : sm90::launch_decode_ring<DecodeTraits<kHeadDim, kE4M3, 2, kWarps>, kBlocks>(
                         args, stream);
}

}  // namespace

bool launch_decode_sm90(const PagedAttentionArgs& args, void* stream) {
  // Which warp takes a tile depends on the block's other items, so a batch-invariant sum is not
  // possible.
  const bool dim = args.head_dim == 64 || args.head_dim == 128;
  if (!device_is_hopper() || !dim || args.batch_invariant) {
    return false;
  }
  const bool e4m3 = args.cache.dtype == DType::kF8E4M3;
  if (args.head_dim == 64) {
    return e4m3 ? launch<64, true>(args, stream) : launch<64, false>(args, stream);
  }
  return e4m3 ? launch<128, true>(args, stream) : launch<128, false>(args, stream);
}

}  // namespace atom::gpu
