// Loading accounts for every tensor: a checkpoint in memory, an op table that only records what is
// packed.
#include "atom/models/weight_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace atom {
namespace {

using testing::HasSubstr;

class MemoryCheckpoint final : public Checkpoint {
 public:
  void add(const std::string& name, std::vector<int64_t> shape, DType dtype = DType::kF32) {
    int64_t count = 1;
    for (const int64_t dim : shape) {
      count *= dim;
    }
    data_.emplace_back(static_cast<size_t>(count), 0.5F);
    tensors_.push_back({.name = name,
                        .dtype = dtype,
                        .shape = std::move(shape),
                        .data = data_.back().data(),
                        .nbytes = dtype_bytes(dtype, count),
                        .file = "memory"});
  }

  void take_out(std::string_view name) {
    std::erase_if(tensors_, [&](const CheckpointTensor& tensor) { return tensor.name == name; });
  }
  CheckpointTensor& last() { return tensors_.back(); }
  std::vector<float>& last_values() { return data_.back(); }

  const ModelConfig& config() const override { return config_; }
  std::span<const CheckpointTensor> tensors() const override { return tensors_; }
  const CheckpointTensor* find(std::string_view name) const override {
    for (const CheckpointTensor& tensor : tensors_) {
      if (tensor.name == name) {
        return &tensor;
      }
    }
    return nullptr;
  }
  void release(const CheckpointTensor&) const override {}
  void prefetch(const CheckpointTensor&) const override {}
  Result<std::shared_ptr<const Tokenizer>> load_tokenizer() const override {
    return make_error(ErrorCode::kNotFound, "none");
  }
  Result<std::optional<std::string>> chat_template() const override { return std::nullopt; }
  const GenerationDefaults& generation_defaults() const override { return defaults_; }
  int64_t total_bytes() const override { return 0; }
  std::string format_name() const override { return "memory"; }

 private:
  ModelConfig config_;
  GenerationDefaults defaults_;
  std::vector<CheckpointTensor> tensors_;
  std::vector<std::vector<float>> data_;
};

Status record_pack(const ExecContext&, std::span<const WeightPart> parts, ComputeType,
                   LinearWeight& out) {
  out.in_features = parts[0].cols;
  for (const WeightPart& part : parts) {
    out.segments.push_back(
        {.format = part.format, .row_begin = out.out_features, .rows = part.rows});
    out.out_features += part.rows;
  }
  return {};
}

class WeightLoaderTest : public testing::Test {
 protected:
  WeightLoaderTest() {
    ops_.pack_linear = record_pack;
    ops_.fill_random = cpu_op_table(0).fill_random;
    ctx_.ops = &ops_;
  }

  // q, k and v stacked, with biases on q and v, plus one norm.
  std::string load() {
    WeightLoader loader(ctx_, checkpoint_, options_);
    loader.linear(linear_,
                  {{.prefix = "q", .rows = 4, .has_bias = true},
                   {.prefix = "k", .rows = 2},
                   {.prefix = "v", .rows = 2, .has_bias = true}},
                  3);
    loader.vector(norm_, "norm.weight", 3);
    loader.ignore({"inv_freq"});
    const Status status = loader.finish();
    return status ? "" : status.error().message;
  }

  void add_all() {
    checkpoint_.add("q.weight", {4, 3});
    checkpoint_.add("k.weight", {2, 3});
    checkpoint_.add("v.weight", {2, 3});
    checkpoint_.add("q.bias", {4});
    checkpoint_.add("v.bias", {2});
    checkpoint_.add("norm.weight", {3});
  }

  OpTable ops_;
  ExecContext ctx_;
  MemoryCheckpoint checkpoint_;
  ModelLoadOptions options_;
  Linear linear_;
  Buffer norm_;
};

TEST_F(WeightLoaderTest, StacksPartsAndBiases) {
  add_all();
  checkpoint_.add("layers.0.rotary.inv_freq", {8});
  EXPECT_EQ(load(), "");
  EXPECT_EQ(linear_.weight.out_features, 8);
  const auto* bias = static_cast<const float*>(linear_.weight.bias.data());
  const std::vector<float> got(bias, bias + 8);
  EXPECT_THAT(got, testing::ElementsAre(0.5F, 0.5F, 0.5F, 0.5F, 0, 0, 0.5F, 0.5F));
}

// GGUF files of the llama family permute the biases of q and k as they do the rows of the weights.
TEST_F(WeightLoaderTest, BiasesFollowTheRotaryOrderOfTheirRows) {
  add_all();
  checkpoint_.take_out("q.bias");
  checkpoint_.add("q.bias", {4});
  checkpoint_.last_values() = {0, 2, 1, 3};  // one head: rows 0, 2 (= 0 + half), 1, 3
  checkpoint_.last().row_order = RowOrder::kInterleavedRotary;
  checkpoint_.last().rotary_heads = 1;
  EXPECT_EQ(load(), "");
  const auto* bias = static_cast<const float*>(linear_.weight.bias.data());
  EXPECT_THAT(std::vector<float>(bias, bias + 4), testing::ElementsAre(0, 1, 2, 3));
}

TEST_F(WeightLoaderTest, RefusesTypesThatHoldNoFloats) {
  add_all();
  checkpoint_.take_out("norm.weight");
  checkpoint_.add("norm.weight", {3}, DType::kI32);
  EXPECT_EQ(load(), "memory: tensor norm.weight has type i32, a vector needs f32, f16 or bf16");

  checkpoint_.add("embed.weight", {4, 3}, DType::kF8E4M3);
  WeightLoader loader(ctx_, checkpoint_, options_);
  Embedding table;
  loader.embedding(table, "embed.weight", 4, 3);
  EXPECT_THAT(loader.finish().error().message, HasSubstr("tensor embed.weight has type fp8_e4m3"));
}

TEST_F(WeightLoaderTest, NamesMissingTensors) {
  checkpoint_.add("q.weight", {4, 3});
  checkpoint_.add("q.bias", {4});
  checkpoint_.add("norm.weight", {3});
  const std::string message = load();
  EXPECT_THAT(message, HasSubstr("missing tensors: k.weight, v.weight, v.bias"));
}

TEST_F(WeightLoaderTest, NamesUnexpectedTensors) {
  add_all();
  checkpoint_.add("layers.0.extra.weight", {1});
  EXPECT_THAT(load(),
              HasSubstr("unexpected tensor that the model does not use: layers.0.extra.weight"));
}

TEST_F(WeightLoaderTest, ShowsBothShapes) {
  checkpoint_.add("q.weight", {3, 4});
  checkpoint_.add("k.weight", {2, 3});
  checkpoint_.add("v.weight", {2, 3});
  checkpoint_.add("q.bias", {4});
  checkpoint_.add("v.bias", {2});
  checkpoint_.add("norm.weight", {3});
  EXPECT_EQ(load(), "memory: tensor q.weight has shape [3, 4], the model needs [4, 3]");
}

TEST_F(WeightLoaderTest, CacheScalesUnderAnyOfTheirNames) {
  for (const char* name :
       {"a.k_scale", "a.attn.k_scale", "a.k_proj.k_scale", "a.k_proj.output_scale"}) {
    checkpoint_.add(name, {1});
    Attention layer;
    WeightLoader loader(ctx_, checkpoint_, options_);
    loader.cache_scales(layer, "a.");
    EXPECT_TRUE(loader.finish()) << name;
    EXPECT_EQ(layer.k_scale, 0.5F) << name;
    EXPECT_EQ(layer.v_scale, 1.0F) << name;
    checkpoint_.take_out(name);
  }
  for (const float bad : {0.0F, -1.0F, NAN, INFINITY}) {
    checkpoint_.add("a.v_scale", {1});
    checkpoint_.last_values() = {bad};
    Attention layer;
    WeightLoader loader(ctx_, checkpoint_, options_);
    loader.cache_scales(layer, "a.");
    EXPECT_EQ(loader.finish().error().message, "memory: tensor a.v_scale is not a positive number");
    checkpoint_.take_out("a.v_scale");
  }
}

TEST_F(WeightLoaderTest, DummyWeightsNeedNoTensors) {
  options_.dummy = DummyWeights::kXavier;
  EXPECT_EQ(load(), "");
  EXPECT_EQ(linear_.weight.out_features, 8);
  EXPECT_FLOAT_EQ(static_cast<const float*>(norm_.data())[2], 1.0F);
}

}  // namespace
}  // namespace atom
