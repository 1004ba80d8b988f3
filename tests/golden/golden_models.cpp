#include "tests/golden/golden_models.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cstring>
#include <numeric>

#include "atom/core/json.h"
#include "atom/model_engine/attention_input.h"
#include "atom/model_loader/mapped_file.h"
#include "atom/model_loader/safetensors.h"

namespace atom::golden {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr int64_t kBlockSize = 16;
constexpr int64_t kNumBlocks = 24;
constexpr int64_t kArenaBytes = int64_t{64} << 20;

// Fills `logits` of `prompts` from p{i}.logits.
Status read_logits(const fs::path& path, std::vector<float> Prompt::*logits,
                   std::vector<Prompt>& prompts) {
  ATOM_ASSIGN_OR_RETURN(const auto file, MappedFile::open(path));
  ATOM_ASSIGN_OR_RETURN(const auto tensors, parse_safetensors(file->bytes()));
  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::string name = str_format("p{}.logits", i);
    const auto tensor = std::ranges::find(tensors, name, &SafetensorsTensor::name);
    if (tensor == tensors.end() || tensor->dtype != DType::kF32 || tensor->shape.size() != 2) {
      return make_error(ErrorCode::kDataLoss, "{}: no f32 matrix {}", path.string(), name);
    }
    prompts[i].num_rows = tensor->shape[0];
    (prompts[i].*logits).resize(static_cast<size_t>(tensor->shape[0] * tensor->shape[1]));
    std::memcpy((prompts[i].*logits).data(), file->bytes().data() + tensor->begin,
                static_cast<size_t>(tensor->end - tensor->begin));
  }
  return {};
}

template <class T>
std::vector<T> values_of(std::span<const std::byte> bytes, const SafetensorsTensor& tensor) {
  std::vector<T> values(static_cast<size_t>(tensor.end - tensor.begin) / sizeof(T));
  std::memcpy(values.data(), bytes.data() + tensor.begin, values.size() * sizeof(T));
  return values;
}

// What the draft layer makes of the last prompt and its greedy tokens.
Status read_drafts(const fs::path& path, GoldenModel& model) {
  ATOM_ASSIGN_OR_RETURN(const auto file, MappedFile::open(path));
  ATOM_ASSIGN_OR_RETURN(const auto tensors, parse_safetensors(file->bytes()));
  for (const SafetensorsTensor& tensor : tensors) {
    if (tensor.name == "mtp.last4_logits") {
      model.draft_logits = values_of<float>(file->bytes(), tensor);
    } else if (tensor.name == "mtp.top2_gap") {
      model.draft_lead = values_of<float>(file->bytes(), tensor);
    } else if (tensor.name == "mtp.argmax") {
      model.draft_argmax = values_of<int32_t>(file->bytes(), tensor);
    }
  }
  return {};
}

Result<GoldenModel> read_model(const fs::path& root, const std::string& name,
                               const json::object& reference) {
  const json::object& weights = reference.at("variants").at("weights").as_object();
  GoldenModel model{.name = name, .path = root / "models" / name, .prompts = {}};
  if (const auto* file = reference.if_contains("file")) {
    model.path /= std::string_view(file->as_string());
  }
  model.vocab_size = reference.at("vocab_size").to_number<int64_t>();
  model.nmse_tolerance = weights.at("tolerance").at("nmse").to_number<double>();
  model.near_tie = weights.at("tolerance").at("near_tie").to_number<double>();
  for (const json::value& prompt : weights.at("prompts").as_array()) {
    model.prompts.push_back({.ids = json::value_to<std::vector<int32_t>>(prompt.at("ids")),
                             .greedy = json::value_to<std::vector<int32_t>>(prompt.at("greedy")),
                             .top2_gap = json::value_to<std::vector<double>>(prompt.at("top2_gap")),
                             .logits = {}});
  }
  const fs::path folder = root / "reference" / name;
  ATOM_RETURN_IF_ERROR(read_logits(folder / "weights.safetensors", &Prompt::logits, model.prompts));
  ATOM_RETURN_IF_ERROR(read_drafts(folder / "weights.safetensors", model));
  if (const auto* rounded = reference.at("variants").as_object().if_contains("activations")) {
    model.rounded_tolerance = rounded->at("tolerance").at("nmse").to_number<double>();
    if (const auto* near_tie = rounded->at("tolerance").as_object().if_contains("near_tie")) {
      model.rounded_near_tie = near_tie->to_number<double>();
    }
    ATOM_RETURN_IF_ERROR(
        read_logits(folder / "activations.safetensors", &Prompt::rounded_logits, model.prompts));
  }
  return model;
}

}  // namespace

Result<std::vector<GoldenModel>> find_models(const fs::path& root) {
  std::vector<GoldenModel> models;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root / "reference", error)) {
    if (!entry.is_directory()) {
      continue;
    }
    ATOM_ASSIGN_OR_RETURN(const std::string text,
                          read_small_file(entry.path() / "reference.json", 1 << 24));
    ATOM_ASSIGN_OR_RETURN(const json::value value, parse_json(text));
    ATOM_ASSIGN_OR_RETURN(GoldenModel model,
                          read_model(root, entry.path().filename(), value.as_object()));
    models.push_back(std::move(model));
  }
  if (error) {
    return make_error(ErrorCode::kNotFound, "{}: {}", root.string(), error.message());
  }
  std::ranges::sort(models, {}, &GoldenModel::name);
  return models;
}

double nmse(const std::vector<float>& values, const std::vector<float>& expected) {
  ATOM_CHECK(values.size() == expected.size());
  double difference = 0.0;
  double total = 0.0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double error = static_cast<double>(values[i]) - static_cast<double>(expected[i]);
    difference += error * error;
    total += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  return difference / total;
}

Result<std::unique_ptr<LogitsRunner>> LogitsRunner::load(const GoldenModel& golden,
                                                         ComputeType compute, int level,
                                                         int num_threads, Drafts drafts) {
  std::unique_ptr<LogitsRunner> runner(new LogitsRunner(num_threads));
  ATOM_ASSIGN_OR_RETURN(Buffer arena, Buffer::allocate(kArenaBytes));
  runner->arena_ = Arena(std::move(arena));
  runner->ctx_.ops = &cpu_op_table(level);
  runner->ctx_.parallel = runner->pool_.parallel_for();
  runner->ctx_.arena = &runner->arena_;
  ATOM_ASSIGN_OR_RETURN(std::shared_ptr<const Checkpoint> checkpoint,
                        Checkpoint::open(golden.path));
  ATOM_ASSIGN_OR_RETURN(runner->model_,
                        load_model(runner->ctx_, checkpoint,
                                   {.compute = compute,
                                    .draft_layer = drafts != Drafts::kNone,
                                    .quantize_drafts = drafts == Drafts::kQuantized}));
  const KvCacheSpec spec = runner->model_->kv_cache_spec();
  const DType dtype = compute == ComputeType::kFloat32 ? DType::kF32 : DType::kBF16;
  const int64_t half =
      dtype_bytes(dtype, kNumBlocks * spec.num_kv_heads * kBlockSize * spec.head_dim);
  for (int64_t layer = 0; layer < spec.num_layers; ++layer) {
    ATOM_ASSIGN_OR_RETURN(Buffer k, Buffer::allocate(half));
    ATOM_ASSIGN_OR_RETURN(Buffer v, Buffer::allocate(spec.has_values ? half : 0));
    runner->kv_caches_.push_back({.k = k.data(),
                                  .v = v.data(),
                                  .dtype = dtype,
                                  .num_blocks = kNumBlocks,
                                  .num_kv_heads = spec.num_kv_heads,
                                  .block_size = kBlockSize,
                                  .head_dim = spec.head_dim});
    runner->kv_buffers_.push_back(std::move(k));
    runner->kv_buffers_.push_back(std::move(v));
  }
  for (int32_t block = kNumBlocks - 1; block >= 0; --block) {
    runner->block_table_.push_back(block);
  }
  return runner;
}

std::vector<float> LogitsRunner::logits(const std::vector<int32_t>& ids, int64_t chunk) {
  const auto num_tokens = static_cast<int64_t>(ids.size());
  ATOM_CHECK(num_tokens <= kNumBlocks * kBlockSize);
  std::vector<float> result;
  const SamplingParams greedy{.temperature = 0.0F};
  for (int64_t begin = 0; begin < num_tokens; begin += chunk) {
    arena_.reset();
    const int64_t count = std::min(chunk, num_tokens - begin);
    ScheduledBatch batch{.sequences = {}, .num_tokens = count};
    batch.sequences.push_back({.id = 1,
                               .token_ids = ids,
                               .num_prompt_tokens = num_tokens,
                               .num_computed_tokens = begin,
                               .num_scheduled_tokens = count,
                               .block_table = block_table_,
                               .sampling = &greedy,
                               .banned_token_ids = {}});
    InputBuilder inputs;
    inputs.build(batch, kBlockSize);
    ctx_.attention = &inputs.attention();
    const auto tokens = inputs.token_ids();
    const Tensor token_ids(const_cast<int32_t*>(tokens.data()), DType::kI32, {count});
    const Tensor rows = model_->compute_logits(ctx_, model_->forward(ctx_, token_ids, kv_caches_));
    result.insert(result.end(), rows.data_as<float>(), rows.data_as<float>() + rows.numel());
  }
  return result;
}

std::vector<float> LogitsRunner::draft_logits(const std::vector<int32_t>& ids, int64_t chunk) {
  const auto num_tokens = static_cast<int64_t>(ids.size());
  ATOM_CHECK(num_tokens <= kNumBlocks * kBlockSize);
  std::vector<float> result;
  AttentionInput attention;
  for (int64_t begin = 0; begin + 1 < num_tokens; begin += chunk) {
    arena_.reset();
    const int64_t count = std::min(chunk, num_tokens - 1 - begin);
    attention.begin(kBlockSize);
    attention.add(block_table_, begin, count);
    ctx_.attention = &attention.finish();
    const auto tokens = [&](int64_t first) {
      return Tensor(const_cast<int32_t*>(ids.data()) + first, DType::kI32, {count});
    };
    const Tensor hidden = model_->forward(ctx_, tokens(begin), kv_caches_);
    std::vector<int32_t> all(static_cast<size_t>(count));
    std::iota(all.begin(), all.end(), 0);
    const DraftStates states = model_->draft(ctx_, tokens(begin + 1), hidden,
                                             Tensor(all.data(), DType::kI32, {count}), kv_caches_);
    const Tensor rows = model_->compute_draft_logits(ctx_, states.normed);
    result.insert(result.end(), rows.data_as<float>(), rows.data_as<float>() + rows.numel());
  }
  return result;
}

}  // namespace atom::golden
