#include "atom/model_loader/gguf.h"

#include <cmath>
#include <random>

#include "atom/model_loader/gguf_arch.h"
#include "atom/model_loader/test_files.h"

namespace atom {
namespace {

using testing::bytes_of;
using testing::gguf_string;
using testing::GgufBuilder;
using testing::raw;
using testing::tiny_gguf;

Result<ModelConfig> config_of(const GgufBuilder& builder) {
  const std::string file = builder.build();
  ATOM_ASSIGN_OR_RETURN(const GgufFile gguf, parse_gguf(bytes_of(file)));
  return read_gguf_config(gguf, bytes_of(file));
}

Result<GgufFile> parse(const std::string& file) { return parse_gguf(bytes_of(file)); }

TEST(Gguf, ReadsEveryValueType) {
  GgufBuilder builder;
  builder.put("u8", 0, raw<uint8_t>(200));
  builder.put("i8", 1, raw<int8_t>(-2));
  builder.put("u16", 2, raw<uint16_t>(65535));
  builder.put("i16", 3, raw<int16_t>(-3));
  builder.put("i32", 5, raw<int32_t>(-4));
  builder.put("u64", 10, raw<uint64_t>(1));
  builder.put("huge", 10, raw(~uint64_t{0}));
  builder.put("i64", 11, raw<int64_t>(-(int64_t{1} << 62)));
  builder.put("f64", 12, raw(0.1));
  builder.put_f32("f32", 1.5F);
  builder.put_bool("yes", true);
  builder.put_string("text", "a\nb");
  builder.put_strings("list", {"x", "", "yz"});
  builder.put_i32s("numbers", {1, -1});
  for (const uint32_t version : {2U, 3U}) {
    builder.version = version;
    const std::string file = builder.build();
    const auto gguf = parse(file);
    ASSERT_TRUE(gguf) << gguf.error().message;
    EXPECT_EQ(gguf->version, version);
    EXPECT_EQ(gguf->find("u8")->as_integer(), 200);
    EXPECT_EQ(gguf->find("i8")->as_integer(), -2);
    EXPECT_EQ(gguf->find("u16")->as_integer(), 65535);
    EXPECT_EQ(gguf->find("i16")->as_integer(), -3);
    EXPECT_EQ(gguf->find("i32")->as_integer(), -4);
    EXPECT_EQ(gguf->find("u64")->as_integer(), 1);
    EXPECT_EQ(gguf->find("huge")->as_integer(), std::nullopt);
    EXPECT_EQ(gguf->find("i64")->as_integer(), -(int64_t{1} << 62));
    EXPECT_EQ(gguf->find("f64")->as_number(), 0.1);
    EXPECT_EQ(gguf->find("f32")->as_number(), 1.5);
    EXPECT_EQ(gguf->find("f32")->as_integer(), std::nullopt);
    EXPECT_EQ(gguf->find("yes")->as_bool(), true);
    EXPECT_EQ(gguf->find("text")->as_string(), "a\nb");
    EXPECT_EQ(gguf->find("list")->as_strings(), (std::vector<std::string_view>{"x", "", "yz"}));
    EXPECT_EQ(gguf->find("numbers")->as_numbers(), (std::vector<double>{1, -1}));
    EXPECT_EQ(gguf->find("numbers")->as_strings(), std::nullopt);
    EXPECT_EQ(gguf->find("absent"), nullptr);
  }
}

TEST(Gguf, ReversesDimensionsAndSizesBlocks) {
  GgufBuilder builder;
  builder.tensor("a", {64, 3}, 8, std::string(3 * 2 * 34, 'a'));
  builder.tensor("b", {256, 2, 2}, 12, std::string(4 * 144, 'b'));
  builder.tensor("c", {32}, 30, std::string(64, 'c'));
  const std::string file = builder.build();
  const auto gguf = parse(file);
  ASSERT_TRUE(gguf) << gguf.error().message;
  EXPECT_EQ(gguf->tensors[0].shape, (std::vector<int64_t>{3, 64}));
  EXPECT_EQ(gguf->tensors[0].nbytes, 3 * 2 * 34);
  EXPECT_EQ(gguf->tensors[1].shape, (std::vector<int64_t>{2, 2, 256}));
  EXPECT_EQ(gguf->tensors[1].dtype, DType::kQ4_K);
  EXPECT_EQ(gguf->tensors[2].dtype, DType::kBF16);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(file[static_cast<size_t>(gguf->tensors[i].begin)], static_cast<char>('a' + i));
  }
}

TEST(Gguf, HonoursTheAlignment) {
  GgufBuilder builder;
  builder.alignment = 256;
  builder.put_u32("general.alignment", 256);
  builder.tensor("a", {4}, 0, std::string(16, 'a'));
  builder.tensor("b", {4}, 0, std::string(16, 'b'));
  const std::string file = builder.build();
  const auto gguf = parse(file);
  ASSERT_TRUE(gguf) << gguf.error().message;
  EXPECT_EQ(gguf->tensors[1].begin % 256, 0);
  EXPECT_EQ(file[static_cast<size_t>(gguf->tensors[1].begin)], 'b');
  for (const uint32_t bad : {0U, 3U, 1U << 30}) {
    GgufBuilder other;
    other.put_u32("general.alignment", bad);
    EXPECT_REFUSED(parse(other.build()), "general.alignment", std::to_string(bad));
  }
}

TEST(Gguf, RefusesWrongBeginnings) {
  EXPECT_REFUSED(parse(""), "magic");
  EXPECT_REFUSED(parse("GGU"), "magic");
  GgufBuilder builder = tiny_gguf();
  builder.magic = "GGML";
  EXPECT_REFUSED(parse(builder.build()), "magic");
  EXPECT_REFUSED(parse("<html><body>not found</body></html>"), "HTML page");
  EXPECT_REFUSED(parse("version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer");
  for (const uint32_t version : {0U, 1U, 4U}) {
    builder = tiny_gguf();
    builder.version = version;
    EXPECT_REFUSED(parse(builder.build()), "version", std::to_string(version));
  }
  builder.version = 0x03000000;
  EXPECT_REFUSED(parse(builder.build()), "version", "big-endian");
}

TEST(Gguf, ComparesEveryCountWithTheFile) {
  for (const int64_t extra : {int64_t{1} << 20, int64_t{1} << 62, int64_t{-100}}) {
    GgufBuilder builder = tiny_gguf();
    builder.extra_tensors = extra;
    EXPECT_REFUSED(parse(builder.build()), "tensor count", "more than the file can hold");
    builder = tiny_gguf();
    builder.extra_metadata = extra;
    EXPECT_REFUSED(parse(builder.build()), "metadata count", "more than the file can hold");
  }
  GgufBuilder builder;
  builder.put("name", 8, raw(uint64_t{1} << 60));
  EXPECT_REFUSED(parse(builder.build()), "name: string", "beyond the end of the file",
                 std::to_string(uint64_t{1} << 60));
  builder = {};
  builder.put("list", 9, raw<uint32_t>(8) + raw(uint64_t{1} << 61));
  EXPECT_REFUSED(parse(builder.build()), "list: array length", "beyond the end of the file");
  builder = {};
  builder.put("list", 9, raw<uint32_t>(10) + raw(uint64_t{1} << 61));
  EXPECT_REFUSED(parse(builder.build()), "list: array length", "beyond the end of the file");
  builder = {};
  builder.put("list", 9,
              raw<uint32_t>(8) + raw<uint64_t>(2) + gguf_string("ok") + raw<uint64_t>(1000));
  EXPECT_REFUSED(parse(builder.build()), "list: string", "beyond the end of the file", "1000");
  builder = {};
  builder.put("list", 9, raw<uint32_t>(9) + raw<uint64_t>(0));
  EXPECT_REFUSED(parse(builder.build()), "list", "arrays of arrays");
  builder = {};
  builder.put("odd", 13, raw<uint64_t>(0));
  EXPECT_REFUSED(parse(builder.build()), "odd", "unknown value type", "13");
  builder = {};
  builder.put_u32("twice", 1);
  builder.put_u32("twice", 1);
  EXPECT_REFUSED(parse(builder.build()), "twice", "key appears twice");
}

TEST(Gguf, EveryTruncationIsRefused) {
  const std::string file = tiny_gguf().build();
  for (size_t size = 0; size < file.size(); size += 7) {
    EXPECT_REFUSED(parse(file.substr(0, size)));
  }
  EXPECT_REFUSED(parse(file.substr(0, file.size() - 1)), "tensor \"output_norm.weight\"",
                 "beyond the end of the file");
}

TEST(Gguf, RefusesWrongTensors) {
  const auto with = [](auto change) {
    GgufBuilder builder;
    change(builder);
    builder.data.resize(4096);
    return parse(builder.build());
  };
  EXPECT_REFUSED(with([](auto& b) { b.tensor_at("w", {32}, 10, 0); }), "tensor \"w\"", "Q2_K",
                 "supported: F32, F16, BF16, Q8_0");
  EXPECT_REFUSED(with([](auto& b) { b.tensor_at("w", {32}, 999, 0); }), "tensor \"w\"", "999",
                 "unknown");
  EXPECT_REFUSED(with([](auto& b) { b.tensor_at("w", {33}, 8, 0); }), "tensor \"w\"", "rows of 33",
                 "multiple of 32");
  EXPECT_REFUSED(with([](auto& b) {
                   b.tensor_at("w", {64, 8}, 12, 0);
                 }),
                 "tensor \"w\"", "rows of 64", "q4_k", "multiple of 256");
  EXPECT_REFUSED(with([](auto& b) { b.tensor_at("w", {}, 0, 0); }), "tensor \"w\"",
                 "number of dimensions", "found 0");
  EXPECT_REFUSED(with([](auto& b) {
                   b.tensor_at("w", {1, 1, 1, 1, 1}, 0, 0);
                 }),
                 "tensor \"w\"", "number of dimensions", "found 5");
  EXPECT_REFUSED(with([](auto& b) {
                   b.tensor_at("w", {4, 0}, 0, 0);
                 }),
                 "tensor \"w\"", "dimension 1", "found 0");
  EXPECT_REFUSED(with([](auto& b) {
                   b.tensor_at("w", {4, ~uint64_t{0}}, 0, 0);
                 }),
                 "tensor \"w\"", "found -1");
  EXPECT_REFUSED(with([](auto& b) {
                   b.tensor_at("w", {4194305, 4194305, 211106198978564}, 0, 0);
                 }),
                 "tensor \"w\"", "overflows");
  EXPECT_REFUSED(with([](auto& b) { b.tensor_at("w", {uint64_t{1} << 62}, 0, 0); }), "tensor \"w\"",
                 "overflows");
  EXPECT_REFUSED(with([](auto& b) { b.tensor_at("w", {4}, 0, 16); }), "tensor \"w\"", "offset 16",
                 "alignment 32");
  EXPECT_REFUSED(with([](auto& b) { b.tensor_at("w", {4}, 0, uint64_t{1} << 40); }), "tensor \"w\"",
                 "beyond the end of the file");
  EXPECT_REFUSED(
      with([](auto& b) { b.tensor_at("w", {4}, 0, (~uint64_t{0} >> 1) & ~uint64_t{31}); }),
      "tensor \"w\"", "beyond the end");
  EXPECT_REFUSED(with([](auto& b) { b.tensor_at("w", {4}, 0, uint64_t{1} << 63); }), "tensor \"w\"",
                 "offset is out of range");
  EXPECT_REFUSED(with([](auto& b) { b.tensor_at("v", {16}, 0, 0), b.tensor_at("w", {4}, 0, 32); }),
                 "tensor \"w\"", "overlap tensor \"v\"");
  EXPECT_REFUSED(with([](auto& b) { b.tensor_at("w", {4}, 0, 0), b.tensor_at("w", {4}, 0, 32); }),
                 "tensor \"w\"", "appears twice");
  EXPECT_REFUSED(with([](auto& b) { b.tensor_at(std::string(2000, 'w'), {4}, 0, 0); }),
                 "tensor 0: name", "too long");
}

TEST(Gguf, SurvivesRandomDamage) {
  const std::string good = tiny_gguf().build();
  std::mt19937 random(11);
  for (int round = 0; round < 20'000; ++round) {
    std::string file = good;
    for (int edits = 1 + static_cast<int>(random() % 3); edits > 0; --edits) {
      const size_t at = random() % 1300;
      if (random() % 4 == 0) {
        const uint64_t value =
            random() % 2 == 0 ? ~uint64_t{0} : uint64_t{random()} << (random() % 32);
        std::memcpy(file.data() + at, &value, sizeof value);
      } else {
        file[at] = static_cast<char>(random());
      }
    }
    const auto gguf = parse_gguf(bytes_of(file));
    if (!gguf) continue;
    for (const auto& tensor : gguf->tensors) {
      ASSERT_GE(tensor.begin, 0);
      ASSERT_LE(tensor.begin + tensor.nbytes, static_cast<int64_t>(file.size()));
    }
    const auto config = read_gguf_config(*gguf, bytes_of(file));
    if (config) (void)translate_gguf_tensors(*gguf, *config, bytes_of(file).data(), "x");
    (void)read_gguf_vocab(*gguf);
  }
}

TEST(GgufConfig, ReadsLlamaAndQwen3) {
  const auto llama = config_of(tiny_gguf());
  ASSERT_TRUE(llama) << llama.error().message;
  EXPECT_EQ(llama->architecture, "LlamaForCausalLM");
  EXPECT_EQ(llama->hidden_size, 8);
  EXPECT_EQ(llama->head_dim, 4);
  EXPECT_EQ(llama->num_key_value_heads, 1);
  EXPECT_EQ(llama->vocab_size, 12);
  EXPECT_EQ(llama->rope.theta, 500000.0);
  EXPECT_TRUE(llama->tie_word_embeddings);
  EXPECT_EQ(llama->eos_token_ids, (std::vector<int32_t>{2, 3}));
  EXPECT_EQ(llama->bos_token_id, 1);
  EXPECT_EQ(llama->weight_dtype, "f32");

  GgufBuilder builder = tiny_gguf("qwen3");
  builder.tensor_f32("output.weight", {8, 12});
  builder.tensor_f32("blk.0.attn_q.bias", {8});
  const auto qwen = config_of(builder);
  ASSERT_TRUE(qwen) << qwen.error().message;
  EXPECT_EQ(qwen->architecture, "Qwen3ForCausalLM");
  EXPECT_FALSE(qwen->tie_word_embeddings);
  EXPECT_TRUE(qwen->attention_bias);
  EXPECT_FALSE(qwen->attention_output_bias);
}

TEST(GgufConfig, DerivesWhatIsAbsent) {
  GgufBuilder builder = tiny_gguf();
  builder.remove("llama.attention.key_length");
  builder.remove("llama.attention.head_count_kv");
  builder.put_u32("llama.vocab_size", 12);
  const auto config = config_of(builder);
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->head_dim, 4);
  EXPECT_EQ(config->num_key_value_heads, 2);
}

TEST(GgufConfig, ReadsRopeDivisorsAndScaling) {
  GgufBuilder builder = tiny_gguf();
  builder.tensor("rope_freqs.weight", {2}, 0, raw(1.0F) + raw(8.0F));
  auto config = config_of(builder);
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->rope.freq_divisors, (std::vector<float>{1.0F, 8.0F}));
  builder = tiny_gguf();
  builder.put_string("llama.rope.scaling.type", "linear");
  builder.put_f32("llama.rope.scaling.factor", 4.0F);
  config = config_of(builder);
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->rope.scaling, RopeConfig::Scaling::kLinear);
  EXPECT_EQ(config->rope.factor, 4.0);

  builder = tiny_gguf();
  builder.tensor("rope_freqs.weight", {3}, 0, std::string(12, '\0'));
  EXPECT_REFUSED(config_of(builder), "rope_freqs.weight", "wrong shape", "[3]", "[2]");
  builder = tiny_gguf();
  builder.tensor("rope_freqs.weight", {2}, 0, raw(1.0F) + raw(0.0F));
  EXPECT_REFUSED(config_of(builder), "rope_freqs.weight", "found 0");
  builder = tiny_gguf();
  builder.put_string("llama.rope.scaling.type", "yarn");
  EXPECT_REFUSED(config_of(builder), "llama.rope.scaling.type", "yarn");
}

TEST(GgufConfig, RefusesWrongNumbers) {
  const auto with = [](std::string_view key, uint32_t value) {
    GgufBuilder builder = tiny_gguf();
    builder.replace_u32(key, value);
    return config_of(builder);
  };
  EXPECT_REFUSED(with("llama.block_count", 0), "llama.block_count", "found 0");
  EXPECT_REFUSED(with("llama.block_count", 1'000'000'000), "llama.block_count", "1000000000");
  EXPECT_REFUSED(with("llama.attention.head_count", 0), "llama.attention.head_count", "found 0");
  EXPECT_REFUSED(with("llama.attention.head_count_kv", 3), "llama.attention.head_count_kv",
                 "found 3", "divisor of 2");
  EXPECT_REFUSED(with("llama.attention.key_length", 5), "llama.attention.key_length", "found 5",
                 "even");
  EXPECT_REFUSED(with("llama.rope.dimension_count", 2), "llama.rope.dimension_count", "found 2",
                 "expected 4");
  EXPECT_REFUSED(with("llama.attention.value_length", 2), "llama.attention.value_length", "found 2",
                 "expected 4");
  EXPECT_REFUSED(with("llama.expert_count", 8), "llama.expert_count", "found 8");
  EXPECT_REFUSED(with("llama.attention.sliding_window", 16), "sliding_window", "found 16");
  EXPECT_REFUSED(with("tokenizer.ggml.eos_token_id", 12), "tokenizer.ggml.eos_token_id",
                 "found 12");
  EXPECT_REFUSED(with("split.count", 2), "split.count", "2 parts");
  EXPECT_REFUSED(with("llama.rope.scaling.type", 1), "llama.rope.scaling.type", "found u32",
                 "a string");
  for (const float theta : {0.0F, -1.0F, std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::infinity()}) {
    GgufBuilder builder = tiny_gguf();
    builder.remove("llama.rope.freq_base");
    builder.put_f32("llama.rope.freq_base", theta);
    EXPECT_REFUSED(config_of(builder), "llama.rope.freq_base", "positive number");
  }
  for (const char* key : {"llama.block_count", "llama.embedding_length",
                          "llama.attention.layer_norm_rms_epsilon", "general.architecture"}) {
    GgufBuilder builder = tiny_gguf();
    builder.remove(key);
    EXPECT_REFUSED(config_of(builder), key);
  }
  EXPECT_REFUSED(config_of(tiny_gguf("mamba")), "general.architecture", "mamba",
                 "llama, qwen2, qwen3");
}

TEST(GgufArch, TranslatesNames) {
  EXPECT_EQ(hugging_face_name("token_embd.weight"), "model.embed_tokens.weight");
  EXPECT_EQ(hugging_face_name("output.weight"), "lm_head.weight");
  EXPECT_EQ(hugging_face_name("output_norm.weight"), "model.norm.weight");
  EXPECT_EQ(hugging_face_name("blk.31.attn_q.bias"), "model.layers.31.self_attn.q_proj.bias");
  EXPECT_EQ(hugging_face_name("blk.0.ffn_norm.weight"),
            "model.layers.0.post_attention_layernorm.weight");
  EXPECT_EQ(hugging_face_name("blk.0.attn_k_norm.weight"),
            "model.layers.0.self_attn.k_norm.weight");
  EXPECT_EQ(hugging_face_name("blk.0.ffn_gate_exps.weight"),
            "model.layers.0.mlp.experts.gate_proj.weight");
  for (const char* unknown :
       {"blk.0.ffn_gate_shexp.weight", "blk.x.attn_q.weight", "blk.00.attn_q.weight",
        "blk..attn_q.weight", "blk.0", "nothing", ""}) {
    EXPECT_EQ(hugging_face_name(unknown), unknown);
  }
}

TEST(GgufArch, MarksPermutedRows) {
  for (const std::string arch : {"llama", "qwen3"}) {
    const std::string file = tiny_gguf(arch).build();
    const auto gguf = parse(file);
    ASSERT_TRUE(gguf);
    const auto config = read_gguf_config(*gguf, bytes_of(file));
    ASSERT_TRUE(config) << config.error().message;
    const auto tensors = translate_gguf_tensors(*gguf, *config, bytes_of(file).data(), "f.gguf");
    ASSERT_TRUE(tensors);
    int marked = 0;
    for (const auto& tensor : *tensors) {
      if (tensor.row_order == RowOrder::kPlain) continue;
      ++marked;
      EXPECT_EQ(tensor.rotary_heads,
                tensor.name == "model.layers.0.self_attn.q_proj.weight" ? 2 : 1);
    }
    EXPECT_EQ(marked, arch == "llama" ? 2 : 0);
  }
  GgufBuilder builder = tiny_gguf();
  builder.tensor_f32("model.norm.weight", {8});
  const std::string file = builder.build();
  const auto gguf = parse(file);
  const auto config = read_gguf_config(*gguf, bytes_of(file));
  EXPECT_REFUSED(translate_gguf_tensors(*gguf, *config, bytes_of(file).data(), "f"),
                 "model.norm.weight");
}

TEST(GgufVocab, CarriesTheTokenizer) {
  GgufBuilder builder = tiny_gguf();
  builder.put_bool("tokenizer.ggml.add_bos_token", true);
  const std::string file = builder.build();
  const auto gguf = parse(file);
  const auto vocab = read_gguf_vocab(*gguf);
  ASSERT_TRUE(vocab) << vocab.error().message;
  EXPECT_EQ(vocab->model, "gpt2");
  EXPECT_EQ(vocab->pre, "smollm");
  EXPECT_EQ(vocab->tokens.size(), 12u);
  EXPECT_EQ(vocab->tokens[11], "ab");
  EXPECT_EQ(vocab->token_types.size(), 12u);
  EXPECT_EQ(vocab->merges, (std::vector<std::string>{"a b"}));
  EXPECT_EQ(vocab->eos_id, 2);
  EXPECT_EQ(vocab->add_bos, true);
  EXPECT_EQ(vocab->add_eos, std::nullopt);

  const auto refused = [](auto change) {
    GgufBuilder other = tiny_gguf();
    change(other);
    const std::string text = other.build();
    const auto parsed = parse(text);
    return read_gguf_vocab(*parsed);
  };
  EXPECT_REFUSED(refused([](auto& b) { b.remove("tokenizer.ggml.model"); }),
                 "tokenizer.ggml.model");
  EXPECT_REFUSED(refused([](auto& b) { b.remove("tokenizer.ggml.tokens"); }),
                 "tokenizer.ggml.tokens");
  EXPECT_REFUSED(refused([](auto& b) {
                   b.remove("tokenizer.ggml.token_type"),
                       b.put_i32s("tokenizer.ggml.token_type", {1});
                 }),
                 "tokenizer.ggml.token_type", "found 1", "expected 12");
  EXPECT_REFUSED(refused([](auto& b) {
                   b.remove("tokenizer.ggml.merges"), b.put_u32("tokenizer.ggml.merges", 1);
                 }),
                 "tokenizer.ggml.merges", "u32");
  EXPECT_REFUSED(refused([](auto& b) { b.put_u32("tokenizer.ggml.padding_token_id", 12); }),
                 "tokenizer.ggml.padding_token_id", "found 12");
  for (const float odd : {std::nanf(""), INFINITY, -INFINITY}) {
    for (const std::string key : {"tokenizer.ggml.token_type", "tokenizer.ggml.scores"}) {
      std::vector<float> values(12, 1.0F);
      values[7] = odd;
      EXPECT_REFUSED(refused([&](auto& b) { b.remove(key), b.put_f32s(key, values); }), key,
                     "finite");
    }
  }
  for (const auto& [key, value] :
       {std::pair{"llama.rope.freq_base", 1e-38F}, std::pair{"llama.rope.freq_base", std::nanf("")},
        std::pair{"llama.attention.layer_norm_rms_epsilon", 1e-40F},
        std::pair{"llama.attention.layer_norm_rms_epsilon", -1.0F}}) {
    GgufBuilder other = tiny_gguf();
    other.remove(key), other.put_f32(key, value);
    EXPECT_REFUSED(config_of(other), "out of range");
  }
}

}  // namespace
}  // namespace atom
