// Norms, the gated activation, and what happens to q, k and v before attention.
#include <cmath>
#include <cstring>

#include "kernels/common/convert.h"
#include "kernels/cpu/reference/reference_kernels.h"

namespace atom::cpu::reference {
namespace {

// Pairs (i, i + rotary_dim / 2) turn by the angle whose cosine and sine are given.
void rotate(float* head, const float* cos_sin, int64_t rotary_dim) {
  const int64_t half = rotary_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float cos = cos_sin[i];
    const float sin = cos_sin[half + i];
    const float a = head[i];
    const float b = head[i + half];
    head[i] = a * cos - b * sin;
    head[i + half] = b * cos + a * sin;
  }
}

}  // namespace

void norm_row(const float* x, const float* weight, float eps, int64_t size, float* out) {
  double squares = 0;
  for (int64_t i = 0; i < size; ++i) {
    squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  const double inverse =
      1.0 / std::sqrt(squares / static_cast<double>(size) + static_cast<double>(eps));
  for (int64_t i = 0; i < size; ++i) {
    out[i] = static_cast<float>(static_cast<double>(x[i]) * inverse) * weight[i];
  }
}

void rms_norm(const RmsNormArgs& args, Range tokens) {
  for (int64_t m = tokens.begin; m < tokens.end; ++m) {
    const float* x = args.x + m * args.hidden_size;
    if (args.residual != nullptr) {
      float* residual = args.residual + m * args.hidden_size;
      for (int64_t i = 0; i < args.hidden_size; ++i) {
        residual[i] += x[i];
      }
      x = residual;
    }
    norm_row(x, args.weight, args.eps, args.hidden_size, args.out + m * args.hidden_size);
  }
}

void silu_mul(const float* gate_up, float* out, int64_t n, Range tokens) {
  for (int64_t m = tokens.begin; m < tokens.end; ++m) {
    const float* gate = gate_up + m * 2 * n;
    for (int64_t i = 0; i < n; ++i) {
      out[m * n + i] = gate[i] / (1.0F + std::exp(-gate[i])) * gate[n + i];
    }
  }
}

void store_cache_row(DType dtype, const float* values, int64_t size, float scale, void* row) {
  if (dtype == DType::kF32) {
    memcpy(row, values, static_cast<size_t>(size) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < size; ++i) {
    if (dtype == DType::kBF16) {
      static_cast<uint16_t*>(row)[i] = f32_to_bf16(values[i]);
    } else {
      static_cast<uint8_t*>(row)[i] = f32_to_f8e4m3(values[i] / scale);
    }
  }
}

void load_cache_row(DType dtype, const void* row, int64_t size, float scale, float* out) {
  for (int64_t i = 0; i < size; ++i) {
    switch (dtype) {
      case DType::kF32:
        out[i] = static_cast<const float*>(row)[i];
        break;
      case DType::kBF16:
        out[i] = bf16_to_f32(static_cast<const uint16_t*>(row)[i]);
        break;
      default:
        out[i] = f8e4m3_to_f32(static_cast<const uint8_t*>(row)[i]) * scale;
        break;
    }
  }
}

void qk_norm_rope_kv_write(const QkvArgs& args, Range tokens) {
  const int64_t d = args.head_dim;
  const PagedKvCache& cache = args.cache;
  const int64_t row_bytes = dtype_bytes(cache.dtype, d);
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
                      static_cast<char*>(cache.k) + row * row_bytes);
      store_cache_row(cache.dtype, v + h * d, d, cache.v_scale,
                      static_cast<char*>(cache.v) + row * row_bytes);
    }
  }
}

}  // namespace atom::cpu::reference
