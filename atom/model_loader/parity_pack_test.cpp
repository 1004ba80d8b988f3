// Every checkpoint of the parity pack: opened with the right numbers, or refused by name. Skipped
// without the pack (ATOM_SHARED_DIR).
#include <cstdlib>
#include <map>

#include "atom/model_loader/checkpoint.h"
#include "atom/model_loader/test_files.h"

namespace atom {
namespace {

namespace fs = std::filesystem;

class ParityPack : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const fs::path shared = testing::shared_dir();
    if (shared.empty()) return;
    dir_ = new testing::TempDir();
    const std::string command = "tar -C '" + dir_->path().string() + "' -xf '" +
                                (shared / "parity/parity.tar.xz").string() + "' models";
    if (std::system(command.c_str()) != 0) delete dir_, dir_ = nullptr;
  }
  static void TearDownTestSuite() { delete dir_, dir_ = nullptr; }
  void SetUp() override {
    if (dir_ == nullptr)
      GTEST_SKIP()
          << "no parity pack: set ATOM_SHARED_DIR to the directory that holds parity/parity.tar.xz";
  }

  static fs::path model(const std::string& name) { return dir_->path() / "models" / name; }

  static inline testing::TempDir* dir_ = nullptr;
};

TEST_F(ParityPack, OpensWhatIsSupportedAndRefusesTheRestByName) {
  int opened = 0, refused = 0;
  for (const auto& entry : fs::directory_iterator(dir_->path() / "models")) {
    const std::string name = entry.path().filename();
    const auto checkpoint = Checkpoint::open(entry.path());
    if (checkpoint) {
      ++opened;
      EXPECT_NE((*checkpoint)->find("model.embed_tokens.weight"), nullptr) << name;
      EXPECT_EQ((*checkpoint)->find("model.embed_tokens.weight")->shape,
                (std::vector<int64_t>{(*checkpoint)->config().vocab_size,
                                      (*checkpoint)->config().hidden_size}))
          << name;
      const auto tokenizer = (*checkpoint)->load_tokenizer();
      EXPECT_TRUE(tokenizer) << name << ": " << tokenizer.error().message;
      continue;
    }
    ++refused;
    EXPECT_REFUSED(checkpoint, name, "not supported", "expected");
  }
  EXPECT_GE(opened, 29);  // every dense Llama and Qwen3 model, in every format
  EXPECT_EQ(opened + refused, 49);
}

TEST_F(ParityPack, ReadsTheOdditiesOfEachCheckpoint) {
  const auto config = [](const std::string& name) {
    return (*Checkpoint::open(model(name)))->config();
  };
  EXPECT_EQ(config("llama2-mha-f16").rope.theta, 10000.0);
  EXPECT_EQ(config("llama-head-dim").head_dim, 24);
  EXPECT_TRUE(config("llama-biases-f32").attention_output_bias);
  EXPECT_TRUE(config("llama-biases-f32").mlp_bias);
  EXPECT_EQ(config("llama31-rope-scaling").rope.scaling, RopeConfig::Scaling::kLlama3);
  EXPECT_EQ(config("llama31-rope-scaling").rope.original_max_position_embeddings, 64);
  EXPECT_EQ(config("llama31-rope-scaling").eos_token_ids, (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(config("qwen3-tied").vocab_size, 400);  // beyond the tokenizer's
  EXPECT_TRUE(config("qwen3-tied").tie_word_embeddings);
  EXPECT_NE((*Checkpoint::open(model("qwen3-tied")))->find("lm_head.weight"), nullptr);
  EXPECT_EQ(config("gguf-llama31-k-q4_k_m").rope.freq_divisors.size(), 32u);
  EXPECT_EQ((*Checkpoint::open(model("gguf-llama31-k-q4_k_m")))->find("rope_freqs.weight"),
            nullptr);
  EXPECT_EQ(config("gguf-qwen3-bf16").head_dim, 32);
  EXPECT_EQ(config("gguf-qwen3-q4_1").architecture, "Qwen3ForCausalLM");
  const auto gguf = *Checkpoint::open(model("gguf-llama3-q4_0"));
  EXPECT_EQ(gguf->find("model.layers.0.self_attn.k_proj.weight")->row_order,
            RowOrder::kInterleavedRotary);
  EXPECT_EQ(gguf->find("model.layers.0.self_attn.k_proj.weight")->dtype, DType::kQ4_0);
  EXPECT_EQ((*Checkpoint::open(model("gguf-qwen3-q8_0")))
                ->find("model.layers.0.self_attn.k_proj.weight")
                ->row_order,
            RowOrder::kPlain);
}

// Any single file of the pack, cut anywhere, is refused in one line that names it.
TEST_F(ParityPack, EveryCutIsRefused) {
  for (const char* name :
       {"llama3-gqa/model-00002-of-00002.safetensors",
        "gguf-llama31-k-q4_k_m/gguf-llama31-k-q4_k_m.gguf", "qwen3-untied/config.json",
        "qwen3-untied/model.safetensors.index.json"}) {
    const fs::path path = model(name);
    const std::string good = testing::read_file(path);
    for (size_t i = 0; i < 24; ++i) {
      testing::write_file(path, good.substr(0, i * (good.size() - 4) / 23));
      EXPECT_REFUSED(Checkpoint::open(path.parent_path()), path.filename());
    }
    testing::write_file(path, good);
    EXPECT_TRUE(Checkpoint::open(path.parent_path()));
  }
}

}  // namespace
}  // namespace atom
