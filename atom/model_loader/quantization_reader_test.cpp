// quantization_config of each method: what it comes to, and what is refused with its line.
#include "atom/model_loader/quantization_reader.h"

#include <span>

#include "atom/model_loader/test_files.h"

namespace atom {
namespace {

Result<QuantizationConfig> read(const std::string& text) {
  return read_quantization(
      boost::json::parse("{\"quantization_config\":" + text + "}").as_object());
}

std::string compressed(const std::string& weights, const std::string& more = "") {
  return R"({"quant_method":"compressed-tensors")" + more +
         R"(,"config_groups":{"group_0":{"targets":["Linear"],"weights":)" + weights + "}}}";
}

std::string quark(const std::string& weight) {
  return R"({"quant_method":"quark","global_quant_config":{"weight":)" + weight + "}}";
}

TEST(QuantizationReader, DescribesEveryForm) {
  struct Row {
    std::string text;
    WeightLayout layout;
    DataFormat format;
  };
  const auto scaled = [](DType dtype, int64_t n, int64_t k) {
    return DataFormat{.dtype = dtype, .block_n = n, .block_k = k};
  };
  const DataFormat mxfp4{
      .dtype = DType::kF4E2M1, .block_n = 1, .block_k = 32, .scale_dtype = DType::kF8E8M0};
  const auto int4 = [](int64_t group, bool zeros) {
    return DataFormat{.dtype = DType::kU4, .block_n = 1, .block_k = group, .has_zeros = zeros};
  };
  const DType f8 = DType::kF8E4M3;
  const Row rows[] = {
      {R"({"quant_method":"fp8","activation_scheme":"static"})", WeightLayout::kScaled,
       scaled(f8, -1, -1)},
      {R"({"quant_method":"fp8","fmt":"e4m3","weight_block_size":[128,64]})", WeightLayout::kScaled,
       scaled(f8, 128, 64)},
      {compressed(R"({"num_bits":8,"type":"float","strategy":"tensor"})"), WeightLayout::kScaled,
       scaled(f8, -1, -1)},
      {compressed(R"({"num_bits":8,"type":"float","strategy":"channel","symmetric":true})"),
       WeightLayout::kScaled, scaled(f8, 1, -1)},
      {compressed(
           R"({"num_bits":8,"type":"float","strategy":"block","block_structure":[128,128]})"),
       WeightLayout::kScaled, scaled(f8, 128, 128)},
      {compressed(R"({"num_bits":8,"type":"int","strategy":"channel"})", R"(,"format":null)"),
       WeightLayout::kScaled, scaled(DType::kI8, 1, -1)},
      {compressed(R"({"num_bits":4,"type":"int","strategy":"group","group_size":128})"),
       WeightLayout::kPackedInt4, int4(128, false)},
      {compressed(
           R"({"num_bits":4,"type":"int","strategy":"group","group_size":32,"symmetric":false})"),
       WeightLayout::kPackedInt4, int4(32, true)},
      {compressed(R"({"num_bits":4,"type":"int","strategy":"channel","group_size":null})"),
       WeightLayout::kPackedInt4, int4(-1, false)},
      {quark(R"({"dtype":"fp8_e4m3","qscheme":"per_tensor"})"), WeightLayout::kScaled,
       scaled(f8, -1, -1)},
      {quark(R"({"dtype":"int8","qscheme":"per_channel"})"), WeightLayout::kScaled,
       scaled(DType::kI8, 1, -1)},
      {quark(R"({"dtype":"fp4","qscheme":"per_group","group_size":32,"scale_format":"e8m0"})"),
       WeightLayout::kScaled, mxfp4},
      {R"({"quant_method":"gptq","bits":4,"group_size":-1})", WeightLayout::kGptq, int4(-1, true)},
      {R"({"quant_method":"gptq","bits":4,"group_size":64,"checkpoint_format":"gptq_v2"})",
       WeightLayout::kGptqV2, int4(64, true)},
      {R"({"quant_method":"awq","bits":4,"group_size":128,"version":"gemm"})", WeightLayout::kAwq,
       int4(128, true)},
      {R"({"quant_method":"awq","w_bit":4,"q_group_size":64})", WeightLayout::kAwq, int4(64, true)},
  };
  for (const Row& row : rows) {
    const auto config = read(row.text);
    ASSERT_TRUE(config) << row.text << ": " << config.error().message;
    ASSERT_EQ(config->groups.size(), 1U) << row.text;
    EXPECT_EQ(config->groups[0].layout, row.layout) << row.text;
    EXPECT_EQ(config->groups[0].format, row.format) << row.text;
  }
}

TEST(QuantizationReader, WithoutGroups) {
  EXPECT_TRUE(read("null")->method.empty());
  EXPECT_TRUE(read_quantization({})->method.empty());
  const auto mxfp4 = read(R"({"quant_method":"mxfp4","modules_to_not_convert":["lm_head"]})");
  ASSERT_TRUE(mxfp4);
  EXPECT_EQ(mxfp4->method, "mxfp4");
  EXPECT_TRUE(mxfp4->groups.empty());
}

TEST(QuantizationReader, SeveralGroupsAndLayersOfTheirOwn) {
  const auto two = read(
      R"({"quant_method":"compressed-tensors","config_groups":{
        "a":{"weights":{"num_bits":4,"type":"int","strategy":"group","group_size":32}},
        "b":{"weights":{"num_bits":8,"type":"float","strategy":"channel"}},
        "c":{"weights":null}}})");
  ASSERT_TRUE(two) << two.error().message;
  EXPECT_EQ(two->groups.size(), 2U);
  EXPECT_EQ(two->name, "compressed-tensors u4 [1, 32], fp8_e4m3 [1, all]");
  const auto layers = read(
      R"({"quant_method":"quark","global_quant_config":{"weight":{"dtype":"fp8_e4m3",
        "qscheme":"per_tensor"}},"layer_quant_config":{"*down_proj":{"weight":{"dtype":"int8",
        "qscheme":"per_channel"}}, "lm_head":{"weight":null}}})");
  ASSERT_TRUE(layers) << layers.error().message;
  EXPECT_EQ(layers->groups.size(), 2U);
}

TEST(QuantizationReader, RefusesInOneLine) {
  const auto prefix = "quantization_config.";
  EXPECT_REFUSED(read("[]"), "quantization_config", "found a list", "an object");
  EXPECT_REFUSED(read("{}"), prefix, "quant_method", "found nothing", "fp8", "awq", "GGUF");
  EXPECT_REFUSED(read(R"({"quant_method":"bitsandbytes"})"), prefix, "bitsandbytes", "fp8",
                 "compressed-tensors", "quark", "mxfp4", "gptq");
  EXPECT_REFUSED(read(R"({"quant_method":"fp8","activation_scheme":"sometimes"})"),
                 "activation_scheme", "sometimes", "static or dynamic");
  EXPECT_REFUSED(read(R"({"quant_method":"fp8","fmt":"e5m2"})"), "fmt", "e5m2", "e4m3");
  for (const char* block : {"128", "[128]", "[0,128]", "[-1,128]", "[128,1e3]", "[1,9999999999]"}) {
    EXPECT_REFUSED(read(std::string(R"({"quant_method":"fp8","weight_block_size":)") + block + "}"),
                   "weight_block_size", "two positive integers");
  }
  EXPECT_REFUSED(read(R"({"quant_method":"compressed-tensors"})"), "config_groups", "0 groups");
  EXPECT_REFUSED(read(compressed(R"({"num_bits":2,"type":"int","strategy":"group"})")),
                 "config_groups.group_0.weights.strategy", "\"group\" of 2 bits",
                 "int 4 per group");
  EXPECT_REFUSED(read(compressed(R"({"num_bits":4,"type":"float","strategy":"tensor_group"})")),
                 "tensor_group", "symmetric float 8");
  EXPECT_REFUSED(
      read(compressed(R"({"num_bits":8,"type":"int","strategy":"channel","symmetric":false})")),
      "asymmetric");
  EXPECT_REFUSED(read(compressed(R"({"num_bits":4,"type":"int","strategy":"group"})")),
                 "group_size", "missing");
  EXPECT_REFUSED(read(compressed(R"({"num_bits":8,"type":"int","strategy":"channel"})",
                                 R"(,"format":"marlin-24")")),
                 "format", "marlin-24");
  EXPECT_REFUSED(read(compressed(R"({"num_bits":8,"type":"int","strategy":"channel"})",
                                 R"(,"sparsity_config":{"format":"sparse-24-bitmask"})")),
                 "sparsity_config.format", "sparse-24");
  EXPECT_REFUSED(read(R"({"quant_method":"quark"})"), "global_quant_config", "missing");
  EXPECT_REFUSED(read(quark(R"({"dtype":"uint4","qscheme":"per_group","group_size":128})")),
                 "global_quant_config.weight.dtype", "uint4", "fp8_e4m3");
  EXPECT_REFUSED(read(quark(R"({"dtype":"fp4","qscheme":"per_group","group_size":16})")), "16");
  EXPECT_REFUSED(read(R"({"quant_method":"gptq","bits":8,"group_size":128})"), "bits", "found 8",
                 "expected 4");
  EXPECT_REFUSED(read(R"({"quant_method":"gptq","group_size":128})"), "bits", "found nothing");
  EXPECT_REFUSED(read(R"({"quant_method":"gptq","bits":4,"group_size":0})"), "group_size");
  EXPECT_REFUSED(read(R"({"quant_method":"gptq","bits":4,"group_size":-2})"), "group_size", "-2");
  EXPECT_REFUSED(read(R"({"quant_method":"awq","bits":4,"group_size":128,"version":"gemv"})"),
                 "version", "gemv", "gemm");
}

}  // namespace
}  // namespace atom
