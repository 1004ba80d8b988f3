// CausalLM: the thin interface of every model. A model is built from a ModelConfig, takes its
// weights from a Checkpoint, and runs steps through the op table of its ExecContext. No device,
// dtype or parallelism here.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "atom/core/error.h"
#include "atom/model_loader/checkpoint.h"
#include "atom/model_loader/model_config.h"
#include "atom/model_ops/ops.h"

namespace atom {

// What the KV cache of one model needs.
struct KvCacheSpec {
  int64_t num_layers = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  bool has_values = true;  // false: latent attention, whose rows are keys and values at once

  // Values that a token takes in one layer.
  int64_t token_size() const { return (has_values ? 2 : 1) * num_kv_heads * head_dim; }
};

// Known before anything is loaded; a draft layer's cache is the last.
KvCacheSpec kv_cache_spec(const ModelConfig& config);

// The configuration of a model that is loaded with its draft layer (--method mtp); refused where
// the checkpoint has none. `dummy`: what config.json promises is enough.
Result<ModelConfig> with_draft_layer(const Checkpoint& checkpoint, bool dummy);

// What a draft layer makes of a token and of the hidden state before it.
struct DraftStates {
  Tensor hidden;  // residual [num_rows, hidden_size]: for the next draft
  Tensor normed;  // activation [num_rows, hidden_size]: for compute_logits()
};

class CausalLM {
 public:
  virtual ~CausalLM() = default;
  virtual KvCacheSpec kv_cache_spec() const = 0;
  // token_ids i32 [num_tokens] -> hidden states f32 [num_tokens, hidden_size] after the final norm.
  // kv_caches: one per layer. Positions and block tables are in ctx.attention.
  virtual Tensor forward(const ExecContext& ctx, const Tensor& token_ids,
                         std::span<const PagedKvCache> kv_caches) = 0;
  // The draft layer, where it is loaded: row i holds the token that follows position i of
  // ctx.attention, and the hidden state at position i: what forward() gave, or DraftStates::hidden
  // of the draft before. All rows go to the cache, `rows` have results. token_ids i32 [num_tokens],
  // hidden [num_tokens, hidden_size], rows i32 [num_rows].
  virtual DraftStates draft(const ExecContext& ctx, const Tensor& token_ids, const Tensor& hidden,
                            const Tensor& rows, std::span<const PagedKvCache> kv_caches) = 0;
  // hidden [num_rows, hidden_size] -> logits f32 [num_rows, vocab_size], or a few columns more
  // where the backend pads them
  virtual Tensor compute_logits(const ExecContext& ctx, const Tensor& hidden) = 0;
  // The same of DraftStates::normed; near them where drafts are quantised.
  virtual Tensor compute_draft_logits(const ExecContext& ctx, const Tensor& normed) = 0;
};

struct ModelLoadOptions {
  ComputeType compute = ComputeType::kAuto;
  DummyWeights dummy = DummyWeights::kNone;
  Quantization quantization = Quantization::kNone;  // of linear weights, but the LM head
  bool draft_layer = false;
  // On the CPU, what only drafts is kept in 8 bits: a guess is verified, so it need not be exact.
  bool quantize_drafts = false;
};

// The registry (registry.cpp): architecture name -> builder. Loads all weights and accounts for
// every tensor of the checkpoint, or fails with the list. The model keeps the checkpoint open where
// it maps weights.
Result<std::unique_ptr<CausalLM>> load_model(const ExecContext& ctx,
                                             std::shared_ptr<const Checkpoint> checkpoint,
                                             const ModelLoadOptions& options);

}  // namespace atom
