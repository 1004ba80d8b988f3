// The second part of the device sampler, done by the last block to finish a chunk of a row:
// filters, the draw, log probabilities. Nothing is sorted: a filter is a boundary in the order of
// tokens (value, then id), found by narrowing a bracket of values until few candidates are left and
// ranking those against each other. Device code.
#pragma once

#include "kernels/gpu/sampler/row.h"

namespace atom::gpu::sampler {

// Philox4x32-10 as in atom/model_ops/cpu/philox.h: 53 random bits of (seed, position).
__device__ inline uint64_t random_bits(uint64_t seed, uint64_t position) {
  uint32_t c[4] = {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0, 0};
  auto key0 = static_cast<uint32_t>(seed);
  auto key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * c[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * c[2];
    c[0] = static_cast<uint32_t>(product1 >> 32) ^ c[1] ^ key0;
    c[1] = static_cast<uint32_t>(product1);
    c[2] = static_cast<uint32_t>(product0 >> 32) ^ c[3] ^ key1;
    c[3] = static_cast<uint32_t>(product0);
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return ((static_cast<uint64_t>(c[0]) << 32) | c[1]) >> 11;
}

// The token at which a running sum passes u * total: floor(bits * total / 2^53).
__device__ inline Weight draw_target(uint64_t bits, Weight total) {
  return (__umul64hi(bits, total) << 11) | ((bits * total) >> 53);
}

// Floats as integers of the same order.
__device__ __forceinline__ int32_t order_key(float value) {
  const int32_t bits = __float_as_int(value);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}
__device__ __forceinline__ float from_order_key(int32_t key) {
  return __int_as_float(key ^ ((key >> 31) & 0x7fffffff));
}

// Tokens up to and including `last`, in the order of tokens, are kept.
struct Boundary {
  Candidate last;
  __device__ bool keeps(float value, int token_id) const {
    return value > last.value || (value == last.value && token_id <= last.token_id);
  }
};

class RowDraw {
 public:
  __device__ RowDraw(Shared& shared, const RowView& row) : shared_(shared), row_(row) {}

  // The boundary that keeps `num` tokens, 1 <= num <= vocab_size.
  __device__ Boundary top_k(int num) {
    if (num <= kMaxCandidates) {
      const float low = kth_group_max(num);
      const int count = gather(low, row_.max, everything());
      if (count <= kMaxCandidates) {
        return rank<true>({low, row_.max, 0, 0, 0}, static_cast<Weight>(num), count);
      }
    }
    return search<true>({lowest_finite(), row_.max, 0, 0, static_cast<Weight>(row_.vocab_size)},
                        static_cast<Weight>(num), everything());
  }

  // The boundary of the fewest tokens, of those that `within` keeps, that weigh at least `needed`.
  __device__ Boundary top_mass(Weight needed, const Boundary& within) {
    const float low = fmaxf(within.last.value, row_.max - 30.0F / row_.inv_temperature);
    return search<false>(
        {fmaxf(low, lowest_finite()), row_.max, 0, 0, static_cast<Weight>(row_.vocab_size)}, needed,
        within);
  }

  // A value that at least `num` values reach: the num-th highest of 512 groups' maxima.
  __device__ float kth_group_max(int num) {
    if (num > kThreads) {
      return negative_infinity();
    }
    float own = negative_infinity();
    for (int b = static_cast<int>(threadIdx.x); b < row_.num_blocks; b += kThreads) {
      own = fmaxf(own, shared_.block_max[b]);
    }
    const int key = order_key(own);
    int64_t low = order_key(negative_infinity());
    int64_t high = order_key(row_.max);
    while (low < high) {
      const int64_t middle = low + (high - low + 1) / 2;
      if (__syncthreads_count(key >= middle ? 1 : 0) >= num) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return from_order_key(static_cast<int32_t>(low));
  }

  // Filters and draws among `count` candidates that hold every token down to some value. `total` is
  // of all tokens; -1 when the candidates may not hold all that top_p keeps.
  __device__ int draw_candidates(int count, const SamplerRow& params, bool top_k_on, Weight total,
                                 uint64_t bits) {
    const int i = static_cast<int>(threadIdx.x);
    const Candidate own = shared_.candidates[i < count ? i : 0];
    const float share = row_.weight(own.value);
    Weight weight = i < count ? static_cast<Weight>(share * kWeightUnit) : 0;
    Weight all = weight;
    Weight kept = 0;
    shared_.weights[i] = weight;
    __syncthreads();
    int rank_before = 0;
    Weight mass_before = 0;
    for (int j = 0; j < count; ++j) {
      if (ranks_before(shared_.candidates[j], own)) {
        ++rank_before;
        mass_before += shared_.weights[j];
      }
    }
    if (top_k_on && rank_before >= params.top_k) {
      weight = 0;
    }
    if (params.top_p < 1.0F) {
      kept = weight;
      block_sum(shared_, all, kept);
      const Weight needed = mass_needed(top_k_on ? kept : total, params.top_p);
      if (!top_k_on && all < needed) {
        return -1;
      }
      weight = mass_before < needed ? weight : 0;
    }
    weight = share >= params.min_p ? weight : 0;
    kept = weight;
    __syncthreads();
    shared_.weights[i] = weight;
    block_sum(shared_, all, kept);
    const Weight goal = draw_target(bits, kept);
    Weight id_before = 0;
    for (int j = 0; j < count; ++j) {
      id_before += shared_.candidates[j].token_id < own.token_id ? shared_.weights[j] : 0;
    }
    if (weight > 0 && goal >= id_before && goal < id_before + weight) {
      shared_.found = own;
    }
    __syncthreads();
    return shared_.found.token_id;
  }

  static __device__ Weight mass_needed(Weight total, float top_p) {
    const auto needed =
        static_cast<Weight>(ceil(static_cast<double>(total) * static_cast<double>(top_p)));
    return needed > 0 ? needed : 1;
  }

  // Of the whole row, from the sums of blocks that the first pass left.
  __device__ Weight total_weight(const float* block_sums) {
    Weight total = 0;
    Weight unused = 0;
    for (int b = static_cast<int>(threadIdx.x); b < row_.num_blocks; b += kThreads) {
      total += block_weight(block_sums, b);
    }
    block_sum(shared_, total, unused);
    return total;
  }

  // The highest value that all finite values reach.
  static __device__ float lowest_finite() { return -3.402823466e38F; }

  static __device__ Boundary everything() { return {{negative_infinity(), 0x7fffffff}}; }

  __device__ Weight mass(const Boundary& within) {
    Weight total = 0;
    Weight unused = 0;
    for_each_value(shared_, row_, within.last.value, [&](float x, int id) {
      total += within.keeps(x, id) ? row_.integer_weight(x) : 0;
    });
    block_sum(shared_, total, unused);
    return total;
  }

  // Draws among the tokens that `within` keeps and that weigh at least min_p of the heaviest.
  __device__ int draw(const Boundary& within, float min_p, uint64_t bits) {
    const auto weight = [&](float x, int id) -> Weight {
      if (!within.keeps(x, id)) {
        return 0;
      }
      const float w = row_.weight(x);
      return w >= min_p ? static_cast<Weight>(w * kWeightUnit) : 0;
    };
    return pick(within.last.value, weight, [&](Weight total) { return draw_target(bits, total); });
  }

  // The same over the whole row, with the blocks' sums that the first pass left.
  __device__ int draw_unfiltered(const float* block_sums, uint64_t bits) {
    for (int b = static_cast<int>(threadIdx.x); b < row_.num_blocks; b += kThreads) {
      shared_.block_weight[b] = block_weight(block_sums, b);
    }
    __syncthreads();
    return pick_in_blocks([&](float x, int) { return row_.integer_weight(x); },
                          [&](Weight total) { return draw_target(bits, total); });
  }

  // Tokens before (value, token_id) in the order.
  __device__ int count_before(float value, int token_id) {
    Weight count = 0;
    Weight unused = 0;
    for_each_value(shared_, row_, value, [&](float x, int id) {
      count += x > value || (x == value && id < token_id) ? 1 : 0;
    });
    block_sum(shared_, count, unused);
    return static_cast<int>(count);
  }

  // The tokens that `within` keeps, at most kMaxCandidates, into shared.candidates, in any order.
  __device__ int gather(float low, float high, const Boundary& within) {
    if (threadIdx.x == 0) {
      shared_.count = 0;
    }
    __syncthreads();
    for_each_value(shared_, row_, low, [&](float x, int id) {
      if (x >= low && x <= high && within.keeps(x, id)) {
        const int at = atomicAdd(&shared_.count, 1);
        if (at < kMaxCandidates) {
          shared_.candidates[at] = {x, id};
        }
      }
    });
    __syncthreads();
    return shared_.count;
  }

 private:
  // The boundary's value lies in [low, high]; `above` is of the values above high. count_low: of
  // the values from low on, or as many as there can be.
  struct Bracket {
    float low;
    float high;
    Weight count_above;
    Weight mass_above;
    Weight count_low;
  };

  __device__ Weight block_weight(const float* block_sums, int block) const {
    return static_cast<Weight>(block_sums[block] * row_.weight(shared_.block_max[block]) *
                               kWeightUnit);
  }

  // Narrows the bracket at three ascending values of (low, high], in one pass.
  template <bool kCount>
  __device__ void narrow(Bracket& bracket, const float (&middle)[3], Weight needed,
                         const Boundary& within) {
    uint32_t counts[3] = {};
    Weight masses[3] = {};
    for_each_value(shared_, row_, middle[0], [&](float x, int id) {
      if (x >= middle[0] && within.keeps(x, id)) {
        const Weight weight = kCount ? 0 : row_.integer_weight(x);
#pragma unroll
        for (int i = 0; i < 3; ++i) {
          counts[i] += x >= middle[i] ? 1 : 0;
          masses[i] += x >= middle[i] ? weight : 0;
        }
      }
    });
    for (int i = 2; i >= 0; --i) {
      Weight count = counts[i];
      Weight mass = masses[i];
      block_sum(shared_, count, mass);
      if ((kCount ? count : mass) >= needed) {
        bracket.low = middle[i];
        bracket.count_low = count;
        return;
      }
      bracket.high = from_order_key(order_key(middle[i]) - 1);
      bracket.count_above = count;
      bracket.mass_above = mass;
    }
  }

  template <bool kCount>
  __device__ Boundary search(Bracket bracket, Weight needed, const Boundary& within) {
    for (int round = 0;; ++round) {
      if (bracket.count_low - bracket.count_above <= kMaxCandidates) {
        const int count = gather(bracket.low, bracket.high, within);
        return rank<kCount>(bracket, needed, count);
      }
      if (bracket.low == bracket.high) {
        return nth_tie<kCount>(bracket, needed, within);
      }
      // Quarters of the values at first, of the representable values when that gets nowhere.
      const int64_t low = order_key(bracket.low);
      const int64_t high = order_key(bracket.high);
      float middle[3];
      for (int i = 0; i < 3; ++i) {
        const float share = 0.25F * static_cast<float>(i + 1);
        middle[i] = bracket.low * (1.0F - share) + bracket.high * share;
      }
      if (round == 0 &&
          bracket.low < row_.max - 32.0F) {  // logits that matter lie close to the top
        middle[0] = row_.max - 32.0F;
        middle[1] = row_.max - 8.0F;
        middle[2] = row_.max - 2.0F;
      } else if (round >= 12 || !(middle[0] > bracket.low && middle[0] < middle[1] &&
                                  middle[1] < middle[2] && middle[2] <= bracket.high)) {
        for (int i = 0; i < 3; ++i) {
          middle[i] =
              from_order_key(static_cast<int32_t>(low + 1 + (high - low - 1) * (i + 1) / 4));
        }
      }
      narrow<kCount>(bracket, middle, needed, within);
    }
  }

  // Among the candidates, the one at which the running measure reaches `needed`.
  template <bool kCount>
  __device__ Boundary rank(const Bracket& bracket, Weight needed, int count) {
    const int i = static_cast<int>(threadIdx.x);
    const Candidate own = shared_.candidates[i < count ? i : 0];
    const Weight weight = kCount ? 1 : row_.integer_weight(own.value);
    if (i < count) {
      shared_.weights[i] = weight;
    }
    if (i == 0) {
      shared_.found = {bracket.low, 0x7fffffff};  // rounding left less than needed: keep them all
    }
    __syncthreads();
    Weight before = kCount ? bracket.count_above : bracket.mass_above;
    for (int j = 0; j < count; ++j) {
      before += ranks_before(shared_.candidates[j], own) ? shared_.weights[j] : 0;
    }
    if (i < count && before < needed && before + weight >= needed) {
      shared_.found = own;
    }
    __syncthreads();
    return {shared_.found};
  }

  // More equal values than candidates: as many of them as are needed, by id.
  template <bool kCount>
  __device__ Boundary nth_tie(const Bracket& bracket, Weight needed, const Boundary& within) {
    const float value = bracket.low;
    const Weight weight = kCount ? 1 : row_.integer_weight(value);
    const Weight above = kCount ? bracket.count_above : bracket.mass_above;
    Weight ties = needed > above && weight > 0 ? (needed - above + weight - 1) / weight : 1;
    const int id = pick(
        value,
        [&](float x, int token_id) -> Weight {
          return x == value && within.keeps(x, token_id) ? 1 : 0;
        },
        [&](Weight total) { return (ties < total ? ties : total) - 1; });
    return {{value, id}};
  }

  // The first id at which the running sum of weight(x, id) exceeds target(total), in the order of
  // ids.
  template <class WeightOf, class Target>
  __device__ int pick(float lowest, const WeightOf& weight, const Target& target) {
    for (int b = warp_index(); b < row_.num_blocks; b += kWarps) {
      Weight sum = 0;
      if (shared_.block_max[b] >= lowest) {
        sum = warp_sum(lane_weights(b, weight, nullptr));
      }
      if (lane_index() == 0) {
        shared_.block_weight[b] = sum;
      }
    }
    __syncthreads();
    return pick_in_blocks(weight, target);
  }

  // The sum over a lane's four values of a block; `each`, where given, gets them.
  template <class WeightOf>
  __device__ Weight lane_weights(int block, const WeightOf& weight, Weight* each) {
    const int id = block * kRowBlock + lane_index() * 4;
    Weight sum = 0;
    float4 v = {};
    if (id < row_.vocab_size) {
      v = *reinterpret_cast<const float4*>(row_.values + id);
    }
    const float x[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const Weight w = id + j < row_.vocab_size ? weight(x[j], id + j) : 0;
      sum += w;
      if (each != nullptr) {
        each[j] = w;
      }
    }
    return sum;
  }

  template <class WeightOf, class Target>
  __device__ int pick_in_blocks(const WeightOf& weight, const Target& target) {
    const int per_thread = (row_.num_blocks + kThreads - 1) / kThreads;
    const int begin = static_cast<int>(threadIdx.x) * per_thread;
    const int end = begin + per_thread < row_.num_blocks ? begin + per_thread : row_.num_blocks;
    Weight own = 0;
    for (int b = begin; b < end; ++b) {
      own += shared_.block_weight[b];
    }
    Weight before = block_exclusive_sum(shared_, own);
    Weight total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      total += shared_.sums[0][w];
    }
    const Weight goal = target(total);
    if (goal >= before && goal < before + own) {
      int block = begin;
      while (goal >= before + shared_.block_weight[block]) {
        before += shared_.block_weight[block++];
      }
      shared_.found.token_id = block;
      shared_.found_before = before;
    }
    __syncthreads();
    const int block = shared_.found.token_id;
    const Weight rest = goal - shared_.found_before;
    __syncthreads();
    if (warp_index() == 0) {
      pick_in_block(block, rest, weight);
    }
    __syncthreads();
    return shared_.found.token_id;
  }

  // One warp; the last positive weight when rounding leaves none.
  template <class WeightOf>
  __device__ void pick_in_block(int block, Weight goal, const WeightOf& weight) {
    Weight each[4];
    const Weight own = lane_weights(block, weight, each);
    const int lane = lane_index();
    Weight before = own;
#pragma unroll
    for (int step = 1; step < kLanes; step *= 2) {
      const Weight other = shuffle(before, lane >= step ? lane - step : lane);
      before += lane >= step ? other : 0;
    }
    before -= own;
    int hit = -1;
    int last = -1;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (each[j] > 0) {
        last = lane * 4 + j;
        if (hit < 0 && before + each[j] > goal) {
          hit = lane * 4 + j;
        }
      }
      before += each[j];
    }
    int first_hit = hit >= 0 ? hit : kRowBlock;
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) {
      const int other_hit = shuffle_xor(first_hit, step);
      const int other_last = shuffle_xor(last, step);
      first_hit = other_hit < first_hit ? other_hit : first_hit;
      last = other_last > last ? other_last : last;
    }
    if (lane == 0) {
      const int offset = first_hit < kRowBlock ? first_hit : last > 0 ? last : 0;
      shared_.found.token_id = block * kRowBlock + offset;
    }
  }

  Shared& shared_;
  const RowView& row_;
};

}  // namespace atom::gpu::sampler
