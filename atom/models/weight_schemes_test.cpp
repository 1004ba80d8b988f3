// Each stored form of a quantised Linear: its values by the definition of the format, and every way
// in which its tensors can be wrong, with the line that says so.
#include "atom/models/weight_schemes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "kernels/common/convert.h"

namespace atom {
namespace {

using testing::HasSubstr;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

class MemorySource final : public TensorSource {
 public:
  template <class T>
  void add(const std::string& name, DType dtype, std::vector<int64_t> shape,
           const std::vector<T>& values) {
    std::vector<uint8_t>& bytes = bytes_[name];
    bytes.resize(values.size() * sizeof(T));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    tensors_[name] = {.name = name,
                      .dtype = dtype,
                      .shape = std::move(shape),
                      .data = bytes.data(),
                      .nbytes = static_cast<int64_t>(bytes.size()),
                      .file = "memory"};
  }
  CheckpointTensor& at(const std::string& name) { return tensors_.at(name); }
  void erase(const std::string& name) { tensors_.erase(name); }
  const std::map<std::string, CheckpointTensor>& tensors() const { return tensors_; }

  const CheckpointTensor* find(const std::string& name) const override {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
  }
  const CheckpointTensor* take(const std::string& name,
                               std::initializer_list<int64_t> shape) override {
    const CheckpointTensor* tensor = find(name);
    if (tensor == nullptr) {
      fail("missing " + name);
    } else if (!std::ranges::equal(tensor->shape, shape)) {
      fail("shape of " + name);
      tensor = nullptr;
    }
    return tensor;
  }
  void fail(std::string message) override { problem_ += message + "; "; }
  const ParallelFor& parallel() const override { return parallel_; }
  const std::string& problem() const { return problem_; }

 private:
  std::map<std::string, CheckpointTensor> tensors_;
  std::map<std::string, std::vector<uint8_t>> bytes_;
  std::string problem_;
  ParallelFor parallel_;
};

QuantizationConfig config_of(WeightLayout layout, DataFormat format) {
  return {.method = "test", .groups = {{.layout = layout, .format = format}}};
}

std::vector<float> values_of(const StoredWeight& weight) {
  std::vector<float> out(static_cast<size_t>(weight.part.rows * weight.part.cols));
  dequantize_rows(weight.part, 0, weight.part.rows, out.data());
  return out;
}

// A 16 x 64 weight in one form, and what its value [row, col] must be.
struct Form {
  std::string name;
  QuantizationConfig config;
  void (*fill)(MemorySource&);
  float (*value)(int64_t row, int64_t col);
};

constexpr int64_t kRows = 16, kCols = 64;

uint32_t nibble(int64_t row, int64_t col) {
  return static_cast<uint32_t>((row * 5 + col * 3) % 16);
}
float group_scale(int64_t row, int64_t group) {
  return 0.25F * static_cast<float>(1 + row + group * kRows);
}
uint32_t zero_point(int64_t row, int64_t group) {
  return static_cast<uint32_t>((row + group) % 15 + 1);
}

std::vector<float> scales(int64_t rows, int64_t groups, bool transposed) {
  std::vector<float> out;
  for (int64_t i = 0; i < rows * groups; ++i) {
    out.push_back(transposed ? group_scale(i % rows, i / rows)
                             : group_scale(i / groups, i % groups));
  }
  return out;
}

// Words of eight values: value(word index, place in the word) in nibble place `order[i]`.
template <class Value>
std::vector<uint32_t> words(int64_t count, const Value& value,
                            std::array<int, 8> order = {0, 1, 2, 3, 4, 5, 6, 7}) {
  std::vector<uint32_t> out(static_cast<size_t>(count));
  for (int64_t w = 0; w < count; ++w) {
    for (int64_t i = 0; i < 8; ++i) {
      out[size_t(w)] |= (value(w, i) & 15U) << (4 * order[size_t(i)]);
    }
  }
  return out;
}

void fill_bytes(MemorySource& source, DType dtype) {
  std::vector<uint8_t> bytes;
  for (int64_t i = 0; i < kRows * kCols; ++i) bytes.push_back(static_cast<uint8_t>(i % 120));
  source.add("w.weight", dtype, {kRows, kCols}, bytes);
}

void fill_fp8_tensor(MemorySource& source) {
  fill_bytes(source, DType::kF8E4M3);
  source.add<float>("w.weight_scale", DType::kF32, {}, {0.5F});
  source.add<float>("w.input_scale", DType::kF32, {}, {2.0F});
}
void fill_fp8_block(MemorySource& source) {
  fill_bytes(source, DType::kF8E4M3);
  source.add("w.weight_scale_inv", DType::kF32, {2, 2}, scales(2, 2, false));
}
void fill_int8(MemorySource& source) {
  fill_bytes(source, DType::kI8);
  source.add("w.weight_scale", DType::kF32, {kRows, 1}, scales(kRows, 1, false));
}
void fill_quark_mxfp4(MemorySource& source) {
  std::vector<uint8_t> bytes;
  for (int64_t i = 0; i < kRows * kCols; i += 2) {
    const int64_t row = i / kCols, col = i % kCols;
    bytes.push_back(static_cast<uint8_t>(nibble(row, col) | nibble(row, col + 1) << 4));
  }
  source.add("w.weight", DType::kU8, {kRows, kCols / 2}, bytes);
  std::vector<uint8_t> exponents;
  for (int64_t i = 0; i < kRows * 2; ++i) exponents.push_back(static_cast<uint8_t>(120 + i % 8));
  source.add("w.weight_scale", DType::kU8, {kRows, 2}, exponents);
}
void fill_packed(MemorySource& source) {
  source.add("w.weight_packed", DType::kI32, {kRows, 8},
             words(kRows * 8, [](int64_t w, int64_t i) { return nibble(w / 8, w % 8 * 8 + i); }));
  source.add("w.weight_scale", DType::kF32, {kRows, 2}, scales(kRows, 2, false));
  source.add<int64_t>("w.weight_shape", DType::kI64, {2}, {kRows, kCols});
  source.add("w.weight_zero_point", DType::kI32, {2, 2},
             words(4, [](int64_t w, int64_t i) { return zero_point(w / 2 * 8 + i, w % 2); }));
}
void fill_gptq(MemorySource& source) {
  source.add("w.qweight", DType::kI32, {8, kRows}, words(8 * kRows, [](int64_t w, int64_t i) {
               return nibble(w % kRows, w / kRows * 8 + i);
             }));
  source.add("w.qzeros", DType::kI32, {2, 2},
             words(4, [](int64_t w, int64_t i) { return zero_point(w % 2 * 8 + i, w / 2) - 1; }));
  source.add("w.scales", DType::kF32, {2, kRows}, scales(kRows, 2, true));
  std::vector<int32_t> index;
  for (int i = 0; i < kCols; ++i) index.push_back(i / 32);
  source.add("w.g_idx", DType::kI32, {kCols}, index);
}
void fill_awq(MemorySource& source) {
  constexpr std::array<int, 8> kOrder{0, 4, 1, 5, 2, 6, 3, 7};
  source.add(
      "w.qweight", DType::kI32, {kCols, 2},
      words(
          kCols * 2, [](int64_t w, int64_t i) { return nibble(w % 2 * 8 + i, w / 2); }, kOrder));
  source.add("w.qzeros", DType::kI32, {2, 2},
             words(
                 4, [](int64_t w, int64_t i) { return zero_point(w % 2 * 8 + i, w / 2); }, kOrder));
  source.add("w.scales", DType::kF32, {2, kRows}, scales(kRows, 2, true));
}

float byte_value(int64_t row, int64_t col) { return static_cast<float>((row * kCols + col) % 120); }
float fp8_value(int64_t row, int64_t col) {
  return f8e4m3_to_f32(static_cast<uint8_t>((row * kCols + col) % 120));
}
float int4_value(int64_t row, int64_t col) {
  const int64_t group = col / 32;
  return (static_cast<float>(nibble(row, col)) - static_cast<float>(zero_point(row, group))) *
         group_scale(row, group);
}

DataFormat int4(int64_t group) {
  return {.dtype = DType::kU4, .block_n = 1, .block_k = group, .has_zeros = true};
}

const std::vector<Form>& forms() {
  static const std::vector<Form> all{
      {"fp8 per tensor",
       config_of(WeightLayout::kScaled, {.dtype = DType::kF8E4M3, .block_n = -1, .block_k = -1}),
       fill_fp8_tensor, [](int64_t r, int64_t c) { return fp8_value(r, c) * 0.5F; }},
      {"fp8 blocks",
       config_of(WeightLayout::kScaled, {.dtype = DType::kF8E4M3, .block_n = 12, .block_k = 40}),
       fill_fp8_block,
       [](int64_t r, int64_t c) {
         return fp8_value(r, c) * scales(2, 2, false)[size_t(r / 12 * 2 + c / 40)];
       }},
      {"int8 per channel",
       config_of(WeightLayout::kScaled, {.dtype = DType::kI8, .block_n = 1, .block_k = -1}),
       fill_int8,
       [](int64_t r, int64_t c) { return byte_value(r, c) * scales(kRows, 1, false)[size_t(r)]; }},
      {"mxfp4",
       config_of(
           WeightLayout::kScaled,
           {.dtype = DType::kF4E2M1, .block_n = 1, .block_k = 32, .scale_dtype = DType::kF8E8M0}),
       fill_quark_mxfp4,
       [](int64_t r, int64_t c) {
         return f4e2m1_to_f32(nibble(r, c)) *
                std::exp2(static_cast<float>((r * 2 + c / 32) % 8 - 7));
       }},
      {"packed int4", config_of(WeightLayout::kPackedInt4, int4(32)), fill_packed, int4_value},
      {"gptq", config_of(WeightLayout::kGptq, int4(32)), fill_gptq, int4_value},
      {"awq", config_of(WeightLayout::kAwq, int4(32)), fill_awq, int4_value},
  };
  return all;
}

bool read(MemorySource& source, const Form& form, StoredWeight& out) {
  return read_weight(source, {"w", kRows, kCols}, form.config, out);
}

TEST(WeightSchemes, GiveTheValuesOfTheirDefinition) {
  for (const Form& form : forms()) {
    MemorySource source;
    form.fill(source);
    StoredWeight weight;
    ASSERT_TRUE(read(source, form, weight)) << form.name << ": " << source.problem();
    const std::vector<float> got = values_of(weight);
    for (int64_t i = 0; i < kRows * kCols; ++i) {
      ASSERT_FLOAT_EQ(got[size_t(i)], form.value(i / kCols, i % kCols)) << form.name << " at " << i;
    }
  }
}

TEST(WeightSchemes, NameWhatIsMissingMisshapenOrOfTheWrongType) {
  for (const Form& form : forms()) {
    MemorySource good;
    form.fill(good);
    for (const auto& [name, tensor] : good.tensors()) {
      const bool optional = name.ends_with("input_scale") || name.ends_with("g_idx");
      const auto refused = [&](auto change) {
        MemorySource source;
        form.fill(source);
        change(source);
        StoredWeight weight;
        const bool accepted = read(source, form, weight);
        EXPECT_EQ(accepted, source.problem().empty());
        return source.problem();
      };
      const std::string& key = name;
      if (!optional) {
        EXPECT_THAT(refused([&](MemorySource& s) { s.erase(key); }), HasSubstr(key)) << form.name;
      }
      EXPECT_THAT(refused([&](MemorySource& s) {
                    s.at(key).shape = {3, 5};
                  }),
                  HasSubstr(key))
          << form.name;
      EXPECT_THAT(refused([&](MemorySource& s) { s.at(key).dtype = DType::kBool; }),
                  HasSubstr(key.ends_with(".weight") ? "w.weight" : key))
          << form.name;
    }
  }
}

TEST(WeightSchemes, RefuseScalesThatAreNoNumbers) {
  for (const float bad : {kNaN, INFINITY}) {
    for (const Form& form : forms()) {
      MemorySource source;
      form.fill(source);
      for (const char* name :
           {"w.weight_scale", "w.weight_scale_inv", "w.scales", "w.input_scale"}) {
        if (source.find(name) == nullptr) continue;
        const CheckpointTensor tensor = source.at(name);
        if (tensor.dtype == DType::kF32) {
          std::vector<float> values(static_cast<size_t>(tensor.nbytes / 4), 1.0F);
          values.back() = bad;
          source.add(name, DType::kF32, tensor.shape, values);
        } else {
          source.add(name, tensor.dtype, tensor.shape,
                     std::vector<uint8_t>(static_cast<size_t>(tensor.nbytes), 255));
        }
      }
      StoredWeight weight;
      EXPECT_FALSE(read(source, form, weight)) << form.name;
      EXPECT_THAT(source.problem(), HasSubstr("scale that is not a finite number")) << form.name;
    }
  }
}

TEST(WeightSchemes, RefuseGroupsOrdersAndShapesThatDoNotFit) {
  const auto problem = [](const Form& form, int64_t rows, int64_t cols) {
    MemorySource source;
    form.fill(source);
    StoredWeight weight;
    EXPECT_FALSE(read_weight(source, {"w", rows, cols}, form.config, weight)) << form.name;
    return source.problem();
  };
  for (size_t i = 3; i < forms().size(); ++i) {  // the forms with groups
    EXPECT_THAT(problem(forms()[i], kRows, 80), HasSubstr("group_size 32 does not divide the 80"));
  }
  EXPECT_THAT(problem(forms()[5], 12, kCols), HasSubstr("12 rows"));
  EXPECT_THAT(problem(forms()[4], 8, kCols), HasSubstr("w.weight_shape says [16, 64]"));
  MemorySource source;
  fill_gptq(source);
  source.add("w.g_idx", DType::kI32, {kCols}, std::vector<int32_t>(kCols, 1));
  StoredWeight weight;
  EXPECT_FALSE(read(source, forms()[5], weight));
  EXPECT_THAT(source.problem(), HasSubstr("w.g_idx: activation order (desc_act)"));
}

TEST(WeightSchemes, RefuseFp8WeightsThatAreNoNumbers) {
  MemorySource source;
  fill_fp8_tensor(source);
  std::vector<uint8_t> bytes(kRows * kCols, 0x38);
  bytes[777] = 0xff;
  source.add("w.weight", DType::kF8E4M3, {kRows, kCols}, bytes);
  StoredWeight weight;
  EXPECT_FALSE(read(source, forms()[0], weight));
  EXPECT_THAT(source.problem(), HasSubstr("tensor w.weight holds NaN"));
}

// What is stored decides: layers that a checkpoint left alone are read plainly.
TEST(WeightSchemes, UnquantisedLayersOfQuantisedCheckpoints) {
  for (const Form& form : forms()) {
    MemorySource source;
    source.add("w.weight", DType::kF32, {kRows, kCols}, std::vector<float>(kRows * kCols, 0.5F));
    StoredWeight weight;
    ASSERT_TRUE(read(source, form, weight)) << form.name << ": " << source.problem();
    EXPECT_EQ(weight.part.format, (DataFormat{.dtype = DType::kF32}));
  }
}

TEST(WeightSchemes, StackedExperts) {
  MemorySource source;
  constexpr int64_t kExperts = 3;
  std::vector<uint8_t> blocks, exponents;
  for (int64_t i = 0; i < kExperts * kRows * kCols / 2; ++i) blocks.push_back(uint8_t(i * 7));
  for (int64_t i = 0; i < kExperts * kRows * 2; ++i) exponents.push_back(uint8_t(120 + i % 5));
  source.add("e.up_blocks", DType::kU8, {kExperts, kRows, 2, 16}, blocks);
  source.add("e.up_scales", DType::kU8, {kExperts, kRows, 2}, exponents);
  StoredWeight weight;
  ASSERT_TRUE(read_stacked_weight(source, {"e.up", kRows, kCols}, kExperts, weight))
      << source.problem();
  std::vector<float> row(kCols);
  dequantize_rows(part_rows(weight.part, kRows, kRows), 5, 1, row.data());  // of expert 1
  const int64_t at = kRows + 5;
  for (int64_t c = 0; c < kCols; ++c) {
    const uint8_t byte = blocks[size_t((at * kCols + c) / 2)];
    EXPECT_FLOAT_EQ(row[size_t(c)],
                    f4e2m1_to_f32(c % 2 == 0 ? byte & 15U : byte >> 4U) *
                        std::exp2(static_cast<float>(exponents[size_t(at * 2 + c / 32)]) - 127));
  }

  std::vector<float> plain;
  for (int64_t i = 0; i < kExperts * kRows * kCols; ++i) plain.push_back(static_cast<float>(i));
  source.add("e.down", DType::kF32, {kExperts, kCols, kRows}, plain);
  StoredWeight turned;
  ASSERT_TRUE(read_stacked_weight(source, {"e.down", kRows, kCols}, kExperts, turned));
  dequantize_rows(turned.part, 2 * kRows + 3, 1, row.data());
  EXPECT_EQ(row[9], static_cast<float>((2 * kCols + 9) * kRows + 3));
  source.erase("e.up_scales");
  StoredWeight missing;
  EXPECT_FALSE(read_stacked_weight(source, {"e.up", kRows, kCols}, kExperts, missing));
  EXPECT_THAT(source.problem(), HasSubstr("missing e.up_scales"));
}

}  // namespace
}  // namespace atom
