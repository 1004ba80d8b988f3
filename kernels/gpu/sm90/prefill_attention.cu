// Prefill attention for Hopper: a block of 128 query rows of one kv head (tokens x heads of its
// group), 64 to each of two warpgroups that multiply (prefill_consumer.h); a third brings tiles of
// 128 keys and values from the paged cache, two tiles ahead (prefill_tiles.h). Head dims 64 and
// 128, bf16 and e4m3 caches; the portable sibling (attention/prefill_body.h) takes the rest.
#include "kernels/gpu/sm90/prefill_consumer.h"

namespace atom::gpu {
namespace {

using namespace sm90;

template <class L>
__global__ void __launch_bounds__(kThreads, 1)
    prefill_kernel(const PagedAttentionArgs args, const __grid_constant__ TensorMaps maps,
                   bool query_boxes) {
  extern __shared__ __align__(1024) uint8_t shared[];
  auto* barriers = reinterpret_cast<Barriers*>(shared + L::kBarriers);
  int* starts = reinterpret_cast<int*>(shared + L::kBytes);
  wait_previous();
  const int total = sequence_starts(
      static_cast<int>(args.metadata.num_seqs), starts, reinterpret_cast<int*>(shared),
      [&](int s) { return args.num_kv_heads * row_tiles<kRows>(args, s); });
  if (threadIdx.x == 0) {
    for (int i = 0; i < kTasks; ++i) {
      init_barrier(&barriers->query_full[i], 1);
      init_barrier(&barriers->query_empty[i], kConsumers);
    }
    for (int i = 0; i < kStages; ++i) {
      init_barrier(&barriers->keys_full[i], 1);
      init_barrier(&barriers->values_full[i], 1);
      init_barrier(&barriers->keys_empty[i], kConsumers);
      init_barrier(&barriers->values_empty[i], kConsumers);
    }
    for (int i = 0; i < kRawTiles; ++i) {
      init_barrier(&barriers->raw_full[i], 1);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    publish_shared();
  }
  __syncthreads();
  if (threadIdx.x < kGroupThreads) {
    shrink_registers<L::kConverts ? 56 : 24>();
    if constexpr (L::kConverts) {
      produce_converted<L>(args, maps, query_boxes, shared, starts, total);
    } else if (threadIdx.x < kLanes) {
      produce<L>(args, maps, query_boxes, shared, starts, total);
    }
  } else {
    grow_registers<L::kConverts ? 224 : 240>();
    Consumer<L> consumer(args, query_boxes, shared);
    for (int round = 0; round * static_cast<int>(gridDim.x) < total; ++round) {
      if (task_of(round) < total) {
        consumer.run();
      }
    }
  }
}

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                 const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                 const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

EncodeTiled encoder() {
  static const EncodeTiled found = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult result{};
    (void)cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                           cudaEnableDefault, &result);
    return reinterpret_cast<EncodeTiled>(entry);
  }();
  return found;
}

// The cache as rows of head_dim values.
bool make_map(const PagedAttentionArgs& args, void* cache, CUtensorMap* map) {
  const cuuint64_t rows = static_cast<cuuint64_t>(args.cache.num_blocks) *
                          static_cast<cuuint64_t>(args.num_kv_heads * args.cache.block_size);
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(args.head_dim), rows};
  const bool raw = args.cache.dtype == DType::kF8E4M3;
  const auto dim = static_cast<cuuint32_t>(args.head_dim);
  const cuuint64_t strides[1] = {dim * (raw ? cuuint64_t{1} : 2)};
  const cuuint32_t box[2] = {raw ? dim : 64, kBoxRows};
  const cuuint32_t steps[2] = {1, 1};
  return encoder() != nullptr && rows < 0x7ffffff0U &&
         encoder()(map, raw ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
                   cache, sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                   raw ? CU_TENSOR_MAP_SWIZZLE_NONE : CU_TENSOR_MAP_SWIZZLE_128B,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// The queries as [num_tokens, num_heads, head_dim]; a box is a warpgroup's rows.
bool make_query_map(const PagedAttentionArgs& args, CUtensorMap* map) {
  const int group = args.num_heads / args.num_kv_heads;
  if (64 % group != 0 || encoder() == nullptr) {
    return false;
  }
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(args.head_dim),
                               static_cast<cuuint64_t>(args.num_heads),
                               static_cast<cuuint64_t>(args.metadata.num_tokens)};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(args.head_dim) * 2,
                                 static_cast<cuuint64_t>(args.q_stride) * 2};
  const cuuint32_t box[3] = {64, static_cast<cuuint32_t>(group),
                             static_cast<cuuint32_t>(64 / group)};
  const cuuint32_t steps[3] = {1, 1, 1};
  return encoder()(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<uint16_t*>(args.q), sizes,
                   strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <class L>
bool launch(const PagedAttentionArgs& args, void* stream) {
  TensorMaps maps{};
  if (!make_map(args, args.cache.k, &maps.keys) || !make_map(args, args.cache.v, &maps.values)) {
    return false;
  }
  const bool query_boxes = make_query_map(args, &maps.query);
  const auto kernel = prefill_kernel<L>;
  constexpr int kBytes = L::kBytes;
  constexpr int kMostBytes = 227 * 1024;
  const int shared = kBytes + static_cast<int>(args.metadata.num_seqs + 1) * 4;
  static const bool allowed =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, kMostBytes) == cudaSuccess;
  if (!allowed || shared > kMostBytes) {
    return false;
  }
  return launch_chained(kernel,
                        {.grid = dim3(static_cast<unsigned>(multiprocessor_count())),
                         .block = dim3(kThreads),
                         .shared_bytes = static_cast<unsigned>(shared),
                         .stream = static_cast<cudaStream_t>(stream)},
                        args, maps, query_boxes) == nullptr;
}

}  // namespace

bool launch_prefill_sm90(const PagedAttentionArgs& args, void* stream) {
  static const bool hopper = [] {
    int device = 0;
    int major = 0;
    (void)cudaGetDevice(&device);
    (void)cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    return major == 9;
  }();
  if (!hopper) {
    return false;
  }
  const bool e4m3 = args.cache.dtype == DType::kF8E4M3;
  switch (args.head_dim) {
    case 64:
      return e4m3 ? launch<Layout<64, true>>(args, stream)
                  : launch<Layout<64, false>>(args, stream);
    case 128:
      return e4m3 ? launch<Layout<128, true>>(args, stream)
                  : launch<Layout<128, false>>(args, stream);
    default:
      return false;
  }
}

}  // namespace atom::gpu
