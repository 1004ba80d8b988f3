// Norms, the gated activation, and what happens to q, k and v before attention. Every row is
// computed alone and in one order.
#include <math.h>

#include "kernels/common/convert.h"
#include "kernels/cpu/simd/cache_rows.h"
#include "kernels/cpu/simd/isa_kernels.h"
#include "kernels/cpu/simd/vec.h"

namespace atom::cpu::ATOM_ISA {
namespace {

// Pairs (i, i + rotary_dim / 2) turn by the angle whose cosine and sine are given.
void rotate(float* head, const float* cos_sin, int64_t rotary_dim) {
  const int64_t half = rotary_dim / 2;
  for (int64_t i = 0; i < half; i += 16) {
    const int64_t count = half - i;
    const F cos = f_load_first(cos_sin + i, count);
    const F sin = f_load_first(cos_sin + half + i, count);
    const F a = f_load_first(head + i, count);
    const F b = f_load_first(head + half + i, count);
    f_store_first(head + i, f_sub(f_mul(a, cos), f_mul(b, sin)), count);
    f_store_first(head + half + i, f_add(f_mul(b, cos), f_mul(a, sin)), count);
  }
}

}  // namespace

void norm_row(const float* x, const float* weight, float eps, int64_t size, float* out) {
  F squares[2] = {f_zero(), f_zero()};
  int64_t i = 0;
  for (; i + 32 <= size; i += 32) {
    const F a = f_load(x + i);
    const F b = f_load(x + i + 16);
    squares[0] = f_fma(a, a, squares[0]);
    squares[1] = f_fma(b, b, squares[1]);
  }
  for (; i < size; i += 16) {
    const F a = f_load_first(x + i, size - i);
    squares[0] = f_fma(a, a, squares[0]);
  }
  const float mean = f_sum(f_add(squares[0], squares[1])) / static_cast<float>(size);
  const F inverse = f_set(1.0F / sqrtf(mean + eps));
  for (i = 0; i < size; i += 16) {
    const F scaled = f_mul(f_load_first(x + i, size - i), inverse);
    f_store_first(out + i, f_mul(scaled, f_load_first(weight + i, size - i)), size - i);
  }
}

void rms_norm(const RmsNormArgs& args, Range tokens) {
  const int64_t size = args.hidden_size;
  for (int64_t m = tokens.begin; m < tokens.end; ++m) {
    const float* x = args.x + m * size;
    if (args.residual != nullptr) {
      float* residual = args.residual + m * size;
      for (int64_t i = 0; i < size; i += 16) {
        const F sum = f_add(f_load_first(residual + i, size - i), f_load_first(x + i, size - i));
        f_store_first(residual + i, sum, size - i);
      }
      x = residual;
    }
    norm_row(x, args.weight, args.eps, size, args.out + m * size);
  }
}

void silu_mul(const float* gate_up, float* out, int64_t n, Range tokens) {
  for (int64_t m = tokens.begin; m < tokens.end; ++m) {
    const float* gate = gate_up + m * 2 * n;
    for (int64_t i = 0; i < n; i += 16) {
      const F g = f_load_first(gate + i, n - i);
      const F up = f_load_first(gate + n + i, n - i);
      const F denominator = f_add(f_set(1.0F), f_exp(f_sub(f_zero(), g)));
      f_store_first(out + m * n + i, f_mul(f_div(g, denominator), up), n - i);
    }
  }
}

void qk_norm_rope_kv_write(const QkvArgs& args, Range tokens) {
  const int64_t d = args.head_dim;
  const PagedKvCache& cache = args.cache;
  const int64_t row_bytes = d * cache_value_bytes(cache.dtype);
  for (int64_t m = tokens.begin; m < tokens.end; ++m) {
    float* q = args.qkv + m * (args.num_heads + 2 * args.num_kv_heads) * d;
    float* k = q + args.num_heads * d;
    float* v = k + args.num_kv_heads * d;
    for (int64_t h = 0; h < args.num_heads + args.num_kv_heads; ++h) {
      const float* norm = h < args.num_heads ? args.q_norm : args.k_norm;
      if (norm != nullptr) {
        norm_row(q + h * d, norm, args.norm_eps, d, q + h * d);
      }
      rotate(q + h * d, args.cos_sin + m * args.rotary_dim, args.rotary_dim);
    }
    const int64_t slot = args.slot_mapping[m];
    if (slot < 0) {
      continue;
    }
    for (int64_t h = 0; h < args.num_kv_heads; ++h) {
      const int64_t row = (slot / cache.block_size * args.num_kv_heads + h) * cache.block_size +
                          slot % cache.block_size;
      store_cache_row(cache.dtype, k + h * d, d, cache.k_scale,
                      static_cast<uint8_t*>(cache.k) + row * row_bytes);
      store_cache_row(cache.dtype, v + h * d, d, cache.v_scale,
                      static_cast<uint8_t*>(cache.v) + row * row_bytes);
    }
  }
}

}  // namespace atom::cpu::ATOM_ISA
