#include "atom/model_loader/hf_config.h"

#include <gmock/gmock.h>

#include "atom/model_loader/test_files.h"

namespace atom {
namespace {

using testing::kTinyConfig;
using testing::replaced;

// The tiny config with one key set to `value` (JSON text); an empty value removes the key.
Result<ModelConfig> with(std::string_view key, std::string_view value) {
  std::string text = kTinyConfig;
  const std::string quoted = "\"" + std::string(key) + "\":";
  const size_t at = text.find(quoted);
  if (at != std::string::npos) {
    size_t end = at + quoted.size();
    for (int depth = 0; depth > 0 || (text[end] != ',' && text[end] != '}'); ++end) {
      depth += text[end] == '[' || text[end] == '{'   ? 1
               : text[end] == ']' || text[end] == '}' ? -1
                                                      : 0;
    }
    text.erase(at, end - at + (text[end] == ',' ? 1 : 0));
    if (text.ends_with(",}")) text.erase(text.size() - 2, 1);
  }
  if (!value.empty()) text = replaced(text, "{", "{" + quoted + std::string(value) + ",");
  return parse_hf_config(text);
}

TEST(HfConfig, ReadsLlama) {
  const auto config = parse_hf_config(kTinyConfig);
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->architecture, "LlamaForCausalLM");
  EXPECT_EQ(config->hidden_size, 8);
  EXPECT_EQ(config->intermediate_size, 16);
  EXPECT_EQ(config->num_hidden_layers, 1);
  EXPECT_EQ(config->num_attention_heads, 2);
  EXPECT_EQ(config->num_key_value_heads, 1);
  EXPECT_EQ(config->head_dim, 4);
  EXPECT_EQ(config->vocab_size, 12);
  EXPECT_EQ(config->max_position_embeddings, 64);
  EXPECT_EQ(config->rope.theta, 500000.0);
  EXPECT_EQ(config->rope.scaling, RopeConfig::Scaling::kNone);
  EXPECT_TRUE(config->tie_word_embeddings);
  EXPECT_FALSE(config->attention_bias);
  EXPECT_EQ(config->weight_dtype, "bfloat16");
  EXPECT_EQ(config->eos_token_ids, (std::vector<int32_t>{2}));
  EXPECT_EQ(config->bos_token_id, 0);
}

TEST(HfConfig, KnowsTheFamilysDefaults) {
  EXPECT_EQ(with("rope_theta", "")->rope.theta, 10000.0);  // Llama 2
  EXPECT_EQ(with("num_key_value_heads", "")->num_key_value_heads, 2);
  EXPECT_EQ(with("num_key_value_heads", "null")->num_key_value_heads, 2);
  EXPECT_EQ(with("max_position_embeddings", "")->max_position_embeddings, 2048);
  EXPECT_EQ(with("head_dim", "6")->head_dim, 6);
  EXPECT_EQ(with("model_type", "")->model_type, "llama");
  EXPECT_TRUE(with("attention_bias", "true")->attention_output_bias);
  EXPECT_TRUE(with("mlp_bias", "true")->mlp_bias);
  EXPECT_FALSE(with("tie_word_embeddings", "")->tie_word_embeddings);
  const auto qwen = parse_hf_config(
      R"({"architectures":["Qwen3ForCausalLM"],"model_type":"qwen3","hidden_size":64,"intermediate_size":16,
    "num_hidden_layers":1,"num_attention_heads":64,"vocab_size":12})");
  ASSERT_TRUE(qwen) << qwen.error().message;
  EXPECT_EQ(qwen->head_dim, 128);
  EXPECT_EQ(qwen->num_key_value_heads, 32);
  EXPECT_EQ(qwen->max_position_embeddings, 32768);
}

TEST(HfConfig, ReadsRopeInEveryForm) {
  auto config = with(
      "rope_scaling",
      R"({"rope_type":"llama3","factor":8.0,"low_freq_factor":1,"high_freq_factor":4.0,"original_max_position_embeddings":32})");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->rope.scaling, RopeConfig::Scaling::kLlama3);
  EXPECT_EQ(config->rope.factor, 8.0);
  EXPECT_EQ(config->rope.low_freq_factor, 1.0);
  EXPECT_EQ(config->rope.high_freq_factor, 4.0);
  EXPECT_EQ(config->rope.original_max_position_embeddings, 32);
  config = with("rope_scaling", R"({"type":"linear","factor":2})");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->rope.scaling, RopeConfig::Scaling::kLinear);
  EXPECT_EQ(config->rope.factor, 2.0);
  EXPECT_EQ(with("rope_scaling", R"({"rope_type":"default"})")->rope.scaling,
            RopeConfig::Scaling::kNone);
  config = with(
      "rope_scaling",
      R"({"type":"yarn","factor":40,"beta_fast":16,"mscale":1.0,"mscale_all_dim":0.707,"original_max_position_embeddings":4096})");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->rope.scaling, RopeConfig::Scaling::kYarn);
  EXPECT_EQ(config->rope.beta_fast, 16.0);
  EXPECT_EQ(config->rope.beta_slow, 1.0);
  EXPECT_TRUE(config->rope.truncate);
  EXPECT_NEAR(config->rope.latent_mscale, 1.2608037, 1e-6);  // 0.0707 ln 40 + 1
  EXPECT_NEAR(config->rope.attention_factor, 1.3688879 / 1.2608037, 1e-6);
  config = with(
      "rope_scaling",
      R"({"rope_type":"yarn","factor":32.0,"truncate":false,"original_max_position_embeddings":4096})");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_FALSE(config->rope.truncate);
  EXPECT_EQ(config->rope.latent_mscale, 1.0);
  EXPECT_NEAR(config->rope.attention_factor, 1.3465736, 1e-6);
  config = with("rope_parameters", R"({"rope_theta":1000000.0,"rope_type":"default"})");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->rope.theta, 1000000.0);
  EXPECT_EQ(with("rope_parameters", R"({"rope_theta":7})")->rope.theta, 7.0);
}

// DeepSeek-V3's attention.
Result<ModelConfig> latent(const std::string& key, const std::string& value) {
  std::map<std::string, std::string> fields{
      {"kv_lora_rank", "512"},      {"q_lora_rank", "1536"},   {"qk_nope_head_dim", "128"},
      {"qk_rope_head_dim", "64"},   {"v_head_dim", "96"},      {"head_dim", "64"},
      {"n_routed_experts", "8"},    {"n_group", "4"},          {"topk_group", "2"},
      {"num_experts_per_tok", "2"}, {"n_shared_experts", "1"}, {"moe_intermediate_size", "8"}};
  fields[key] = value;
  std::string text =
      R"({"architectures":["DeepseekV3ForCausalLM"],"model_type":"deepseek_v3","hidden_size":64,
          "intermediate_size":16,"num_hidden_layers":1,"num_attention_heads":6,"vocab_size":12)";
  for (const auto& [name, number] : fields) {
    if (!number.empty()) text += ",\"" + name + "\":" + number;
  }
  return parse_hf_config(text + "}");
}

TEST(HfConfig, ReadsExperts) {
  const auto config = latent("norm_topk_prob", "true");
  ASSERT_TRUE(config) << config.error().message;
  const MoeConfig& moe = config->moe;
  EXPECT_EQ(moe.num_experts, 8);
  EXPECT_EQ(moe.rule.top_k, 2);
  EXPECT_EQ(moe.rule.num_groups, 4);
  EXPECT_EQ(moe.shared_intermediate_size, 8);
  EXPECT_TRUE(moe.rule.groups_by_two_best && moe.rule.renormalize && moe.has_correction_bias);
  EXPECT_EQ(latent("first_k_dense_replace", "0")->moe.has_experts, std::vector<bool>{true});
  EXPECT_EQ(latent("first_k_dense_replace", "5")->moe.has_experts, std::vector<bool>{false});
  const auto refused = [](const std::string& key, const std::string& value) {
    const auto result = latent(key, value);
    return result ? "accepted" : result.error().message;
  };
  EXPECT_THAT(refused("num_experts_per_tok", "9"), ::testing::HasSubstr("num_experts_per_tok"));
  EXPECT_THAT(refused("n_group", "3"), ::testing::HasSubstr("n_group: does not divide"));
  EXPECT_THAT(refused("topk_group", "5"), ::testing::HasSubstr("topk_group: more than n_group"));
  EXPECT_THAT(refused("num_experts_per_tok", "5"), ::testing::HasSubstr("fewer experts"));
  EXPECT_THAT(refused("n_routed_experts", "100000"), ::testing::HasSubstr("n_routed_experts"));
  EXPECT_THAT(refused("moe_intermediate_size", ""), ::testing::HasSubstr("moe_intermediate_size"));
  EXPECT_THAT(refused("routed_scaling_factor", "-1"), ::testing::HasSubstr("routed_scaling"));
}

TEST(HfConfig, ReadsLatentAttention) {
  const auto config = latent("q_lora_rank", "1536");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->latent.q_lora_rank, 1536);
  EXPECT_EQ(config->latent.v_head_dim, 96);
  EXPECT_EQ(config->head_dim, 192);  // of queries and keys, whatever "head_dim" says
  EXPECT_EQ(config->rotary_dim, 64);
  EXPECT_EQ(latent("q_lora_rank", "null")->latent.q_lora_rank, 0);
  EXPECT_REFUSED(latent("kv_lora_rank", ""), "kv_lora_rank", "missing");
  EXPECT_REFUSED(latent("v_head_dim", ""), "v_head_dim", "missing");
  EXPECT_REFUSED(latent("qk_rope_head_dim", "0"), "qk_rope_head_dim", "found 0", "expected 1");
  EXPECT_REFUSED(latent("qk_rope_head_dim", "7"), "qk_rope_head_dim", "found 7", "even");
  EXPECT_REFUSED(latent("kv_lora_rank", "99999999"), "kv_lora_rank", "found 99999999");
  EXPECT_REFUSED(latent("rope_interleave", "false"), "rope_interleave", "found false");
}

TEST(HfConfig, RefusesWrongRope) {
  for (const char* value : {"0", "-1", "-0.5"}) {
    EXPECT_REFUSED(with("rope_theta", value), "rope_theta", "found " + std::string(value),
                   "positive number");
  }
  EXPECT_REFUSED(with("rope_theta", "\"big\""), "rope_theta", "found \"big\"", "a number");
  EXPECT_REFUSED(with("rope_theta", "NaN"), "rope_theta", "found NaN", "finite");
  EXPECT_REFUSED(with("rope_theta", "-Infinity"), "rope_theta", "found -Infinity");
  EXPECT_REFUSED(with("rope_theta", "1e999"), "rope_theta");
  EXPECT_REFUSED(with("rope_theta", "[1]"), "rope_theta", "found a list");
  EXPECT_REFUSED(with("rope_theta", "true"), "rope_theta", "found true");
  for (const char* kind : {"ntk", "dynamic", "longrope", "su", "mrope"}) {
    EXPECT_REFUSED(with("rope_scaling", "{\"type\":\"" + std::string(kind) + "\",\"factor\":2}"),
                   "rope_scaling.rope_type", kind, "llama3");
    EXPECT_REFUSED(
        with("rope_parameters", "{\"rope_type\":\"" + std::string(kind) + "\",\"factor\":2}"),
        "rope_parameters.rope_type", kind);
  }
  EXPECT_REFUSED(with("rope_scaling", R"({"type":"yarn","factor":40})"),
                 "rope_scaling.original_max_position_embeddings", "missing");
  EXPECT_REFUSED(
      with("rope_scaling",
           R"({"type":"yarn","factor":4,"original_max_position_embeddings":9,"beta_fast":0.5})"),
      "rope_scaling.beta_fast", "below beta_slow", "0.5");
  EXPECT_REFUSED(
      with("rope_parameters",
           R"({"type":"yarn","factor":4,"original_max_position_embeddings":9,"rope_theta":1})"),
      "rope_theta", "found 1", "more than 1");
  EXPECT_REFUSED(with("rope_scaling", "{}"), "rope_scaling.rope_type", "missing");
  EXPECT_REFUSED(with("rope_scaling", "3"), "rope_scaling", "found 3", "an object");
  EXPECT_REFUSED(with("rope_scaling", R"({"type":"linear"})"), "rope_scaling.factor", "nothing");
  EXPECT_REFUSED(with("rope_scaling", R"({"type":"linear","factor":0.5})"), "rope_scaling.factor",
                 "0.5");
  EXPECT_REFUSED(with("rope_scaling", R"({"type":"linear","factor":"2"})"), "rope_scaling.factor",
                 "\"2\"");
  EXPECT_REFUSED(
      with(
          "rope_scaling",
          R"({"type":"llama3","factor":2,"low_freq_factor":4,"high_freq_factor":4,"original_max_position_embeddings":8})"),
      "rope_scaling.high_freq_factor", "found 4");
  EXPECT_REFUSED(with("rope_scaling",
                      R"({"type":"llama3","factor":2,"low_freq_factor":1,"high_freq_factor":4})"),
                 "rope_scaling.original_max_position_embeddings", "missing");
  EXPECT_REFUSED(
      with(
          "rope_scaling",
          R"({"type":"llama3","factor":2,"high_freq_factor":4,"original_max_position_embeddings":8})"),
      "rope_scaling.low_freq_factor", "missing");
  EXPECT_REFUSED(with("partial_rotary_factor", "0.5"), "partial_rotary_factor", "0.5");
}

TEST(HfConfig, RefusesWrongNumbers) {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "vocab_size"}) {
    EXPECT_REFUSED(with(key, ""), key, "missing");
    for (const char* value :
         {"0", "-1", "1000000000", "2147483648", "9223372036854775807", "18446744073709551615"}) {
      EXPECT_REFUSED(with(key, value), key, "out of range", "found " + std::string(value),
                     "expected 1 to");
    }
    EXPECT_REFUSED(with(key, "8.0"), key, "found 8", "an integer");
    EXPECT_REFUSED(with(key, "\"8\""), key, "found \"8\"", "an integer");
  }
  EXPECT_REFUSED(with("num_attention_heads", "3"), "num_attention_heads", "found 3",
                 "divisor of 8");
  EXPECT_REFUSED(with("num_key_value_heads", "3"), "num_key_value_heads", "found 3",
                 "divisor of 2");
  EXPECT_REFUSED(with("num_key_value_heads", "0"), "num_key_value_heads", "found 0");
  EXPECT_REFUSED(with("head_dim", "5"), "head_dim", "found 5", "even");
  EXPECT_REFUSED(with("rms_norm_eps", "0"), "rms_norm_eps", "found 0");
  EXPECT_REFUSED(with("rms_norm_eps", "1"), "rms_norm_eps", "found 1");
  EXPECT_REFUSED(with("tie_word_embeddings", "1"), "tie_word_embeddings", "found 1",
                 "true or false");
}

TEST(HfConfig, RefusesForeignModels) {
  EXPECT_REFUSED(with("architectures", ""), "architectures", "missing",
                 "LlamaForCausalLM, MistralForCausalLM");
  EXPECT_REFUSED(with("architectures", "[]"), "architectures", "LlamaForCausalLM");
  EXPECT_REFUSED(with("architectures", "\"LlamaForCausalLM\""), "architectures");
  EXPECT_REFUSED(with("architectures", R"(["LlamaForCausalLM","Qwen3ForCausalLM"])"),
                 "architectures", "not a list of one name");
  EXPECT_REFUSED(with("architectures", R"(["MambaForCausalLM"])"), "architectures",
                 "MambaForCausalLM", "LlamaForCausalLM, MistralForCausalLM");
  EXPECT_REFUSED(with("architectures", R"(["Evil\u000aLlama"])"), "Evil\\x0aLlama");
  EXPECT_REFUSED(with("model_type", "\"qwen3\""), "model_type", "found \"qwen3\"",
                 "expected \"llama\"");
  EXPECT_REFUSED(with("hidden_act", "\"gelu\""), "hidden_act", "gelu", "silu");
  EXPECT_REFUSED(with("torch_dtype", "\"float64\""), "torch_dtype", "float64");
  EXPECT_REFUSED(with("dtype", "\"int8\""), "dtype", "int8");
  EXPECT_TRUE(with("auto_map",
                   R"({"AutoModel":"modeling_evil.Evil"})"));  // ignored: no code of a model is run
  EXPECT_TRUE(with("quantization_config", "null"));
  EXPECT_REFUSED(with("quantization_config", R"({"quant_method":"unheard_of"})"),
                 "quantization_config.quant_method", "unheard_of", "compressed-tensors", "GGUF");
}

TEST(HfConfig, RefusesWrongTokenIds) {
  EXPECT_EQ(with("eos_token_id", "[1,2,1]")->eos_token_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_TRUE(with("eos_token_id", "null")->eos_token_ids.empty());
  EXPECT_EQ(with("bos_token_id", "null")->bos_token_id, std::nullopt);
  EXPECT_REFUSED(with("eos_token_id", "12"), "eos_token_id", "found 12", "expected 0 to 11");
  EXPECT_REFUSED(with("eos_token_id", "-1"), "eos_token_id", "found -1");
  EXPECT_REFUSED(with("eos_token_id", "[1,null]"), "eos_token_id", "null");
  EXPECT_REFUSED(with("eos_token_id", "[[1]]"), "eos_token_id", "found a list");
  EXPECT_REFUSED(with("eos_token_id", "\"</s>\""), "eos_token_id", "found \"</s>\"");
  EXPECT_REFUSED(with("bos_token_id", "99"), "bos_token_id", "found 99");
}

TEST(HfConfig, RefusesDamagedJson) {
  EXPECT_REFUSED(parse_hf_config(""), "invalid JSON");
  EXPECT_REFUSED(parse_hf_config("{\"a\":"), "invalid JSON at byte");
  EXPECT_REFUSED(parse_hf_config("[1]"), "not a JSON object", "a list");
  EXPECT_REFUSED(parse_hf_config("{\"a\":1,\"a\":2}"), "duplicate key \"a\"");
  EXPECT_REFUSED(parse_hf_config("\xef\xbb\xbf{}"), "byte order mark");
  EXPECT_REFUSED(parse_hf_config("{\"a\":" + std::string(3000, '[')), "nesting deeper");
  EXPECT_REFUSED(parse_hf_config("version https://git-lfs.github.com/spec/v1\n"),
                 "Git LFS pointer");
  EXPECT_REFUSED(parse_hf_config("<!doctype HTML><html>"), "HTML page");
}

TEST(GenerationConfig, AddsEosAndDefaults) {
  auto config = *parse_hf_config(kTinyConfig);
  GenerationDefaults defaults;
  const auto status = parse_generation_config(
      R"({"eos_token_id":[5,2],"temperature":0.6,"top_p":0.95,"top_k":20,"do_sample":true})",
      config, defaults);
  ASSERT_TRUE(status) << status.error().message;
  EXPECT_EQ(config.eos_token_ids, (std::vector<int32_t>{2, 5}));
  EXPECT_FLOAT_EQ(*defaults.temperature, 0.6F);
  EXPECT_FLOAT_EQ(*defaults.top_p, 0.95F);
  EXPECT_EQ(defaults.top_k, 20);
  const auto refused = [&](const char* text) {
    auto copy = config;
    return parse_generation_config(text, copy, defaults);
  };
  EXPECT_REFUSED(refused(R"({"eos_token_id":12})"), "eos_token_id", "found 12");
  EXPECT_REFUSED(refused(R"({"temperature":-1})"), "temperature", "found -1");
  EXPECT_REFUSED(refused(R"({"temperature":NaN})"), "temperature", "NaN");
  EXPECT_REFUSED(refused(R"({"top_p":0})"), "top_p", "found 0");
  EXPECT_REFUSED(refused(R"({"top_p":"1"})"), "top_p", "\"1\"");
  EXPECT_REFUSED(refused(R"({"top_k":1.5})"), "top_k", "1.5");
}

}  // namespace
}  // namespace atom
