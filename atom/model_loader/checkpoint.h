// Checkpoint: an opened model directory or GGUF file. Tensor data stays in the mapped files (no
// copy) under Hugging Face names; GGUF names, Q/K row order and metadata are translated here, so
// models/ sees one form. Opening checks every header, offset, dtype and shape product before use.
// Not thread-safe to open; tensors() and data may be read from many threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "atom/core/error.h"
#include "atom/model_loader/model_config.h"
#include "atom/tokenizer/tokenizer.h"
#include "kernels/common/dtype.h"

namespace atom {

// Rows of GGUF llama Q and K projections are stored in interleaved rotary order, per head.
enum class RowOrder : uint8_t { kPlain, kInterleavedRotary };

struct CheckpointTensor {
  std::string name = {};  // Hugging Face name: model.layers.0.self_attn.q_proj.weight
  DType dtype = DType::kF32;
  std::vector<int64_t> shape = {};  // row-major, slowest first: [out_features, in_features]
  const void* data = nullptr;       // mapped; not necessarily aligned
  int64_t nbytes = 0;
  RowOrder row_order = RowOrder::kPlain;
  int64_t rotary_heads = 0;  // heads along dim 0 when row_order is kInterleavedRotary
  std::string file = {};     // for messages
};

struct GenerationDefaults {  // generation_config.json
  std::optional<float> temperature, top_p;
  std::optional<int32_t> top_k;
};

enum class CheckpointWeights : uint8_t {
  kRequired,
  kIgnored,  // a directory with config.json and tokenizer is enough (--load_dummy); tensors() is
             // empty
};

class Checkpoint {
 public:
  virtual ~Checkpoint() = default;
  // `path` is a directory or a .gguf file (hub names are resolved before, see hub.h).
  static Result<std::unique_ptr<Checkpoint>> open(
      const std::filesystem::path& path, CheckpointWeights weights = CheckpointWeights::kRequired);

  virtual const ModelConfig& config() const = 0;
  virtual std::span<const CheckpointTensor> tensors() const = 0;
  virtual const CheckpointTensor* find(std::string_view name) const = 0;
  // Tells the system that the tensor's file pages are no longer needed (after packing or upload).
  virtual void release(const CheckpointTensor& tensor) const = 0;
  // Tells the system to read ahead.
  virtual void prefetch(const CheckpointTensor& tensor) const = 0;

  virtual Result<std::shared_ptr<const Tokenizer>> load_tokenizer() const = 0;
  // chat_template.jinja, chat_template.json, tokenizer_config.json (string or named list:
  // "default"), GGUF metadata, in this order; empty optional when there is none.
  virtual Result<std::optional<std::string>> chat_template() const = 0;
  virtual const GenerationDefaults& generation_defaults() const = 0;
  virtual int64_t total_bytes() const = 0;      // of tensor data
  virtual std::string format_name() const = 0;  // "safetensors (2 shards)", "GGUF v3"
  // Error when a file changed size or was rewritten since open(); worth asking once loading is
  // done. (A file cut short while it is read ends the process with one line, see
  // install_fault_message in mapped_file.h.)
  virtual Status verify_unchanged() const { return {}; }
};

}  // namespace atom
