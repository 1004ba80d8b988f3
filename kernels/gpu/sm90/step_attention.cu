// What happens between a decode step's qkv product and its output product, in one kernel for few
// sequences: norm and rotation of q and k, the new key and value into the cache, attention over the
// context. A cluster of blocks owns a kv head of a sequence and spreads its keys, 16 a warp at a
// time; partial results meet through distributed shared memory, in the order of ranks. Its portable
// sibling are the two kernels that it stands for (qk_norm_rope_kv_write, decode_attention).
//
// What of a step is known before its qkv product ends is fetched before the wait: lengths, block
// tables, and the cached keys and values of each warp's first tile. The new key and value never
// pass through memory: they are put into the registers of the warp that holds their tile. Barriers:
// two of the block around the query rows and the warps' sums, two of the cluster around the merge.
#include "kernels/gpu/attention/decode_tile.h"
#include "kernels/gpu/attention/instances.h"
#include "kernels/gpu/sm90/hopper.h"
#include "kernels/gpu/vector_ops/head_piece.h"

namespace atom::gpu {
namespace {

constexpr int kWarps = 8;
constexpr int64_t kFewSeqs = 2;
constexpr int64_t kMostSeqs = 8;

template <class T>
struct StepShared {
  alignas(16) uint16_t query[T::kRows][T::kHeadDim];
  alignas(16) uint8_t key[T::kRowBytes];  // the new one, as the cache holds it
  alignas(16) uint8_t value[T::kRowBytes];
  alignas(16) float sums[T::kWarps][T::kRows][T::kHeadDim];
  float stats[T::kWarps][T::kRows][2];  // maximum, sum of weights
  // Of the block, read by the cluster.
  alignas(16) float merged[T::kRows][T::kHeadDim];
  alignas(8) float merged_stats[T::kRows][2];
};

__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ void cluster_barrier() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}
// The same place in another block's shared memory.
__device__ __forceinline__ uint32_t peer_address(const void* own, int rank) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(address)
      : "r"(sm90::shared_address(own)), "r"(rank));
  return address;
}
__device__ __forceinline__ float4 load_peer4(uint32_t address) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}
__device__ __forceinline__ float2 load_peer2(uint32_t address) {
  float2 v;
  asm volatile("ld.shared::cluster.v2.f32 {%0,%1}, [%2];"
               : "=f"(v.x), "=f"(v.y)
               : "r"(address)
               : "memory");
  return v;
}

template <class T, int kCluster>
class StepBody : private DecodeTile<T> {
  using Tile = DecodeTile<T>;
  using Tile::g_, Tile::keys_, Tile::max_, Tile::out_, Tile::t_, Tile::total_, Tile::values_;

 public:
  __device__ StepBody(const QkNormRopeKvWriteArgs& rope, const PagedAttentionArgs& args,
                      StepShared<T>& shared)
      : rope_(rope),
        args_(args),
        shared_(shared),
        group_(args.num_heads / args.num_kv_heads),
        kv_head_(static_cast<int>(blockIdx.y)),
        sequence_(static_cast<int>(blockIdx.z)),
        page_shift_(args.cache.block_size == 16   ? 4
                    : args.cache.block_size == 32 ? 5
                                                  : 6),
        rank_(kCluster == 1 ? 0 : static_cast<int>(cluster_rank())),
        warp_(static_cast<int>(threadIdx.x) / kLanes) {
    token_ = args.metadata.query_start[sequence_];
    num_tokens_ = args.metadata.query_start[sequence_ + 1] - token_;
    context_len_ = args.metadata.context_lens[sequence_];
    const int seen = args.sliding_window > 0 ? context_len_ - args.sliding_window : 0;
    first_key_ = seen > 0 ? seen : 0;
  }

  // Nothing that this step's other kernels write, but before them.
  __device__ __forceinline__ void prefetch() {
    key_ = first_key_ / 16 * 16 + (rank_ + kCluster * warp_) * 16;
    if (key_ < context_len_) {
      offset_ = offset_of(block_of(key_), key_);
      Tile::load_keys(keys_at());
      Tile::load_values(values_at());
      next_block_ = key_ + kStride < context_len_ ? block_of(key_ + kStride) : 0;
    }
  }

  // After wait_previous.
  __device__ __forceinline__ void run() {
    if (num_tokens_ != 1) {
      return;
    }
    stage_heads();
    __syncthreads();
    attend();
    combine();
    if constexpr (kCluster > 1) {
      merge();
    }
  }

 private:
  static constexpr int kStride = 16 * T::kWarps * kCluster;

  __device__ __forceinline__ int block_of(int key) const {
    return args_.metadata
        .block_tables[sequence_ * args_.metadata.block_table_stride + (key >> page_shift_)];
  }
  __device__ __forceinline__ int64_t offset_of(int64_t block, int key) const {
    const int size = 1 << page_shift_;
    return (((block * args_.num_kv_heads + kv_head_) << page_shift_) + (key & (size - 1))) *
           T::kRowBytes;
  }
  __device__ __forceinline__ const uint8_t* keys_at() const {
    return static_cast<const uint8_t*>(args_.cache.k) + offset_;
  }
  __device__ __forceinline__ const uint8_t* values_at() const {
    return static_cast<const uint8_t*>(args_.cache.v) + offset_;
  }

  // The group's query heads, the key and the value: normed, rotated, into shared memory; the first
  // block of the cluster writes the cache.
  __device__ __forceinline__ void stage_heads() {
    constexpr int kGroup = HeadPiece::kGroup;
    const int lane = static_cast<int>(threadIdx.x) % kGroup;
    const int half = rope_.rotary_dim / 2;
    const int pairs = half / 8;
    const bool rotates = lane < pairs;
    const int first = rotates ? lane * 8 : rope_.rotary_dim + (lane - pairs) * 16;
    const int second = rotates ? half + first : first + 8;
    const int64_t slot = rope_.slot_mapping[token_];
    // Whole warps take part in a head's norm.
    for (int i = static_cast<int>(threadIdx.x) / kGroup; i / 2 * 2 < group_ + 2;
         i += T::kThreads / kGroup) {
      const bool is_query = i < group_;
      const bool is_value = i > group_;
      const int head = is_query   ? kv_head_ * group_ + i
                       : is_value ? args_.num_heads + args_.num_kv_heads + kv_head_
                                  : args_.num_heads + kv_head_;
      const bool active = second < T::kHeadDim && i < group_ + 2;
      HeadPiece piece{};
      const uint16_t* row = rope_.qkv + token_ * args_.q_stride + head * T::kHeadDim;
      if (active) {
        load8(row + first, piece.a);
        load8(row + second, piece.b);
      }
      const float* weight = is_query ? rope_.q_norm : rope_.k_norm;
      if (rope_.q_norm != nullptr || rope_.k_norm != nullptr) {
        norm_head(piece, active && !is_value && weight != nullptr, weight, first, second,
                  rope_.norm_eps, T::kHeadDim);
      }
      if (active && rotates && !is_value) {
        rotate(piece, rope_.cos_sin + token_ * rope_.rotary_dim, first, half);
      }
      if (!active) {
        continue;
      }
      if (is_query) {
        store8(shared_.query[i] + first, piece.a);
        store8(shared_.query[i] + second, piece.b);
      } else {
        cache_row(piece, is_value, slot, first, second);
      }
    }
  }

  __device__ __forceinline__ void cache_row(HeadPiece& piece, bool is_value, int64_t slot,
                                            int first, int second) {
    using Stored = std::conditional_t<T::kE4M3, uint8_t, uint16_t>;
    if constexpr (T::kE4M3) {
      const float inverse = 1.0F / (is_value ? args_.cache.v_scale : args_.cache.k_scale);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        piece.a[j] *= inverse;
        piece.b[j] *= inverse;
      }
    }
    auto* row = reinterpret_cast<Stored*>(is_value ? shared_.value : shared_.key);
    store8(row + first, piece.a);
    store8(row + second, piece.b);
    if (rank_ == 0 && slot >= 0) {
      const int64_t size = args_.cache.block_size;
      auto* to = static_cast<Stored*>(is_value ? args_.cache.v : args_.cache.k) +
                 ((slot / size * args_.num_kv_heads + kv_head_) * size + slot % size) * T::kHeadDim;
      store8(to + first, piece.a);
      store8(to + second, piece.b);
    }
  }

  // The new key and value to their places in the tile's fragments; the cache may not hold them yet.
  __device__ __forceinline__ void patch_new(int n) {
    uint32_t key[T::kKeyWords];
    const uint32_t key_at = sm90::shared_address(shared_.key) + t_ * T::kKeyLoad;
#pragma unroll
    for (int i = 0; i < T::kKeyWords * 4 / T::kKeyLoad; ++i) {
      load_shared<T::kKeyLoad>(key + i * (T::kKeyLoad / 4), key_at + i * 4 * T::kKeyLoad);
    }
#pragma unroll
    for (int i = 0; i < T::kKeyWords; ++i) {
      keys_[0][i] = n == g_ ? key[i] : keys_[0][i];
      keys_[1][i] = n == g_ + 8 ? key[i] : keys_[1][i];
    }
    uint32_t value[T::kValueWords];
    const uint32_t value_at = sm90::shared_address(shared_.value) + g_ * T::kValueLoad;
#pragma unroll
    for (int i = 0; i < T::kValueWords * 4 / T::kValueLoad; ++i) {
      load_shared<T::kValueLoad>(value + i * (T::kValueLoad / 4), value_at + i * 8 * T::kValueLoad);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const bool is_new = 2 * t_ + (j & 1) + (j >> 1) * 8 == n;
#pragma unroll
      for (int i = 0; i < T::kValueWords; ++i) {
        values_[j][i] = is_new ? value[i] : values_[j][i];
      }
    }
  }

  __device__ __forceinline__ void attend() {
    Tile::reset();
    if (key_ >= context_len_) {
      return;
    }
    uint2 fragments[T::kSteps];
#pragma unroll
    for (int step = 0; step < T::kSteps; ++step) {
      fragments[step] =
          g_ < group_ ? Tile::query_pairs(shared_.query[g_] + Tile::query_dim(step)) : uint2{0, 0};
    }
    const auto query = [&](int, int step) { return fragments[step]; };
    const float scale = args_.scale * kLog2E * (T::kE4M3 ? args_.cache.k_scale : 1.0F);
    for (; key_ < context_len_; key_ += kStride) {
      if (key_ + 16 >= context_len_) {
        patch_new(context_len_ - 1 - key_);
      }
      float scores[1][4] = {};
      Tile::multiply_keys(scores, query);
      const int next = key_ + kStride;
      if (next < context_len_) {
        offset_ = offset_of(next_block_, next);
        Tile::load_keys(keys_at());
        next_block_ = next + kStride < context_len_ ? block_of(next + kStride) : 0;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[0][i] *= scale;
      }
      if (key_ + 16 > context_len_ || key_ < first_key_) {
        Tile::mask(key_, context_len_, scores, [this](int position, int) {
          return position < context_len_ && position >= first_key_;
        });
      }
      uint32_t weights[1][2];
      Tile::weigh(scores[0], 0, weights[0]);
      Tile::multiply_values(weights);
      if (next < context_len_) {
        Tile::load_values(values_at());
      }
    }
  }

  // The warps' sums to the block's.
  __device__ __forceinline__ void combine() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float total = total_[0][i];
      total += shuffle_xor(total, 4);
      total += shuffle_xor(total, 8);
      total += shuffle_xor(total, 16);
      if (g_ == 0) {
        shared_.stats[warp_][2 * t_ + i][0] = max_[0][i];
        shared_.stats[warp_][2 * t_ + i][1] = total;
      }
    }
#pragma unroll
    for (int i = 0; i < T::kTiles; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int r = 2 * t_ + (j & 1);
        if (r < group_) {
          shared_.sums[warp_][r][Tile::dim_of(i + (j >> 1) * T::kTiles)] = out_[0][i][j];
        }
      }
    }
    __syncthreads();
    for (int e = static_cast<int>(threadIdx.x) * 4; e < group_ * T::kHeadDim;
         e += T::kThreads * 4) {
      const int r = e / T::kHeadDim;
      const int dim = e % T::kHeadDim;
      float2 pieces[T::kWarps];
      float4 values[T::kWarps];
#pragma unroll
      for (int w = 0; w < T::kWarps; ++w) {
        pieces[w] = *reinterpret_cast<const float2*>(shared_.stats[w][r]);
        values[w] = *reinterpret_cast<const float4*>(shared_.sums[w][r] + dim);
      }
      const Merged sum = merge_pieces(pieces, values);
      if constexpr (kCluster == 1) {
        store(r, dim, sum);
      } else {
        *reinterpret_cast<float4*>(shared_.merged[r] + dim) = sum.value;
        if (dim == 0) {
          shared_.merged_stats[r][0] = sum.top;
          shared_.merged_stats[r][1] = sum.total;
        }
      }
    }
  }

  // The blocks' sums: each block a part of the elements.
  __device__ __forceinline__ void merge() {
    cluster_barrier();
    const int e = (static_cast<int>(threadIdx.x) * kCluster + rank_) * 4;
    if (e < group_ * T::kHeadDim) {
      const int r = e / T::kHeadDim;
      const int dim = e % T::kHeadDim;
      float2 pieces[kCluster];
      float4 values[kCluster];
#pragma unroll
      for (int p = 0; p < kCluster; ++p) {
        pieces[p] = load_peer2(peer_address(shared_.merged_stats[r], p));
        values[p] = load_peer4(peer_address(shared_.merged[r] + dim, p));
      }
      store(r, dim, merge_pieces(pieces, values));
    }
    cluster_barrier();  // no block leaves while another reads its memory
  }

  struct Merged {
    float4 value;
    float top;
    float total;
  };
  template <int kPieces>
  static __device__ __forceinline__ Merged merge_pieces(const float2 (&pieces)[kPieces],
                                                        const float4 (&values)[kPieces]) {
    Merged sum{{0.0F, 0.0F, 0.0F, 0.0F}, kLowest, 0.0F};
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      sum.top = fmaxf(sum.top, pieces[p].x);
    }
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const float factor = fast_exp2(pieces[p].x - sum.top);
      sum.total += pieces[p].y * factor;
      sum.value.x += values[p].x * factor;
      sum.value.y += values[p].y * factor;
      sum.value.z += values[p].z * factor;
      sum.value.w += values[p].w * factor;
    }
    return sum;
  }

  // Four neighbouring dims of a row.
  __device__ __forceinline__ void store(int r, int dim, const Merged& sum) const {
    const int head = kv_head_ * group_ + r;
    float scale = T::kE4M3 ? args_.cache.v_scale : 1.0F;
    float total = sum.total;
    if (args_.sinks != nullptr) {
      const float sink = args_.sinks[head] * kLog2E;
      const float higher = fmaxf(sum.top, sink);
      const float factor = fast_exp2(sum.top - higher);
      scale *= factor;
      total = total * factor + fast_exp2(sink - higher);
    }
    scale = total > 0.0F ? scale / total : 0.0F;
    uint16_t* to =
        args_.out + (static_cast<int64_t>(token_) * args_.num_heads + head) * T::kHeadDim + dim;
    *reinterpret_cast<uint2*>(to) = {PairBf16::pack(sum.value.x * scale, sum.value.y * scale),
                                     PairBf16::pack(sum.value.z * scale, sum.value.w * scale)};
  }

  const QkNormRopeKvWriteArgs& rope_;
  const PagedAttentionArgs& args_;
  StepShared<T>& shared_;
  const int group_;
  const int kv_head_;
  const int sequence_;
  const int page_shift_;
  const int rank_;
  const int warp_;
  int token_;
  int num_tokens_;
  int context_len_;
  int first_key_;
  int key_ = 0;  // of this warp's tile
  int next_block_ = 0;
  int64_t offset_ = 0;
};

// Grid: (blocks of a cluster, kv heads, sequences).
template <class T, int kCluster>
__global__ void __launch_bounds__(T::kThreads, 1)
    step_attention_kernel(const __grid_constant__ QkNormRopeKvWriteArgs rope,
                          const __grid_constant__ PagedAttentionArgs args) {
  __shared__ StepShared<T> shared;
  allow_next();
  StepBody<T, kCluster> body(rope, args, shared);
  body.prefetch();
  wait_previous();
  body.run();
}

template <class T, int kCluster>
bool launch(const QkNormRopeKvWriteArgs& rope, const PagedAttentionArgs& args, void* stream) {
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {kCluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(kCluster, static_cast<unsigned>(args.num_kv_heads),
                        static_cast<unsigned>(args.metadata.num_seqs));
  config.blockDim = dim3(T::kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, step_attention_kernel<T, kCluster>, rope, args) == cudaSuccess;
}

// Measured on an H200 (docs/benchmarks/gpu_attention.md): few blocks, but 16 warps a kv head.
template <int kHeadDim, bool kE4M3>
bool launch_for(const QkNormRopeKvWriteArgs& rope, const PagedAttentionArgs& args, void* stream) {
  using T = DecodeTraits<kHeadDim, kE4M3, 1, kWarps>;
  return args.metadata.num_seqs <= kFewSeqs ? launch<T, 4>(rope, args, stream)
                                            : launch<T, 2>(rope, args, stream);
}

}  // namespace

bool launch_step_sm90(const QkNormRopeKvWriteArgs& rope, const PagedAttentionArgs& args,
                      void* stream) {
  const int group = args.num_kv_heads > 0 ? args.num_heads / args.num_kv_heads : 0;
  const bool dim = args.head_dim == 64 || args.head_dim == 128;
  const int64_t size = args.cache.block_size;
  if (!device_is_hopper() || !dim || group > 8 || args.batch_invariant || args.portable ||
      args.metadata.num_seqs > kMostSeqs || (size != 16 && size != 32 && size != 64) ||
      rope.rotary_dim % 16 != 0 || rope.rotary_dim > args.head_dim) {
    return false;
  }
  if (args.metadata.num_seqs == 0) {
    return true;
  }
  const bool e4m3 = args.cache.dtype == DType::kF8E4M3;
  if (args.head_dim == 64) {
    return e4m3 ? launch_for<64, true>(rope, args, stream)
                : launch_for<64, false>(rope, args, stream);
  }
  return e4m3 ? launch_for<128, true>(rope, args, stream)
              : launch_for<128, false>(rope, args, stream);
}

}  // namespace atom::gpu
