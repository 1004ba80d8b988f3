// Latent attention with matrix cores: a block takes up to kRows rows (token, head) of one sequence,
// because all heads share a key. Shared memory: the queries; two tiles of cache rows, of which one
// is read while the other arrives; scores and weights of the tile. Eight warps divide the tile's
// scores among them, then the columns of the output.
#include <algorithm>

#include "kernels/gpu/attention/mma.h"
#include "kernels/gpu/mla.h"
#include "kernels/gpu/mla/hopper.h"
#include "kernels/gpu/mla/merge.h"
#include "kernels/gpu/mla/portable.h"
#include "kernels/gpu/mla/tile.h"
#include "kernels/gpu/primitives/launch.h"
#include "kernels/gpu/primitives/warp.h"

namespace atom::gpu {

#if ATOM_GPU_CUDA

namespace {

constexpr int kMaxRow = kMaxLatentRank + kMaxLatentRope;
constexpr int kStride = kMaxRow + 8;  // of rows in shared memory: their pieces hit all banks
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kColumnTiles = kMaxLatentRank / 8 / kWarps;  // of 8 columns, per warp
constexpr float kLog2E = 1.4426950408889634F;

// kRowTiles: tiles of 16 rows. kKeys: cache rows of a tile.
template <int kRowTiles_, int kKeys_, bool kE4M3_>
struct MlaTraits {
  static constexpr int kRowTiles = kRowTiles_;
  static constexpr int kRows = 16 * kRowTiles;
  static constexpr int kKeys = kKeys_;
  static constexpr bool kE4M3 = kE4M3_;
  static constexpr int kScoreStride = kKeys + 4;
  static constexpr int kWeightStride = kKeys + 8;
  // Score tiles of 16 x 8 per warp, all of one row tile.
  static constexpr int kScoreTiles = kRowTiles * (kKeys / 8) / kWarps;
  static constexpr int kQueryBytes = kRows * kStride * 2;
  static constexpr int kTileBytes = kKeys * kStride * 2;
  static constexpr int kScoreBytes = kRows * kScoreStride * 4;
  static constexpr int kWeightBytes = kRows * kWeightStride * 2;
  static constexpr int kSharedBytes =
      kQueryBytes + 2 * kTileBytes + kScoreBytes + kWeightBytes + 3 * kRows * 4;
  static_assert(kScoreTiles >= 1 && kRowTiles * (kKeys / 8) % kWarps == 0);
  static_assert(kKeys / 8 % kScoreTiles == 0);
};

template <class T>
struct MlaShared {
  uint16_t* query;
  uint16_t* tiles;  // two
  float* scores;
  uint16_t* weights;
  float* largest;  // [kRows] largest score so far
  float* total;    // sum of weights
  float* rescale;  // of what was summed before this tile

  __device__ __forceinline__ explicit MlaShared(uint4* memory) {
    auto* bytes = reinterpret_cast<uint8_t*>(memory);
    query = reinterpret_cast<uint16_t*>(bytes);
    tiles = reinterpret_cast<uint16_t*>(bytes += T::kQueryBytes);
    scores = reinterpret_cast<float*>(bytes += 2 * T::kTileBytes);
    weights = reinterpret_cast<uint16_t*>(bytes += T::kScoreBytes);
    largest = reinterpret_cast<float*>(bytes += T::kWeightBytes);
    total = largest + T::kRows;
    rescale = total + T::kRows;
  }
  __device__ __forceinline__ uint16_t* tile(int index) const {
    return tiles + index * (T::kTileBytes / 2);
  }
};

template <class T>
class MlaBlock {
 public:
  __device__ __forceinline__ MlaBlock(const MlaAttentionArgs& args, const MlaGrid& grid,
                                      const MlaTile& tile, uint4* memory)
      : args_(args), grid_(grid), tile_(tile), shared_(memory) {
    row_values_ = static_cast<int>(args.shape.rank + args.shape.rope);
    steps_ = (row_values_ + 15) / 16;
    num_columns_ = static_cast<int>(args.shape.rank) / 8;
    block_shift_ = __ffs(static_cast<int>(args.metadata.block_size)) - 1;
    table_ = args.metadata.block_tables + tile.sequence * args.metadata.block_table_stride;
  }

  __device__ __forceinline__ void run(int split) {
    const int last_key = tile_.position + tile_.num_tokens - 1;
    const int num_tiles = (last_key + T::kKeys) / T::kKeys;
    const int per_split = (num_tiles + grid_.splits - 1) / grid_.splits;
    const int begin = split * per_split;
    const int end = min(num_tiles, begin + per_split);
    load_queries();
    if (begin < end) {
      load_keys(begin, 0);
    }
    close_copy_group();
    for (int i = begin; i < end; ++i) {
      if (i + 1 < end) {
        load_keys(i + 1, (i + 1 - begin) % 2);
      }
      close_copy_group();
      copies_done<1>();
      __syncthreads();
      const uint16_t* keys = shared_.tile((i - begin) % 2);
      scores(keys);
      __syncthreads();
      weights(i * T::kKeys);
      __syncthreads();
      sum_values(keys);
      __syncthreads();
    }
    copies_done<0>();
    __syncthreads();
    grid_.splits == 1 ? store_out() : store_partials(split);
  }

 private:
  __device__ static int thread() { return static_cast<int>(threadIdx.x); }
  __device__ static int warp() { return thread() / 32; }
  __device__ static int lane() { return thread() % 32; }

  __device__ __forceinline__ int row_token(int row) const { return row / grid_.tile_heads; }
  __device__ __forceinline__ bool row_valid(int row) const {
    return row_token(row) < tile_.num_tokens &&
           tile_.first_head + row % grid_.tile_heads < args_.shape.num_heads;
  }
  // Of the step's rows [num_tokens, num_heads].
  __device__ __forceinline__ int64_t global_row(int row) const {
    return (int64_t{tile_.first_token} + row_token(row)) * args_.shape.num_heads +
           tile_.first_head + row % grid_.tile_heads;
  }

  // Also what lies behind the queries' and keys' values up to whole products: zeros, once.
  __device__ __forceinline__ void load_queries() {
    const int pieces = 2 * steps_;  // of 8 values
    for (int i = thread(); i < T::kRows * pieces; i += kThreads) {
      const int row = i / pieces;
      const int at = i % pieces * 8;
      const bool valid = at < row_values_ && row_valid(row);
      const uint16_t* from = valid ? args_.query + global_row(row) * row_values_ + at : args_.query;
      copy_async(shared_.query + row * kStride + at, from, valid);
    }
    if (row_values_ < steps_ * 16) {
      for (int i = thread(); i < 2 * T::kKeys; i += kThreads) {
        store16(shared_.tile(i / T::kKeys) + i % T::kKeys * kStride + row_values_, Vec16{});
      }
    }
    for (int row = thread(); row < T::kRows; row += kThreads) {
      shared_.largest[row] = -INFINITY;
      shared_.total[row] = 0.0F;
    }
  }

  // A warp a row.
  __device__ __forceinline__ void load_keys(int index, int buffer) {
    const int context = tile_.position + tile_.num_tokens;
#pragma unroll 4
    for (int key = warp(); key < T::kKeys; key += kWarps) {
      const int position = index * T::kKeys + key;
      const bool valid = position < context;
      int64_t from = 0;
      if (valid) {
        const int64_t block = table_[position >> block_shift_];
        from = ((block << block_shift_) + (position & ((1 << block_shift_) - 1))) * row_values_;
      }
      uint16_t* to = shared_.tile(buffer) + key * kStride;
#pragma unroll
      for (int step = 0; step < kMaxRow; step += 32 * 8) {
        const int at = step + lane() * 8;
        if (at >= row_values_) {
          continue;
        }
        if constexpr (T::kE4M3) {
          Vec16 values{};
          if (valid) {
            const auto* bytes = static_cast<const uint8_t*>(args_.cache.k) + from + at;
            const uint2 stored = *reinterpret_cast<const uint2*>(bytes);
            const uint2 low = e4m3_to_bf16(stored.x);
            const uint2 high = e4m3_to_bf16(stored.y);
            values = {low.x, low.y, high.x, high.y};
          }
          store16(to + at, values);
        } else {
          copy_async(to + at, static_cast<const uint16_t*>(args_.cache.k) + from + at, valid);
        }
      }
    }
  }

  // Rows [0, kRows) x keys, each warp its tiles of one row tile.
  __device__ __forceinline__ void scores(const uint16_t* keys) {
    constexpr int kTilesPerRow = T::kKeys / 8;
    const int first = warp() * T::kScoreTiles;
    const int row_tile = first / kTilesPerRow;
    const int first_key = first % kTilesPerRow * 8;
    float sums[T::kScoreTiles][2][4] = {};  // two each: half the products in a chain
    const uint16_t* a_row =
        shared_.query + (row_tile * 16 + lane() % 16) * kStride + lane() / 16 * 8;
    const uint16_t* b_row =
        keys + (first_key + lane() % 8) * kStride + lane() / 8 * 8;  // four pieces: 32 values
    int k = 0;
    for (; k + 2 <= steps_; k += 2) {
      uint32_t a[2][4];
      load_matrices<false>(a[0], a_row + k * 16);
      load_matrices<false>(a[1], a_row + k * 16 + 16);
#pragma unroll
      for (int tile = 0; tile < T::kScoreTiles; ++tile) {
        uint32_t b[4];
        load_matrices<false>(b, b_row + tile * 8 * kStride + k * 16);
        multiply_add<PairBf16>(sums[tile][0], a[0][0], a[0][1], a[0][2], a[0][3], b[0], b[1]);
        multiply_add<PairBf16>(sums[tile][1], a[1][0], a[1][1], a[1][2], a[1][3], b[2], b[3]);
      }
    }
    if (k < steps_) {
      uint32_t a[4];
      load_matrices<false>(a, a_row + k * 16);
#pragma unroll
      for (int tile = 0; tile < T::kScoreTiles; ++tile) {
        uint32_t b[4];
        load_matrices<false>(b, b_row + tile * 8 * kStride + k * 16);  // the last 16 are not used
        multiply_add<PairBf16>(sums[tile][0], a[0], a[1], a[2], a[3], b[0], b[1]);
      }
    }
#pragma unroll
    for (int tile = 0; tile < T::kScoreTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = row_tile * 16 + lane() / 4 + i / 2 * 8;
        const int key = first_key + tile * 8 + lane() % 4 * 2 + i % 2;
        shared_.scores[row * T::kScoreStride + key] = sums[tile][0][i] + sums[tile][1][i];
      }
    }
  }

  // Scores to weights; a warp its rows, all of them at once.
  __device__ __forceinline__ void weights(int first_key) {
    constexpr int kPerLane = T::kKeys / 32;
    constexpr int kOwnRows = T::kRows / kWarps;
    const float scale = args_.scale * args_.cache.k_scale * kLog2E;
    float values[kOwnRows][kPerLane];
    float top[kOwnRows], before[kOwnRows], sum[kOwnRows];
#pragma unroll
    for (int r = 0; r < kOwnRows; ++r) {
      const int row = warp() * kOwnRows + r;
      const int visible = tile_.position + row_token(row) + 1 - first_key;  // keys of this tile
      top[r] = -INFINITY;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        const int key = lane() + i * 32;
        values[r][i] =
            key < visible ? shared_.scores[row * T::kScoreStride + key] * scale : -INFINITY;
        top[r] = fmaxf(top[r], values[r][i]);
      }
      before[r] = shared_.largest[row];
    }
#pragma unroll
    for (int r = 0; r < kOwnRows; ++r) {
      top[r] = fmaxf(before[r], reduce_lanes<MaxOf>(top[r]));
    }
#pragma unroll
    for (int r = 0; r < kOwnRows; ++r) {
      const int row = warp() * kOwnRows + r;
      const float base = top[r] == -INFINITY ? 0.0F : top[r];
      before[r] = exp2f(before[r] - base);
      sum[r] = 0.0F;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        const uint16_t weight = to_bf16(exp2f(values[r][i] - base));
        shared_.weights[row * T::kWeightStride + lane() + i * 32] = weight;
        sum[r] += from_bf16(weight);
      }
    }
#pragma unroll
    for (int r = 0; r < kOwnRows; ++r) {
      sum[r] = reduce_lanes<SumOf>(sum[r]);
    }
    __syncwarp();  // all have read what lane 0 writes
    if (lane() == 0) {
#pragma unroll
      for (int r = 0; r < kOwnRows; ++r) {
        const int row = warp() * kOwnRows + r;
        shared_.rescale[row] = before[r];
        shared_.total[row] = shared_.total[row] * before[r] + sum[r];
        shared_.largest[row] = top[r];
      }
    }
  }

  __device__ __forceinline__ void sum_values(const uint16_t* keys) {
#pragma unroll
    for (int tile = 0; tile < T::kRowTiles; ++tile) {
      const float upper = shared_.rescale[tile * 16 + lane() / 4];
      const float lower = shared_.rescale[tile * 16 + lane() / 4 + 8];
#pragma unroll
      for (int column = 0; column < kColumnTiles; ++column) {
        sums_[tile][column][0] *= upper;
        sums_[tile][column][1] *= upper;
        sums_[tile][column][2] *= lower;
        sums_[tile][column][3] *= lower;
      }
    }
    const int first_column = warp() * kColumnTiles;
#pragma unroll
    for (int k = 0; k < T::kKeys; k += 16) {
      uint32_t a[T::kRowTiles][4];
#pragma unroll
      for (int tile = 0; tile < T::kRowTiles; ++tile) {
        load_matrices<false>(
            a[tile],
            shared_.weights + (tile * 16 + lane() % 16) * T::kWeightStride + k + lane() / 16 * 8);
      }
#pragma unroll
      for (int pair = 0; pair < kColumnTiles; pair += 2) {
        if (first_column + pair < num_columns_) {
          uint32_t b[4];
          load_matrices<true>(
              b, keys + (k + lane() % 16) * kStride + (first_column + pair) * 8 + lane() / 16 * 8);
#pragma unroll
          for (int tile = 0; tile < T::kRowTiles; ++tile) {
            multiply_add<PairBf16>(sums_[tile][pair], a[tile][0], a[tile][1], a[tile][2],
                                   a[tile][3], b[0], b[1]);
            multiply_add<PairBf16>(sums_[tile][pair + 1], a[tile][0], a[tile][1], a[tile][2],
                                   a[tile][3], b[2], b[3]);
          }
        }
      }
    }
  }

  // Calls store(row, column, two sums) for all that exist.
  template <class Store>
  __device__ __forceinline__ void for_each_sum(const Store& store) const {
#pragma unroll
    for (int tile = 0; tile < T::kRowTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = tile * 16 + lane() / 4 + half * 8;
        if (row_valid(row)) {
#pragma unroll
          for (int i = 0; i < kColumnTiles; ++i) {
            const int column = warp() * kColumnTiles + i;
            if (column < num_columns_) {
              store(row, column * 8 + lane() % 4 * 2, sums_[tile][i][2 * half],
                    sums_[tile][i][2 * half + 1]);
            }
          }
        }
      }
    }
  }

  __device__ __forceinline__ void store_out() const {
    for_each_sum([&](int row, int column, float a, float b) {
      const float total = shared_.total[row];
      const float factor = total > 0.0F ? args_.cache.k_scale / total : 0.0F;
      *reinterpret_cast<uint32_t*>(args_.out + global_row(row) * args_.shape.rank + column) =
          pack_bf16(a * factor, b * factor);
    });
  }

  // [splits, num_tokens * num_heads, rank] sums, then [.., 2] largest score and total.
  __device__ __forceinline__ void store_partials(int split) const {
    const int64_t rows = args_.metadata.num_tokens * args_.shape.num_heads;
    const int64_t rank = args_.shape.rank;
    float* sums = args_.partials + split * rows * rank;
    float* states = args_.partials + grid_.splits * rows * rank + split * rows * 2;
    for_each_sum([&](int row, int column, float a, float b) {
      *reinterpret_cast<float2*>(sums + global_row(row) * rank + column) = make_float2(a, b);
    });
    for (int row = thread(); row < T::kRows; row += kThreads) {
      if (row_valid(row)) {
        states[global_row(row) * 2] = shared_.largest[row];
        states[global_row(row) * 2 + 1] = shared_.total[row];
      }
    }
  }

  const MlaAttentionArgs& args_;
  const MlaGrid& grid_;
  const MlaTile& tile_;
  const MlaShared<T> shared_;
  int row_values_, steps_, num_columns_, block_shift_;  // a block holds 2^block_shift_ tokens
  const int32_t* table_;
  float sums_[T::kRowTiles][kColumnTiles][4] = {};
};

// Grid: (tiles of tokens, tiles of heads, splits).
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    mla_attention_kernel(const __grid_constant__ MlaAttentionArgs args,
                         const __grid_constant__ MlaGrid grid) {
  extern __shared__ uint4 memory[];
  wait_previous();
  allow_next();
  const MlaTile tile = MlaTile::find(args.metadata, grid, static_cast<int>(blockIdx.x),
                                     static_cast<int>(blockIdx.y));
  if (tile.num_tokens > 0) {
    MlaBlock<T>(args, grid, tile, memory).run(static_cast<int>(blockIdx.z));
  }
}

constexpr int kMostRows = 64;

// A step as blocks of `rows` rows.
struct MlaCut {
  MlaGrid grid;
  int64_t token_tiles = 0;
};

MlaCut cut_step(const MlaAttentionArgs& args, int rows) {
  const AttentionMetadata& meta = args.metadata;
  const auto heads = static_cast<int>(args.shape.num_heads);
  MlaCut cut;
  MlaGrid& grid = cut.grid;
  grid.one_token = meta.max_query_len == 1;
  grid.tile_heads = std::min(heads, rows);
  grid.head_tiles = (heads + grid.tile_heads - 1) / grid.tile_heads;
  grid.tile_tokens = grid.one_token ? 1 : rows / grid.tile_heads;
  cut.token_tiles =
      grid.one_token ? meta.num_seqs : meta.num_tokens / grid.tile_tokens + meta.num_seqs;
  const int64_t tiles = cut.token_tiles * grid.head_tiles;
  if (!args.batch_invariant) {
    grid.splits = static_cast<int>(std::clamp<int64_t>(
        multiprocessor_count() / std::max<int64_t>(1, tiles), 1, kMaxMlaSplits));
  }
  return cut;
}

template <class T>
DeviceStatus launch_mla(const MlaAttentionArgs& args, cudaStream_t stream, int& splits) {
  const auto [grid, token_tiles] = cut_step(args, T::kRows);
  splits = grid.splits;
  const auto kernel = mla_attention_kernel<T>;
  static const cudaError_t prepared =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, T::kSharedBytes);
  if (prepared != cudaSuccess) {
    return status_of(prepared);
  }
  return launch_chained(
      kernel,
      {.grid = dim3(static_cast<unsigned>(token_tiles), static_cast<unsigned>(grid.head_tiles),
                    static_cast<unsigned>(grid.splits)),
       .block = dim3(kThreads),
       .shared_bytes = T::kSharedBytes,
       .stream = stream},
      args, grid);
}

// What is left to join: the result, or the sums of `splits` parts of the keys.
template <bool kE4M3>
DeviceStatus launch_mla_of(const MlaAttentionArgs& args, cudaStream_t stream, int& splits) {
#ifdef ATOM_GPU_SM90A
  if (mla_hopper_takes(args)) {
    const auto [grid, token_tiles] = cut_step(args, kMlaHopperRows);
    splits = grid.splits;
    return launch_mla_hopper(args, grid, token_tiles, stream);
  }
#endif
  // Few rows leave room for many keys in flight. Invariance wants one kernel for all steps.
  const bool few = args.metadata.max_query_len == 1 && args.shape.num_heads <= 16;
  return few && !args.batch_invariant ? launch_mla<MlaTraits<1, 64, kE4M3>>(args, stream, splits)
                                      : launch_mla<MlaTraits<4, 32, kE4M3>>(args, stream, splits);
}

}  // namespace

int64_t mla_partial_floats(const MlaShape& shape) {
  // Splits times tiles are not more than the multiprocessors, where there are splits at all.
  return int64_t{multiprocessor_count()} * kMostRows * (shape.rank + 2);
}

#else

int64_t mla_partial_floats(const MlaShape&) { return 0; }

#endif

namespace {

DeviceStatus check(const MlaAttentionArgs& args) {
  if (args.metadata.block_size <= 0 ||
      (args.metadata.block_size & (args.metadata.block_size - 1)) != 0) {
    return "mla_attention: block_size is not a power of two";
  }
  if (args.shape.rank > kMaxLatentRank || args.shape.rope > kMaxLatentRope) {
    return "mla_attention: rank and rope are up to 512 and 64";
  }
  return nullptr;
}

// value_up: nullptr, or the product that follows.
DeviceStatus attend(const MlaAttentionArgs& args, const LinearHeadsArgs* value_up,
                    DeviceStream stream) {
  if (args.metadata.num_tokens == 0 || args.metadata.num_seqs == 0) {
    return nullptr;
  }
  if (const DeviceStatus refused = check(args)) {
    return refused;
  }
  DeviceStatus failed = nullptr;
#if ATOM_GPU_CUDA
  if (!args.portable && args.shape.rank % 8 == 0 && args.shape.rope % 8 == 0) {
    const auto on = static_cast<cudaStream_t>(stream);
    int splits = 1;
    failed = args.cache.dtype == DType::kBF16 ? launch_mla_of<false>(args, on, splits)
                                              : launch_mla_of<true>(args, on, splits);
    if (failed == nullptr && value_up != nullptr && merges_values(args, *value_up, splits)) {
      return merge_mla_values(args, *value_up, splits, stream);
    }
    if (failed == nullptr && splits > 1) {
      failed = merge_mla(args, splits, stream);
    }
  } else {
    failed = portable_mla_attention(args, stream);
  }
#else
  failed = portable_mla_attention(args, stream);
#endif
  return failed != nullptr || value_up == nullptr ? failed : linear_heads(*value_up, stream);
}

}  // namespace

DeviceStatus mla_attention(const MlaAttentionArgs& args, DeviceStream stream) {
  return attend(args, nullptr, stream);
}

DeviceStatus mla_attention_values(const MlaAttentionArgs& args, const LinearHeadsArgs& value_up,
                                  DeviceStream stream) {
  return attend(args, &value_up, stream);
}

}  // namespace atom::gpu
