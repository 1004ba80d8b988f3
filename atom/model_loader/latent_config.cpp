#include "atom/model_loader/latent_config.h"

namespace atom {
namespace {

constexpr int64_t kMaxDim = 4096;
constexpr int64_t kMaxRank = 1 << 16;

struct Row {
  int64_t LatentConfig::*field;
  const char* key;
  int64_t max;
  bool required;
};

constexpr Row kRows[] = {
    {&LatentConfig::q_lora_rank, "q_lora_rank", kMaxRank, false},
    {&LatentConfig::kv_lora_rank, "kv_lora_rank", kMaxRank, true},
    {&LatentConfig::qk_nope_head_dim, "qk_nope_head_dim", kMaxDim, true},
    {&LatentConfig::qk_rope_head_dim, "qk_rope_head_dim", kMaxDim, true},
    {&LatentConfig::v_head_dim, "v_head_dim", kMaxDim, true},
};

}  // namespace

Status read_latent_attention(const JsonFields& fields, ModelConfig& config) {
  LatentConfig& latent = config.latent;
  for (const Row& row : kRows) {
    ATOM_ASSIGN_OR_RETURN(const std::optional<int64_t> value, fields.integer(row.key, 1, row.max));
    if (!value && row.required) {
      return make_error(ErrorCode::kInvalidArgument, "{}: missing (expected 1 to {})", row.key,
                        row.max);
    }
    latent.*row.field = value.value_or(0);
  }
  if (latent.qk_rope_head_dim % 2 != 0) {
    return make_error(ErrorCode::kInvalidArgument,
                      "qk_rope_head_dim: odd, but rotary embedding needs pairs (found {}, expected "
                      "an even number)",
                      latent.qk_rope_head_dim);
  }
  ATOM_ASSIGN_OR_RETURN(const std::optional<bool> interleaved, fields.boolean("rope_interleave"));
  if (!interleaved.value_or(true)) {
    return make_error(ErrorCode::kUnsupported,
                      "rope_interleave: not supported (found false, expected true)");
  }
  config.head_dim = latent.qk_nope_head_dim + latent.qk_rope_head_dim;
  config.rotary_dim = latent.qk_rope_head_dim;
  return {};
}

}  // namespace atom
