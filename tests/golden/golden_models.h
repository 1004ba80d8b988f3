// Golden models: reads tests/golden (and the parity pack, which has the same layout) and runs one
// of them through load_model and the op table, step by step, with any chunking. Only for tests.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "atom/core/buffer.h"
#include "atom/core/error.h"
#include "atom/core/thread_pool.h"
#include "atom/model_engine/input_builder.h"
#include "atom/model_loader/checkpoint.h"
#include "atom/models/causal_lm.h"

namespace atom::golden {

struct Prompt {
  std::vector<int32_t> ids;
  std::vector<int32_t> greedy;   // what transformers generates in float32
  std::vector<double> top2_gap;  // lead of each greedy token, in logits
  std::vector<float> logits;     // of the last `num_rows` positions, [num_rows, vocab_size]
  int64_t num_rows = 0;
  std::vector<float> rounded_logits;  // the same with activations rounded as the format says
};

struct GoldenModel {
  std::string name;
  std::filesystem::path path;  // directory or .gguf file
  int64_t vocab_size = 0;
  std::vector<Prompt> prompts;
  double nmse_tolerance = 0;     // at the default dtype
  double rounded_tolerance = 0;  // of rounded_logits; 0: the format rounds no activations
  double near_tie = 0;           // logits; a greedy token may differ where the lead is smaller
  double rounded_near_tie = 0;   // the same where activations are rounded; 0: not known
  // Of the draft layer, where there is one, for the last prompt and its greedy tokens.
  std::vector<float> draft_logits;    // of the last rows
  std::vector<int32_t> draft_argmax;  // of all rows
  std::vector<float> draft_lead;      // of each over the runner-up
};

// Every dense Llama and Qwen3 model below `root` (models/, reference/) that has plain or GGUF
// weights, sorted by name.
Result<std::vector<GoldenModel>> find_models(const std::filesystem::path& root);

// Sum of squared differences over sum of squares.
double nmse(const std::vector<float>& values, const std::vector<float>& expected);

// Whether the draft layer is loaded, and how its weights are kept.
enum class Drafts : uint8_t { kNone, kStored, kQuantized };

// A loaded model with a paged KV cache of its own, blocks in descending order.
class LogitsRunner {
 public:
  static Result<std::unique_ptr<LogitsRunner>> load(const GoldenModel& model, ComputeType compute,
                                                    int level, int num_threads,
                                                    Drafts drafts = Drafts::kNone);
  // Logits of all positions [ids.size(), vocab_size], prefilled in pieces of `chunk` tokens.
  std::vector<float> logits(const std::vector<int32_t>& ids, int64_t chunk);
  // Of the draft layer [ids.size() - 1, vocab_size]: row i has seen tokens 0 to i + 1.
  std::vector<float> draft_logits(const std::vector<int32_t>& ids, int64_t chunk);

 private:
  explicit LogitsRunner(int num_threads) : pool_(num_threads) {}

  ThreadPool pool_;
  Arena arena_;
  ExecContext ctx_;
  std::unique_ptr<CausalLM> model_;
  std::vector<Buffer> kv_buffers_;
  std::vector<PagedKvCache> kv_caches_;
  std::vector<int32_t> block_table_;
};

}  // namespace atom::golden
