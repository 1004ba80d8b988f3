// The bodies of row_scan.h, included by row_scan.cpp once per instruction set, each time inside another
// namespace and under another `#pragma GCC target`; therefore no include guard and no includes.
// All arithmetic is on 16 lanes, whatever the width of the registers, and is compiled without fused
// multiply-add: every instruction set returns the same bits.
// kWidth, the floats per register, is the only thing that differs.

constexpr int kLanes = 16;
constexpr int kParts = kLanes / kWidth;  // registers that hold the 16 lanes
constexpr int kRegisters = static_cast<int>(kRowBlock) / kWidth;
using Vec = float __attribute__((vector_size(kWidth * 4)));
using IntVec = int32_t __attribute__((vector_size(kWidth * 4)));

inline Vec load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
inline void store(float* p, const Vec& v) { __builtin_memcpy(p, &v, sizeof(v)); }
inline Vec splat(float value) { return Vec{} + value; }
inline Vec larger(const Vec& a, const Vec& b) { return a > b ? a : b; }

// v with lane i + shift in lane i.
inline Vec rotate(const Vec& v, int shift) {
  IntVec index;
  for (int i = 0; i < kWidth; ++i) {
    index[i] = (i + shift) % kWidth;
  }
  return __builtin_shuffle(v, index);
}

// Folds 16 lanes to one as a tree, lane i with lane i + 8, then + 4, + 2, + 1.
template <class Op>
inline float reduce(Vec (&lanes)[kParts], const Op& op) {
#pragma GCC unroll 4
  for (int half = kParts / 2; half > 0; half /= 2) {
#pragma GCC unroll 4
    for (int part = 0; part < half; ++part) {
      lanes[part] = op(lanes[part], lanes[part + half]);
    }
  }
#pragma GCC unroll 4
  for (int shift = kWidth / 2; shift > 0; shift /= 2) {
    lanes[0] = op(lanes[0], rotate(lanes[0], shift));
  }
  return lanes[0][0];
}

inline float reduce_max(Vec (&lanes)[kParts]) {
  return reduce(lanes, [](const Vec& a, const Vec& b) { return larger(a, b); });
}

inline float reduce_sum(Vec (&lanes)[kParts]) {
  return reduce(lanes, [](const Vec& a, const Vec& b) { return a + b; });
}

inline int64_t reduce_count(const IntVec& v) {
  int64_t total = 0;
  for (int i = 0; i < kWidth; ++i) {
    total += v[i];
  }
  return total;
}

// A block's values; a short last block is completed with `filler` in `buffer`.
inline const float* block_values(const float* x, int64_t n, int64_t block, float filler, float* buffer) {
  const int64_t begin = block * kRowBlock;
  if (n - begin >= kRowBlock) {
    return x + begin;
  }
  for (int64_t i = 0; i < kRowBlock; ++i) {
    buffer[i] = begin + i < n ? x[begin + i] : filler;
  }
  return buffer;
}

// exp of x <= 0: x = k ln 2 + r, |r| <= ln 2 / 2, Taylor series of degree 7 (truncation 6e-9), 2^k by adding
// to the exponent. Zero below -86, where the exponent would leave the normal range.
inline Vec exp_nonpositive(const Vec& x) {
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it leaves the rounded integer in the low bits
  const Vec lowest = splat(-86.0F);
  const Vec clamped = larger(x, lowest);
  const Vec shifted = clamped * 1.44269504F + kRound;
  const Vec k = shifted - kRound;
  const Vec r = (clamped - k * 0.693359375F) + k * 2.12194440e-4F;
  Vec y = r * (1.0F / 5040.0F) + 1.0F / 720.0F;
  y = y * r + 1.0F / 120.0F;
  y = y * r + 1.0F / 24.0F;
  y = y * r + 1.0F / 6.0F;
  y = y * r + 0.5F;
  y = y * r + 1.0F;
  y = y * r + 1.0F;
  const IntVec exponent = reinterpret_cast<IntVec>(shifted) << 23;
  const Vec result = reinterpret_cast<Vec>(reinterpret_cast<IntVec>(y) + exponent);
  return x >= lowest ? result : Vec{};
}

RowMax row_max(const float* x, int64_t n, float* block_max) {
  float buffer[kRowBlock];
  float highest = -kInfinity;
  IntVec nan_lanes{};
  for (int64_t block = 0; block < row_blocks(n); ++block) {
    const float* values = block_values(x, n, block, -kInfinity, buffer);
    Vec best[kParts];
    for (Vec& part : best) {
      part = splat(-kInfinity);
    }
#pragma GCC unroll 32
    for (int i = 0; i < kRegisters; ++i) {
      const Vec v = load(values + i * kWidth);
      best[i % kParts] = larger(v, best[i % kParts]);
      nan_lanes |= v != v;
    }
    block_max[block] = reduce_max(best);
    highest = block_max[block] > highest ? block_max[block] : highest;
  }
  return {.max = highest, .has_nan = reduce_count(nan_lanes) != 0};
}

void row_weights(const float* x, int64_t n, const WeightParams& params, float* block_sum, float* weights) {
  float buffer[kRowBlock];
  float block_weights[kRowBlock];
  const Vec max = splat(params.max);
  const Vec min_weight = splat(params.min_weight);
  for (int64_t block = 0; block < row_blocks(n); ++block) {
    const float* values = block_values(x, n, block, -kInfinity, buffer);
    Vec total[kParts] = {};
#pragma GCC unroll 2
    for (int i = 0; i < kRegisters; ++i) {
      const Vec v = load(values + i * kWidth);
      Vec weight = exp_nonpositive((v - max) * params.inv_temperature);
      weight = v == max ? splat(1.0F) : weight;
      weight = weight >= min_weight ? weight : Vec{};
      weight = v == splat(-kInfinity) ? Vec{} : weight;
      total[i % kParts] += weight;
      store(block_weights + i * kWidth, weight);
    }
    block_sum[block] = reduce_sum(total);
    if (weights != nullptr) {
      const int64_t begin = block * kRowBlock;
      const int64_t count = n - begin < kRowBlock ? n - begin : kRowBlock;
      __builtin_memcpy(weights + begin, block_weights, static_cast<size_t>(count) * sizeof(float));
    }
  }
}

void row_sum(const float* weights, int64_t n, float min_weight, float* block_sum) {
  float buffer[kRowBlock];
  for (int64_t block = 0; block < row_blocks(n); ++block) {
    const float* values = block_values(weights, n, block, 0.0F, buffer);
    Vec total[kParts] = {};
#pragma GCC unroll 32
    for (int i = 0; i < kRegisters; ++i) {
      const Vec weight = load(values + i * kWidth);
      total[i % kParts] += weight >= splat(min_weight) ? weight : Vec{};
    }
    block_sum[block] = reduce_sum(total);
  }
}

RowCount row_count(const float* x, int64_t n, float threshold) {
  IntVec greater{};
  IntVec equal{};
  const int64_t whole = n / kWidth * kWidth;
  const Vec bound = splat(threshold);
  for (int64_t i = 0; i < whole; i += kWidth) {
    const Vec v = load(x + i);
    greater -= v > bound;
    equal -= v == bound;
  }
  RowCount count{.greater = reduce_count(greater), .equal = reduce_count(equal)};
  for (int64_t i = whole; i < n; ++i) {
    count.greater += x[i] > threshold ? 1 : 0;
    count.equal += x[i] == threshold ? 1 : 0;
  }
  return count;
}

double row_mass(const float* x, const float* weights, int64_t n, float threshold) {
  float value_buffer[kRowBlock];
  float weight_buffer[kRowBlock];
  const Vec bound = splat(threshold);
  double mass = 0.0;
  for (int64_t block = 0; block < row_blocks(n); ++block) {
    const float* values = block_values(x, n, block, -kInfinity, value_buffer);
    const float* block_weights = block_values(weights, n, block, 0.0F, weight_buffer);
    Vec total[kParts] = {};
#pragma GCC unroll 32
    for (int i = 0; i < kRegisters; ++i) {
      const Vec weight = load(block_weights + i * kWidth);
      total[i % kParts] += load(values + i * kWidth) >= bound ? weight : Vec{};
    }
    mass += static_cast<double>(reduce_sum(total));
  }
  return mass;
}

void row_cut(const float* x, int64_t n, float threshold, float* weights) {
  const int64_t whole = n / kWidth * kWidth;
  const Vec bound = splat(threshold);
  for (int64_t i = 0; i < whole; i += kWidth) {
    const Vec weight = load(weights + i);
    store(weights + i, load(x + i) >= bound ? weight : Vec{});
  }
  for (int64_t i = whole; i < n; ++i) {
    weights[i] = x[i] >= threshold ? weights[i] : 0.0F;
  }
}

constexpr RowScanKernels make_kernels(const char* name) {
  return {.name = name,
          .max = row_max,
          .weights = row_weights,
          .sum = row_sum,
          .count = row_count,
          .mass = row_mass,
          .cut = row_cut};
}
