#include "atom/model_loader/checkpoint.h"

#include <sys/stat.h>

#include <chrono>

#include "atom/model_loader/inspect.h"
#include "atom/model_loader/test_files.h"

namespace atom {
namespace {

namespace fs = std::filesystem;
using testing::kTinyConfig;
using testing::read_file;
using testing::replaced;
using testing::safetensors_of;
using testing::TempDir;
using testing::tiny_gguf;
using testing::tiny_tensors;
using testing::write_file;
using testing::write_tiny_model;

// Two shards with an index.
void write_sharded_model(const fs::path& dir) {
  write_file(dir / "config.json", kTinyConfig);
  write_file(dir / "model-00001-of-00002.safetensors",
             safetensors_of({{"model.embed_tokens.weight", {12, 8}}}));
  write_file(dir / "model-00002-of-00002.safetensors",
             safetensors_of({{"model.norm.weight", {8}}}));
  write_file(
      dir / "model.safetensors.index.json",
      R"({"metadata":{"total_size":208},"weight_map":{"model.embed_tokens.weight":"model-00001-of-00002.safetensors",
"model.norm.weight":"model-00002-of-00002.safetensors"}})");
}

TEST(Checkpoint, OpensOneSafetensorsFile) {
  TempDir dir;
  write_tiny_model(dir.path());
  const auto checkpoint = Checkpoint::open(dir.path());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ((*checkpoint)->format_name(), "safetensors");
  EXPECT_EQ((*checkpoint)->total_bytes(), 12 * 8 * 2 + 8 * 2);
  const CheckpointTensor* norm = (*checkpoint)->find("model.norm.weight");
  ASSERT_NE(norm, nullptr);
  EXPECT_EQ(norm->shape, (std::vector<int64_t>{8}));
  EXPECT_EQ(norm->row_order, RowOrder::kPlain);
  EXPECT_EQ(norm->file, dir / "model.safetensors");
  EXPECT_EQ((*checkpoint)->find("nothing"), nullptr);
  EXPECT_TRUE((*checkpoint)->verify_unchanged());
  EXPECT_FALSE((*checkpoint)->chat_template()->has_value());
}

TEST(Checkpoint, DataAreThoseOfTheFile) {
  TempDir dir;
  std::string file = safetensors_of(tiny_tensors());
  for (int i = 0; i < 16; ++i) {
    file[file.size() - 16 + static_cast<size_t>(i)] = static_cast<char>(i);
  }
  write_tiny_model(dir.path());
  write_file(dir / "model.safetensors", file);
  const auto checkpoint = Checkpoint::open(dir.path());
  ASSERT_TRUE(checkpoint);
  const CheckpointTensor& norm = *(*checkpoint)->find("model.norm.weight");
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 16; ++i) {
      EXPECT_EQ(static_cast<const char*>(norm.data)[i], i);
    }
    (*checkpoint)->release(norm);  // pages come back when touched again
    (*checkpoint)->prefetch(norm);
  }
}

TEST(Checkpoint, OpensShardsInOrder) {
  TempDir dir;
  write_sharded_model(dir.path());
  const auto checkpoint = Checkpoint::open(dir.path());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ((*checkpoint)->format_name(), "safetensors (2 shards)");
  EXPECT_EQ((*checkpoint)->tensors().size(), 2u);
  EXPECT_EQ((*checkpoint)->tensors()[1].file, dir / "model-00002-of-00002.safetensors");
}

TEST(Checkpoint, OpensGgufAsFileAndAsDirectory) {
  TempDir dir;
  auto builder = tiny_gguf();
  builder.put_string("tokenizer.chat_template", "{{ messages }}");
  write_file(dir / "m.gguf", builder.build());
  for (const fs::path& path : {dir / "m.gguf", dir.path()}) {
    const auto checkpoint = Checkpoint::open(path);
    ASSERT_TRUE(checkpoint) << checkpoint.error().message;
    EXPECT_EQ((*checkpoint)->format_name(), "GGUF v3");
    EXPECT_NE((*checkpoint)->find("model.layers.0.self_attn.q_proj.weight"), nullptr);
    EXPECT_EQ(*(*checkpoint)->chat_template(), "{{ messages }}");
  }
  write_file(dir / "n.gguf", builder.build());
  EXPECT_REFUSED(Checkpoint::open(dir.path()), dir.path(), "several GGUF files", "m.gguf");
}

TEST(Checkpoint, NamesPathsThatHoldNoModel) {
  TempDir dir;
  EXPECT_REFUSED(Checkpoint::open(dir / "nowhere"), "nowhere", "no such file");
  EXPECT_REFUSED(Checkpoint::open(dir.path()), dir.path(), "no model here", "config.json");
  write_file(dir / "pytorch_model.bin", "x");
  EXPECT_REFUSED(Checkpoint::open(dir.path()), "pytorch_model.bin",
                 "pickle formats are not loaded");
  EXPECT_REFUSED(Checkpoint::open(dir / "pytorch_model.bin"), "pytorch_model.bin",
                 "pickle formats are not loaded");
  write_file(dir / "model.safetensors", safetensors_of(tiny_tensors()));
  EXPECT_REFUSED(Checkpoint::open(dir.path()), "config.json", "No such file");
  EXPECT_REFUSED(Checkpoint::open(dir / "model.safetensors"), "name its directory");
  fs::create_symlink("loop", dir / "loop");
  EXPECT_REFUSED(Checkpoint::open(dir / "loop"), "loop", "symbolic links");
  EXPECT_REFUSED(Checkpoint::open("/dev/zero"), "/dev/zero", "not a regular file", "a device");
  write_file(dir / "new\nline.gguf", "GGUX");
  EXPECT_REFUSED(Checkpoint::open(dir / "new\nline.gguf"), "new\\x0aline.gguf", "magic");
}

TEST(Checkpoint, NeverBlocksOnAFifo) {
  TempDir dir;
  write_tiny_model(dir.path());
  fs::remove(dir / "model.safetensors");
  ASSERT_EQ(mkfifo((dir / "model.safetensors").c_str(), 0600), 0);
  EXPECT_REFUSED(Checkpoint::open(dir.path()), "model.safetensors", "not a regular file", "a FIFO");
  write_tiny_model((fs::create_directory(dir / "b"), dir / "b"));
  fs::remove(dir / "b" / "config.json");
  ASSERT_EQ(mkfifo((dir / "b" / "config.json").c_str(), 0600), 0);
  EXPECT_REFUSED(Checkpoint::open(dir / "b"), "config.json", "a FIFO");
}

TEST(Checkpoint, RefusesConfigsByFileAndKey) {
  TempDir dir;
  write_tiny_model(dir.path());
  const std::string file = dir / "config.json";
  write_file(file, "");
  EXPECT_REFUSED(Checkpoint::open(dir.path()), file, "invalid JSON");
  write_file(file, replaced(kTinyConfig, "500000.0", "-1"));
  EXPECT_REFUSED(Checkpoint::open(dir.path()), file + ": rope_theta: ", "found -1");
  write_file(file, replaced(kTinyConfig, "\"vocab_size\":12", "\"vocab_size\":13"));
  EXPECT_REFUSED(Checkpoint::open(dir.path()), file + ": vocab_size: ", "model.embed_tokens.weight",
                 "found 13", "expected 12");
  write_file(file, kTinyConfig);
  fs::resize_file(file, int64_t{1} << 30);
  EXPECT_REFUSED(Checkpoint::open(dir.path()), file, "too large", "1073741824");
  write_file(file, kTinyConfig);
  write_file(dir / "generation_config.json", "{\"eos_token_id\": 77}");
  EXPECT_REFUSED(Checkpoint::open(dir.path()), "generation_config.json: eos_token_id", "found 77");
}

TEST(Checkpoint, RefusesDamagedWeightsByFile) {
  TempDir dir;
  write_sharded_model(dir.path());
  const std::string shard = dir / "model-00001-of-00002.safetensors";
  const std::string good = read_file(shard);
  write_file(shard, good.substr(0, good.size() - 1));
  EXPECT_REFUSED(Checkpoint::open(dir.path()), shard, "model.embed_tokens.weight",
                 "beyond the end of the file");
  write_file(shard, "");
  EXPECT_REFUSED(Checkpoint::open(dir.path()), shard, "too short");
  write_file(shard, replaced(good, "BF16", "F128"));
  EXPECT_REFUSED(Checkpoint::open(dir.path()), shard, "F128");
  write_file(shard, "version https://git-lfs.github.com/spec/v1\n");
  EXPECT_REFUSED(Checkpoint::open(dir.path()), shard, "Git LFS pointer");
  fs::remove(shard);
  EXPECT_REFUSED(Checkpoint::open(dir.path()), shard, "no such file",
                 "model.safetensors.index.json names it");
  fs::create_directory(shard);
  EXPECT_REFUSED(Checkpoint::open(dir.path()), shard, "not a regular file", "a directory");
}

TEST(Checkpoint, HoldsIndexAndShardsAgainstEachOther) {
  TempDir dir;
  write_sharded_model(dir.path());
  const fs::path index = dir / "model.safetensors.index.json";
  const std::string good = read_file(index);
  const fs::path first = dir / "model-00001-of-00002.safetensors";
  for (const char* name :
       {"../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "x.bin", ""}) {
    write_file(index, replaced(good, "model-00002-of-00002.safetensors", name));
    EXPECT_REFUSED(Checkpoint::open(dir.path()), index, "model.norm.weight",
                   "not a file name inside the directory");
  }
  write_file(index, replaced(good, "\"model-00002-of-00002.safetensors\"", "5"));
  EXPECT_REFUSED(Checkpoint::open(dir.path()), index, "model.norm.weight", "found 5");
  write_file(index, "{}");
  EXPECT_REFUSED(Checkpoint::open(dir.path()), index, "weight_map", "missing");
  write_file(index, "{\"weight_map\":{}}");
  EXPECT_REFUSED(Checkpoint::open(dir.path()), index, "weight_map", "empty");
  write_file(index,
             replaced(good, "{\"model.embed",
                      "{\"model.extra\":\"model-00001-of-00002.safetensors\",\"model.embed"));
  EXPECT_REFUSED(Checkpoint::open(dir.path()), first, "model.extra", "missing", "index.json");
  write_file(index, replaced(good, "\"model.norm.weight\":\"model-00002",
                             "\"model.norm.weight\":\"model-00001"));
  EXPECT_REFUSED(Checkpoint::open(dir.path()), first, "model.norm.weight", "missing");
  write_file(index, good);
  write_file(first, safetensors_of({{"model.embed_tokens.weight", {12, 8}}, {"stray", {1}}}));
  EXPECT_REFUSED(Checkpoint::open(dir.path()), first, "tensor \"stray\"", "does not list it");
  write_file(first,
             safetensors_of({{"model.embed_tokens.weight", {12, 8}}, {"model.norm.weight", {8}}}));
  EXPECT_REFUSED(Checkpoint::open(dir.path()), first, "tensor \"model.norm.weight\"",
                 "places it in model-00002-of-00002.safetensors");
  fs::remove(index);
  EXPECT_REFUSED(Checkpoint::open(dir.path()), index, "missing", "found 2");
}

TEST(Checkpoint, AWrongTotalSizeIsOnlyAWarning) {
  TempDir dir;
  write_sharded_model(dir.path());
  const fs::path index = dir / "model.safetensors.index.json";
  write_file(index, replaced(read_file(index), "208", "9"));
  EXPECT_TRUE(Checkpoint::open(dir.path()));
}

TEST(Checkpoint, NoticesFilesThatChange) {
  TempDir dir;
  write_tiny_model(dir.path());
  const auto checkpoint = Checkpoint::open(dir.path());
  ASSERT_TRUE(checkpoint);
  const auto before = fs::file_size(dir / "model.safetensors");
  fs::resize_file(dir / "model.safetensors", 10);
  EXPECT_REFUSED((*checkpoint)->verify_unchanged(), "model.safetensors", "found 10",
                 std::to_string(before));
}

TEST(Checkpoint, PicksTheChatTemplateInOrder) {
  TempDir dir;
  write_tiny_model(dir.path());
  const auto read = [&] {
    const auto checkpoint = Checkpoint::open(dir.path());
    return (*checkpoint)->chat_template();
  };
  write_file(
      dir / "tokenizer_config.json",
      R"({"chat_template":[{"name":"tool_use","template":"T"},{"name":"default","template":"D"}]})");
  EXPECT_EQ(*read(), "D");
  write_file(dir / "tokenizer_config.json", R"({"chat_template":"C"})");
  EXPECT_EQ(*read(), "C");
  write_file(dir / "chat_template.json", R"({"chat_template":"J"})");
  EXPECT_EQ(*read(), "J");
  write_file(dir / "chat_template.jinja", "N");
  EXPECT_EQ(*read(), "N");
  fs::remove(dir / "chat_template.jinja");
  write_file(dir / "chat_template.json", R"({"chat_template":7})");
  EXPECT_REFUSED(read(), "chat_template.json: chat_template", "found 7");
}

// 64 GB of weights, sparse: opening reads the header and nothing else.
TEST(Checkpoint, OpeningDoesNotDependOnTheSize) {
  TempDir dir;
  write_file(dir / "config.json", kTinyConfig);
  const std::string header =
      R"({"model.big":{"dtype":"BF16","shape":[33554432,1024],"data_offsets":[0,68719476736]}})";
  write_file(dir / "model.safetensors", testing::safetensors_file(header, ""));
  std::error_code error;
  fs::resize_file(dir / "model.safetensors", 8 + header.size() + 68719476736, error);
  if (error) GTEST_SKIP() << "no sparse files here: " << error.message();
  const auto start = std::chrono::steady_clock::now();
  const auto checkpoint = Checkpoint::open(dir.path());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ((*checkpoint)->total_bytes(), 68719476736);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

TEST(Inspect, SaysWhatIsThere) {
  TempDir dir;
  write_file(dir / "m.gguf", tiny_gguf().build());
  const auto checkpoint = Checkpoint::open(dir / "m.gguf");
  ASSERT_TRUE(checkpoint);
  const std::string text = inspect_checkpoint(**checkpoint, false);
  for (const char* part :
       {"LlamaForCausalLM (llama)", "GGUF v3", "2 heads, 1 KV heads, head dimension 4",
        "12, tied head", "2, 3", "F32", "5 tensors", "328 parameters"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  }
  const std::string json = inspect_checkpoint(**checkpoint, true);
  for (const char* part : {"\"architecture\": \"LlamaForCausalLM\"", "\"num_parameters\": 328",
                           "\"weight_bytes\": 1312", "\"F32\": {\"tensors\": 5"}) {
    EXPECT_NE(json.find(part), std::string::npos) << part << " in\n" << json;
  }
}

}  // namespace
}  // namespace atom
