// What GGUF metadata and tensor names mean: architecture tables -> ModelConfig, Hugging Face tensor
// names and the tokenizer's vocabulary. To add a family: its row in model_family.cpp, and rows here
// for names that no earlier family had.
#pragma once

#include <string>
#include <string_view>

#include "atom/core/error.h"
#include "atom/model_loader/checkpoint.h"
#include "atom/model_loader/gguf.h"
#include "atom/model_loader/model_family.h"

namespace atom {

// Errors name the key. Reads tensor presence too (tied head, biases) and rope_freqs.weight from
// `bytes`.
Result<ModelConfig> read_gguf_config(const GgufFile& gguf, std::span<const std::byte> bytes);

// blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight. A name without a row is returned
// as it is, so that the model's own accounting refuses it by the name the file has.
std::string hugging_face_name(std::string_view gguf_name);

// All tensors of the file except those that became part of the config, under Hugging Face names.
// `base` is the start of the file in memory.
Result<std::vector<CheckpointTensor>> translate_gguf_tensors(const GgufFile& gguf,
                                                             const ModelConfig& config,
                                                             const std::byte* base,
                                                             std::string_view file_name);

// tokenizer.ggml.*; errors name the key.
Result<GgufVocab> read_gguf_vocab(const GgufFile& gguf);

}  // namespace atom
