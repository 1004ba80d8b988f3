// WeightLoader: takes tensors out of a Checkpoint into a model's parameters and accounts for every
// one of them. A model calls it once per parameter, as a table; problems are collected and reported
// by finish() in one line: missing, misshapen and left-over tensors by name. Owner: load_model, for
// the time of loading. One thread; packing inside runs on ctx.parallel.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "atom/core/buffer.h"
#include "atom/core/error.h"
#include "atom/model_loader/checkpoint.h"
#include "atom/model_ops/layers.h"
#include "atom/models/causal_lm.h"
#include "atom/models/weight_schemes.h"

namespace atom {

// One checkpoint weight `prefix` of a Linear (prefix + ".weight", or what a quantised checkpoint
// stores in its place), and `prefix + ".bias"` when the layer has
// one.
struct LinearPart {
  std::string prefix;
  int64_t rows = 0;  // out_features of this part
  bool has_bias = false;
};

// The LM head keeps its precision: it costs little and decides the tokens.
// A router is computed exactly: near ties between experts are decided there.
enum class Precision { kMayQuantize, kKeep, kExact };

// The experts of a layer: PREFIX 3.GATE.weight and so on, each [intermediate_size, hidden_size]
// (down: the other way round), or all of one kind stacked as PREFIX GATE.weight (GGUF files).
struct ExpertsParts {
  std::string prefix;
  std::string gate, up, down;
  int64_t num_experts = 0;
  int64_t intermediate_size = 0;
  int64_t hidden_size = 0;
};

class WeightLoader : private TensorSource {
 public:
  WeightLoader(const ExecContext& ctx, const Checkpoint& checkpoint,
               const ModelLoadOptions& options);

  // Parts are stacked along the output dimension: q, k, v or gate, up. With --quantization they are
  // quantised where the backend does that, unless `precision` keeps them.
  void linear(Linear& layer, std::vector<LinearPart> parts, int64_t in_features,
              Precision precision = Precision::kMayQuantize);
  // The weight of one part as the checkpoint stores it, in any format, for layers that need its
  // values or only some rows (part_rows, dequantize_rows); nothing after a reported problem. Give
  // it to done_with() afterwards.
  std::optional<StoredWeight> stored_weight(const std::string& prefix, int64_t rows,
                                            int64_t in_features);
  // The same for experts stacked in one tensor: see read_stacked_weight. With dummy weights, of
  // count * rows rows.
  std::optional<StoredWeight> stacked_weight(const std::string& name, int64_t count, int64_t rows,
                                             int64_t in_features);
  void done_with(const StoredWeight& weight);
  void experts(ExpertsWeight& out, const ExpertsParts& parts);
  // Packs such parts, rows stacked, as linear() does; `name` is for messages.
  void pack_parts(LinearWeight& out, std::span<const WeightPart> parts, const std::string& name,
                  Precision precision = Precision::kMayQuantize);
  // `prefix + ".weight"` [num_heads * (nope + v_head_dim), rank]: latents to keys and values, head
  // by head, split into the two products of an absorbed layer (latent_weights.cpp).
  void latent_up(MlaAttention& layer, const std::string& prefix);
  // k_scale and v_scale of an fp8 KV cache, under any of the names that checkpoints use; 1 without.
  void cache_scales(Attention& layer, const std::string& prefix);
  // f32 [size]
  void vector(Buffer& out, const std::string& name, int64_t size);
  // Experts stacked as PREFIX gate_up_proj [num_experts, 2 * intermediate_size, hidden_size], rows
  // of gate and up taking turns, and PREFIX down_proj, each with a bias (GPT-OSS).
  void interleaved_experts(ExpertsWeight& out, const ExpertsParts& parts);
  // [vocab_size, hidden_size], left where it is mapped, or bf16 on a device
  void embedding(Embedding& out, const std::string& name, int64_t vocab_size, int64_t hidden_size);
  // Where weights are stored as rows (on a device), a head that is the embedding's transpose is
  // kept once: load the head, then let the embedding read its rows.
  bool shares_tables() const { return ctx_.ops->pack_linear == nullptr; }
  void share_table(const Linear& head, Embedding& out) const;
  // Tensors that a checkpoint may carry and the model does not need, by suffix.
  void ignore(std::initializer_list<std::string_view> suffixes);
  // A copy of another tensor; a warning with the reason when it begins otherwise: its values are
  // not used.
  void ignore_copy(const std::string& name, const std::string& original, const char* reason);
  // The same as ignore(), all names that begin so.
  void ignore_prefix(std::string prefix);
  // What is loaded in between only drafts tokens: on the CPU, with quantize_drafts, its matrices of
  // floats are kept as int8 with one scale per row, but for routers.
  void begin_drafts() { drafting_ = true; }
  void end_drafts() { drafting_ = false; }
  // Whether a weight loaded now would be one of these: `prefix` + ".weight" is of floats.
  bool quantizes(const std::string& prefix) const;
  bool has(const std::string& name) const { return checkpoint_.find(name) != nullptr; }

  // The first problem by kind, with the names concerned; call once after all parameters.
  Status finish();

 private:
  const CheckpointTensor* find(const std::string& name) const override;
  const CheckpointTensor* take(const std::string& name,
                               std::initializer_list<int64_t> shape) override;
  // take() without reading ahead: for a table that stays mapped.
  const CheckpointTensor* checked(const std::string& name, std::initializer_list<int64_t> shape);
  const ParallelFor& parallel() const override { return ctx_.parallel; }
  void fail(std::string message) override;

  float cache_scale(const std::string& prefix, const std::string& letter);
  WeightPart dummy_quantized(DataFormat format, int64_t rows, int64_t cols, Buffer& memory);
  void clear_dummies();
  WeightPart dummy_part(int64_t rows, int64_t cols, Buffer& memory);
  Status pack(std::span<const WeightPart> sources, Precision precision, LinearWeight& out);
  // The values as f32 in host memory; empty after a failure.
  Buffer host_vector(const std::string& name, int64_t size) { return host_values(name, {size}); }
  void make_up_heads(MlaAttention& layer, const std::string& prefix);
  Buffer host_values(const std::string& name, std::initializer_list<int64_t> shape);
  void place(Buffer host, Buffer& out);
  void place_values(const float* values, int64_t size, Buffer& out);
  bool interleaved_matrices(ExpertsWeight& out, const ExpertsParts& parts);
  // values [num_experts, rows]
  void place_biases(const float* values, int64_t rows, std::vector<LinearWeight>& packed,
                    StackedExperts& stack);
  // The parts of a layer, stored or made up; false after a reported problem.
  bool find_sources(const std::vector<LinearPart>& parts, int64_t in_features, Precision precision,
                    std::vector<WeightPart>& sources, std::vector<StoredWeight>& stored);
  // Sizes of all experts; on a device the tensor of each kind is allocated with its first expert,
  // whose format it has.
  void make_room(ExpertsWeight& out, int64_t count, int64_t inner, int64_t hidden);
  // Made-up weights of a device in the checkpoint's own format; false where it has none.
  bool make_up_experts(ExpertsWeight& out);
  // Rows of expert e, stacked: packed on the host, at their place in the tensor of a device.
  void pack_expert(std::vector<LinearWeight>& packed, StackedExperts& stack, int64_t e,
                   std::span<const WeightPart> parts, const std::string& name);
  void load_expert(std::vector<LinearWeight>& packed, StackedExperts& stack, int64_t e,
                   const std::vector<LinearPart>& parts, int64_t in_features);
  void stacked_experts(ExpertsWeight& out, const ExpertsParts& parts);
  void load_bias(Linear& layer, const std::vector<LinearPart>& parts);

  bool quantizes_drafts() const;

  const ExecContext& ctx_;
  const Checkpoint& checkpoint_;
  const ModelLoadOptions& options_;
  std::unordered_set<std::string> taken_;
  std::vector<std::string_view> ignored_suffixes_;
  std::vector<std::string> ignored_prefixes_;
  std::vector<std::string> missing_;
  std::vector<std::string> problems_;
  std::vector<Buffer> dummy_buffers_;      // memory of bf16 dummy parts, where the model runs
  std::vector<Buffer> quantized_dummies_;  // of quantised ones, on the host
  uint64_t dummy_state_ = 1;
  bool drafting_ = false;
};

}  // namespace atom
