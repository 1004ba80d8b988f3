// Which layers of which family see how far, from config.json; and what is refused.
#include <gtest/gtest.h>

#include "atom/model_loader/hf_config.h"
#include "atom/model_loader/test_files.h"

namespace atom {
namespace {

// Four layers, a context of 1000 tokens.
Result<ModelConfig> parse(const std::string& architecture, const std::string& fields) {
  return parse_hf_config(R"({"architectures":[")" + architecture +
                         R"("],"hidden_size":64,"intermediate_size":16,"num_hidden_layers":4,)"
                         R"("num_attention_heads":8,"num_key_value_heads":8,"vocab_size":12,)"
                         R"("max_position_embeddings":1000,"num_experts":4,"num_local_experts":4,)"
                         R"("num_experts_per_tok":2,"moe_intermediate_size":8)" +
                         (fields.empty() ? "" : ",") + fields + "}");
}

constexpr char kMixed[] =
    R"("layer_types":["full_attention","sliding_attention","full_attention","full_attention"])";
constexpr char kFull[] = R"("layer_types":["full_attention"])";
constexpr char kOn[] = R"("use_sliding_window":true,"sliding_window":128)";

TEST(AttentionWindows, FollowTheRuleOfTheFamily) {
  const struct {
    const char* architecture;
    std::string fields;
    std::vector<int64_t> windows;
  } rows[] = {
      {"LlamaForCausalLM", R"("sliding_window":128)", {}},
      {"MistralForCausalLM", R"("sliding_window":128)", {128, 128, 128, 128}},
      {"MistralForCausalLM", R"("sliding_window":null)", {}},
      {"MistralForCausalLM", "", {}},  // 4096 unless config.json says otherwise
      {"MistralForCausalLM", R"("sliding_window":1000)", {}},  // no context outgrows it
      {"MistralForCausalLM", R"("sliding_window":999)", {999, 999, 999, 999}},
      {"MixtralForCausalLM", R"("sliding_window":128)", {128, 128, 128, 128}},
      {"MixtralForCausalLM", "", {}},
      {"Phi3ForCausalLM", R"("sliding_window":128)", {128, 128, 128, 128}},
      {"Phi3ForCausalLM", "", {}},
      {"Qwen2ForCausalLM", R"("sliding_window":128,"max_window_layers":0)", {}},
      {"Qwen2ForCausalLM", kOn, {}},  // from layer 28 on
      {"Qwen2ForCausalLM", std::string(kOn) + R"(,"max_window_layers":3)", {0, 0, 0, 128}},
      {"Qwen3ForCausalLM", std::string(kOn) + R"(,"max_window_layers":2)", {0, 0, 128, 128}},
      {"Qwen3ForCausalLM", std::string(kOn) + R"(,"max_window_layers":4)", {}},
      {"Qwen3ForCausalLM", std::string(kOn) + "," + kMixed, {0, 128, 0, 0}},
      {"Qwen3ForCausalLM", kFull, {}},
      {"Qwen3ForCausalLM",
       R"("use_sliding_window":true,"sliding_window":null,"max_window_layers":0)",
       {}},
      {"Qwen3MoeForCausalLM", kOn, {128, 128, 128, 128}},
      {"Qwen3MoeForCausalLM", R"("use_sliding_window":false,"sliding_window":128)", {}},
      {"GptOssForCausalLM", "", {128, 0, 128, 0}},
      {"GptOssForCausalLM", R"("sliding_window":16)", {16, 0, 16, 0}},
      {"GptOssForCausalLM", std::string(R"("sliding_window":16,)") + kMixed, {0, 16, 0, 0}},
  };
  for (const auto& row : rows) {
    const auto config = parse(row.architecture, row.fields);
    ASSERT_TRUE(config) << row.architecture << " " << row.fields << ": " << config.error().message;
    EXPECT_EQ(config->layer_windows, row.windows) << row.architecture << " " << row.fields;
  }
}

TEST(AttentionWindows, RefusesWhatDoesNotAgree) {
  EXPECT_REFUSED(parse("LlamaForCausalLM", kMixed), "layer_types", "found sliding_attention");
  EXPECT_REFUSED(parse("Qwen3ForCausalLM", kMixed), "layer_types", "use_sliding_window");
  EXPECT_REFUSED(parse("MistralForCausalLM", std::string(R"("sliding_window":128,)") + kFull),
                 "layer_types", "found full_attention");
  EXPECT_REFUSED(parse("GptOssForCausalLM", R"("layer_types":["sliding_attention"])"),
                 "layer_types", "found 1", "expected 4");
  EXPECT_REFUSED(parse("GptOssForCausalLM", R"("layer_types":"sliding_attention")"), "layer_types",
                 "wrong type");
  EXPECT_REFUSED(parse("GptOssForCausalLM", R"("layer_types":["linear_attention"])"), "layer_types",
                 "linear_attention");
  EXPECT_REFUSED(parse("MistralForCausalLM", R"("sliding_window":0)"), "sliding_window", "found 0");
  EXPECT_REFUSED(parse("MistralForCausalLM", R"("sliding_window":"4k")"), "sliding_window", "4k");
  EXPECT_REFUSED(parse("Qwen2ForCausalLM", std::string(kOn) + R"(,"max_window_layers":-1)"),
                 "max_window_layers", "found -1");
}

// Phi-3's long contexts rotate by tables of their own, under three names.
TEST(AttentionWindows, LongRopeIsRefusedByName) {
  for (const char* kind : {"longrope", "su", "yarn"}) {
    EXPECT_REFUSED(
        parse("Phi3ForCausalLM",
              std::string(R"("original_max_position_embeddings":4096,"rope_scaling":)") +
                  R"({"type":")" + kind + R"(","short_factor":[1,1,1,1],"long_factor":[2,2,2,2]})"),
        "rope_scaling.short_factor", kind, "LongRoPE");
  }
}

TEST(AttentionWindows, Qwen2HasBiasesThatItsConfigDoesNotMention) {
  const auto config = parse("Qwen2ForCausalLM", "");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_TRUE(config->attention_bias);
  EXPECT_FALSE(config->attention_output_bias);
}

}  // namespace
}  // namespace atom
