// Rotary positions, and what happens to q, k and v between their product and attention.
#include "kernels/gpu/primitives/launch.h"
#include "kernels/gpu/primitives/warp.h"
#include "kernels/gpu/vector_ops.h"
#include "kernels/gpu/vector_ops/head_piece.h"
#include "kernels/gpu/vector_ops/rope_any.h"
#include "kernels/gpu/vector_ops/row_io.h"

namespace atom::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kGroup = HeadPiece::kGroup;

__global__ void __launch_bounds__(kThreads) rope_cos_sin_kernel(const RopeCosSinArgs args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  wait_previous();
  if (i < args.num_tokens * args.half) {
    const int64_t token = i / args.half;
    const int64_t frequency = i % args.half;
    const float angle = static_cast<float>(args.positions[token]) * args.inv_freq[frequency];
    float sine = 0.0F;
    float cosine = 0.0F;
    sincosf(angle, &sine, &cosine);
    float* row = args.cos_sin + token * 2 * args.half;
    row[frequency] = cosine * args.scale;
    row[args.half + frequency] = sine * args.scale;
  }
  // Later kernels of the step read the result before they wait for those before them.
  __threadfence();
  allow_next();
}

// Grid: (tokens, heads / (kThreads / kGroup)).
__global__ void __launch_bounds__(kThreads)
    qk_norm_rope_kv_write_kernel(const QkNormRopeKvWriteArgs args) {
  const int64_t token = blockIdx.x;
  const int num_heads = args.num_heads + 2 * args.num_kv_heads;
  const int head = static_cast<int>(blockIdx.y * (kThreads / kGroup) + threadIdx.x / kGroup);
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  // The first lanes take the rotating pairs, the next ones what is left of the head, 16 at a time.
  const int half = args.rotary_dim / 2;
  const int pairs = half / 8;
  const bool rotates = lane < pairs;
  const int first = rotates ? lane * 8 : args.rotary_dim + (lane - pairs) * 16;
  const int second = rotates ? half + first : first + 8;
  const bool active = head < num_heads && second < args.head_dim;
  const bool is_value = head >= args.num_heads + args.num_kv_heads;
  const bool is_query = head < args.num_heads;
  allow_next();
  wait_previous();

  HeadPiece piece{};
  uint16_t* row = args.qkv + (token * num_heads + head) * args.head_dim;
  if (active) {
    const float scale = row_scale(args.qkv_scales, token);
    load8(row + first, piece.a);
    load8(row + second, piece.b);
    scale8(args.qkv_scales, scale, head * args.head_dim + first, piece.a);
    scale8(args.qkv_scales, scale, head * args.head_dim + second, piece.b);
  }
  const float* weight = is_query ? args.q_norm : args.k_norm;
  if (args.q_norm != nullptr || args.k_norm != nullptr) {  // the reduction is for whole warps
    norm_head(piece, active && !is_value && weight != nullptr, weight, first, second, args.norm_eps,
              args.head_dim);
  }
  if (!active) {
    return;
  }
  if (rotates && !is_value) {
    rotate(piece, args.cos_sin + token * args.rotary_dim, first, half);
  }
  if (is_query) {
    store8(row + first, piece.a);
    store8(row + second, piece.b);
    return;
  }
  const int64_t slot = args.slot_mapping[token];
  if (slot < 0) {
    return;
  }
  const PagedKvCache& cache = args.cache;
  const int kv_head = (head - args.num_heads) % args.num_kv_heads;
  const int64_t block = slot / cache.block_size;
  const int64_t at =
      ((block * args.num_kv_heads + kv_head) * cache.block_size + slot % cache.block_size) *
      args.head_dim;
  void* to = is_value ? cache.v : cache.k;
  const float inverse = 1.0F / (is_value ? cache.v_scale : cache.k_scale);
  store_cache(to, cache.dtype, at + first, inverse, piece.a);
  store_cache(to, cache.dtype, at + second, inverse, piece.b);
}

// The same for heads that rotate whole, and of many tokens: a thread keeps its place in the head,
// and with it its angles and norm weights, and goes through heads of its token. kLanes threads a
// head, kTokenGroups heads of a token at a time.
constexpr int kTokenGroups = 16;

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads)
    rope_whole_heads_kernel(const QkNormRopeKvWriteArgs args) {
  constexpr int kLanes = kHeadDim / 16;
  constexpr int kTokens = kThreads / (kLanes * kTokenGroups);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kLanes;
  const int group = thread / kLanes % kTokenGroups;
  const int64_t token =
      static_cast<int64_t>(blockIdx.x) * kTokens + thread / (kLanes * kTokenGroups);
  const int num_heads = args.num_heads + 2 * args.num_kv_heads;
  const int first = lane * 8;
  const int second = kHeadDim / 2 + first;
  allow_next();
  wait_previous();
  const bool active = token < args.num_tokens;
  const int64_t slot = active ? args.slot_mapping[token] : -1;
  const PagedKvCache& cache = args.cache;
  const int64_t block = slot / cache.block_size;
  const int64_t offset = slot - block * cache.block_size;
  const float scale = active ? row_scale(args.qkv_scales, token) : 1.0F;
  uint16_t* row = args.qkv + (token * num_heads + group) * kHeadDim;
  Vec16 halves[2] = {};
  if (active) {
    halves[0] = load16(row + first);
    halves[1] = load16(row + second);
  }
  for (int head = group; head < num_heads; head += kTokenGroups, row += kTokenGroups * kHeadDim) {
    const bool is_value = head >= args.num_heads + args.num_kv_heads;
    const bool is_query = head < args.num_heads;
    HeadPiece piece;
    unpack_bf16(halves[0], piece.a);
    unpack_bf16(halves[1], piece.b);
    if (active && head + kTokenGroups < num_heads) {
      halves[0] = load16(row + kTokenGroups * kHeadDim + first);
      halves[1] = load16(row + kTokenGroups * kHeadDim + second);
    }
    if (active) {
      scale8(args.qkv_scales, scale, head * kHeadDim + first, piece.a);
      scale8(args.qkv_scales, scale, head * kHeadDim + second, piece.b);
    }
    const float* weight = is_query ? args.q_norm : args.k_norm;
    if (args.q_norm != nullptr || args.k_norm != nullptr) {
      norm_head<kLanes>(piece, active && !is_value && weight != nullptr, weight, first, second,
                        args.norm_eps, kHeadDim);
    }
    if (!active) {
      continue;
    }
    if (!is_value) {
      rotate(piece, args.cos_sin + token * kHeadDim, first, kHeadDim / 2);
    }
    if (is_query) {
      store8(row + first, piece.a);
      store8(row + second, piece.b);
    } else if (slot >= 0) {
      const int kv_head = head - args.num_heads - (is_value ? args.num_kv_heads : 0);
      const int64_t at =
          ((block * args.num_kv_heads + kv_head) * cache.block_size + offset) * kHeadDim;
      void* to = is_value ? cache.v : cache.k;
      const float inverse = 1.0F / (is_value ? cache.v_scale : cache.k_scale);
      store_cache(to, cache.dtype, at + first, inverse, piece.a);
      store_cache(to, cache.dtype, at + second, inverse, piece.b);
    }
  }
}

// False when the kernel does not take the heads, or tokens are too few to fill the device.
bool launch_whole_heads(const QkNormRopeKvWriteArgs& args, DeviceStream stream,
                        DeviceStatus& status) {
  constexpr int64_t kFewestTokens = 512;
  const bool takes = (args.head_dim == 64 || args.head_dim == 128) &&
                     args.rotary_dim == args.head_dim && args.num_tokens >= kFewestTokens &&
                     (args.num_heads + 2 * args.num_kv_heads) % kTokenGroups == 0;
  if (!takes) {
    return false;
  }
  const int64_t tokens = kThreads / (args.head_dim / 16 * kTokenGroups);
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>((args.num_tokens + tokens - 1) / tokens)),
      .block = dim3(kThreads),
      .stream = static_cast<cudaStream_t>(stream)};
  status = args.head_dim == 64 ? launch_chained(rope_whole_heads_kernel<64>, shape, args)
                               : launch_chained(rope_whole_heads_kernel<128>, shape, args);
  return true;
}

}  // namespace

DeviceStatus rope_cos_sin(const RopeCosSinArgs& args, DeviceStream stream) {
  const int64_t count = args.num_tokens * args.half;
  if (count == 0) {
    return nullptr;
  }
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)),
                          .block = dim3(kThreads),
                          .stream = static_cast<cudaStream_t>(stream)};
  return launch_chained(rope_cos_sin_kernel, shape, args);
}

DeviceStatus qk_norm_rope_kv_write(const QkNormRopeKvWriteArgs& args, DeviceStream stream) {
  if (args.num_tokens == 0) {
    return nullptr;
  }
  if (args.cache.dtype != DType::kBF16 && args.cache.dtype != DType::kF8E4M3) {
    return "qk_norm_rope_kv_write: the cache is neither bf16 nor e4m3";
  }
  if (args.head_dim % 16 != 0 || args.head_dim > HeadPiece::kMaxHeadDim ||
      args.rotary_dim % 16 != 0 || args.rotary_dim > args.head_dim) {
    return qk_norm_rope_kv_write_any(args, stream);
  }
  DeviceStatus status = nullptr;
  if (launch_whole_heads(args, stream, status)) {
    return status;
  }
  constexpr int kHeads = kThreads / kGroup;
  const int heads = args.num_heads + 2 * args.num_kv_heads;
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(args.num_tokens),
                                       static_cast<unsigned>((heads + kHeads - 1) / kHeads)),
                          .block = dim3(kThreads),
                          .stream = static_cast<cudaStream_t>(stream)};
  return launch_chained(qk_norm_rope_kv_write_kernel, shape, args);
}

}  // namespace atom::gpu
