// Which instance of Hopper's decode attention a model takes: bf16, head dims 64 and 128, one block
// of eight warps a multiprocessor. Two of four warps are 2 % faster at 64 x 8192 but gave wrong
// sums.
#include "kernels/gpu/sm90/decode_launch.h"

namespace atom::gpu {
namespace {

constexpr int kWarps = 8;

template <int kHeadDim, int kRowTiles>
bool launch(const PagedAttentionArgs& args, void* stream) {
  return sm90::launch_decode_ring<DecodeTraits<kHeadDim, false, kRowTiles, kWarps>, 1>(args,
                                                                                       stream);
}

}  // namespace

bool launch_decode_sm90(const PagedAttentionArgs& args, void* stream) {
  // Which warp takes a tile depends on the block's other items, so a batch-invariant sum is not
  // possible.
  const bool dim = args.head_dim == 64 || args.head_dim == 128;
  if (!device_is_hopper() || !dim || args.cache.dtype != DType::kBF16 || args.batch_invariant) {
    return false;
  }
  const int rows = args.num_heads / args.num_kv_heads * args.max_decode_queries;
  if (args.head_dim == 64) {
    return rows <= 8 ? launch<64, 1>(args, stream) : launch<64, 2>(args, stream);
  }
  return rows <= 8 ? launch<128, 1>(args, stream) : launch<128, 2>(args, stream);
}

}  // namespace atom::gpu
