#include "atom/model_loader/safetensors.h"

#include <random>

#include "atom/model_loader/test_files.h"

namespace atom {
namespace {

using testing::bytes_of;
using testing::raw;
using testing::safetensors_file;

Result<std::vector<SafetensorsTensor>> parse(std::string_view header, size_t data_bytes) {
  static std::string file;  // outlives the result's use
  file = safetensors_file(header, std::string(data_bytes, '\0'));
  return parse_safetensors(bytes_of(file));
}

std::string entry(std::string_view name, std::string_view dtype, std::string_view shape,
                  std::string_view offsets) {
  return "\"" + std::string(name) + "\":{\"dtype\":\"" + std::string(dtype) +
         "\",\"shape\":" + std::string(shape) + ",\"data_offsets\":" + std::string(offsets) + "}";
}

TEST(Safetensors, ReadsEveryTypeInFileOrder) {
  const std::string header =
      "{" + entry("z", "F32", "[2,3]", "[4,28]") + "," + entry("a", "BF16", "[2]", "[0,4]") + "," +
      entry("scalar", "I64", "[]", "[28,36]") + "," + entry("none", "U8", "[0,7]", "[36,36]") +
      "," + entry("b", "BOOL", "[3]", "[36,39]") + "," + entry("f8", "F8_E4M3", "[1]", "[39,40]") +
      "," + entry("i", "I8", "[1]", "[40,41]") + "," + entry("h", "F16", "[1,1]", "[41,43]") + "," +
      entry("w", "I32", "[1]", "[43,47]") + ",\"__metadata__\":{\"format\":\"pt\",\"k\":\"\"}}   ";
  const auto tensors = parse(header, 47);
  ASSERT_TRUE(tensors) << tensors.error().message;
  std::vector<std::string> names;
  for (const auto& tensor : *tensors) {
    names.push_back(tensor.name);
  }
  EXPECT_EQ(names,
            (std::vector<std::string>{"a", "z", "scalar", "none", "b", "f8", "i", "h", "w"}));
  const auto data_begin = static_cast<int64_t>(8 + header.size());
  EXPECT_EQ((*tensors)[1].begin, data_begin + 4);
  EXPECT_EQ((*tensors)[1].end, data_begin + 28);
  EXPECT_EQ((*tensors)[1].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ((*tensors)[0].dtype, DType::kBF16);
  EXPECT_TRUE((*tensors)[2].shape.empty());
}

TEST(Safetensors, AcceptsAnEmptyTable) { EXPECT_TRUE(parse("{}", 0)); }

TEST(Safetensors, RefusesShortFilesAndWrongHeaderLengths) {
  for (size_t size = 0; size < 8; ++size) {
    EXPECT_REFUSED(parse_safetensors(bytes_of(std::string(size, '\1'))),
                   "too short for the header length", std::to_string(size));
  }
  for (const uint64_t length :
       {uint64_t{3}, uint64_t{1} << 62, uint64_t{1} << 63, ~uint64_t{0}, uint64_t{100'000'001}}) {
    EXPECT_REFUSED(parse_safetensors(bytes_of(raw(length) + "{}")), "header length",
                   std::to_string(length));
  }
  EXPECT_REFUSED(parse_safetensors(bytes_of(raw<uint64_t>(0) + "{}")), "header", "'{'");
  EXPECT_REFUSED(parse_safetensors(bytes_of(raw<uint64_t>(1) + "{}")), "header", "invalid JSON");
}

TEST(Safetensors, RefusesHeadersThatAreNotTheTable) {
  EXPECT_REFUSED(parse(" {}", 0), "'{'");
  EXPECT_REFUSED(parse("[]", 0), "'{'");
  EXPECT_REFUSED(parse("{} x", 0), "trailing characters");
  EXPECT_REFUSED(parse("{\"a\":", 0), "invalid JSON");
  EXPECT_REFUSED(parse("{\"a\xff\":{}}", 0), "invalid JSON");
  EXPECT_REFUSED(parse("{\"a\":1}", 0), "tensor \"a\"", "unexpected number");
  EXPECT_REFUSED(parse("{\"a\":null}", 0), "tensor \"a\"", "unexpected null");
  EXPECT_REFUSED(parse("{\"a\":[1]}", 0), "unexpected array");
  EXPECT_REFUSED(parse("{\"a\":{\"dtype\":{}}}", 0), "tensor \"a\"", "unexpected object");
  EXPECT_REFUSED(parse("{\"a\":{\"shape\":[[1]]}}", 0), "invalid JSON");
  EXPECT_REFUSED(parse("{\"a\":{\"shape\":[1.5]}}", 0), "shape", "1.5", "integer");
  EXPECT_REFUSED(parse("{\"a\":{\"shape\":[true]}}", 0), "shape", "boolean");
  EXPECT_REFUSED(parse("{\"a\":{\"shape\":\"x\"}}", 0), "shape", "unexpected string");
  EXPECT_REFUSED(parse("{\"a\":{\"color\":1}}", 0), "tensor \"a\"", "unknown key \"color\"");
  EXPECT_REFUSED(parse("{\"a\":{\"shape\":[1]}}", 0), "tensor \"a\"", "incomplete");
  EXPECT_REFUSED(parse("{\"a\":{\"shape\":[1],\"shape\":[1]}}", 0), "\"shape\" appears twice");
  EXPECT_REFUSED(parse("{\"__metadata__\":{\"a\":1}}", 0), "__metadata__", "unexpected number");
  EXPECT_REFUSED(parse("{\"__metadata__\":{\"a\":{}}}", 0), "__metadata__", "unexpected object");
  EXPECT_REFUSED(parse("{\"__metadata__\":{},\"__metadata__\":{}}", 0), "__metadata__", "twice");
  std::string deep = "{\"a\":";
  deep += std::string(10'000, '[');
  EXPECT_FALSE(parse(deep, 0));
}

TEST(Safetensors, RefusesWrongOffsetsByName) {
  EXPECT_REFUSED(parse("{" + entry("w", "U8", "[4]", "[4,0]") + "}", 4), "tensor \"w\"",
                 "descending");
  EXPECT_REFUSED(parse("{" + entry("w", "U8", "[4]", "[-4,0]") + "}", 4), "tensor \"w\"",
                 "negative", "-4");
  EXPECT_REFUSED(parse("{" + entry("w", "U8", "[4]", "[0,4,5]") + "}", 4), "tensor \"w\"",
                 "data_offsets", "found 3");
  EXPECT_REFUSED(parse("{" + entry("w", "U8", "[4]", "[0]") + "}", 4), "tensor \"w\"",
                 "data_offsets", "found 1");
  EXPECT_REFUSED(parse("{" + entry("w", "U8", "[8]", "[0,8]") + "}", 4), "tensor \"w\"",
                 "beyond the end of the file", "found 4", "expected 8");
  EXPECT_REFUSED(parse("{" + entry("w", "U8", "[8]", "[0,18446744073709551615]") + "}", 4),
                 "tensor \"w\"", "too large");
  EXPECT_REFUSED(parse("{" + entry("w", "U8", "[3]", "[0,4]") + "}", 4), "tensor \"w\"", "shape",
                 "[3]", "found 4", "expected 3");
  EXPECT_REFUSED(
      parse("{" + entry("v", "U8", "[3]", "[0,3]") + "," + entry("w", "U8", "[3]", "[2,5]") + "}",
            5),
      "tensor \"w\"", "overlap tensor \"v\"");
  EXPECT_REFUSED(
      parse("{" + entry("v", "U8", "[3]", "[0,3]") + "," + entry("w", "U8", "[3]", "[4,7]") + "}",
            7),
      "tensor \"w\"", "hole");
  EXPECT_REFUSED(parse("{" + entry("v", "U8", "[3]", "[1,4]") + "}", 4), "tensor \"v\"",
                 "hole after the header");
  EXPECT_REFUSED(parse("{" + entry("v", "U8", "[3]", "[0,3]") + "}", 5),
                 "2 bytes after the last tensor");
}

TEST(Safetensors, RefusesShapesThatOverflow) {
  EXPECT_REFUSED(
      parse("{" + entry("w", "F32", "[4194305,4194305,211106198978564]", "[0,4]") + "}", 4),
      "tensor \"w\"", "overflows");
  EXPECT_REFUSED(parse("{" + entry("w", "F32", "[-1]", "[0,4]") + "}", 4), "tensor \"w\"", "shape",
                 "negative");
  EXPECT_REFUSED(parse("{" + entry("w", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") + "}", 4),
                 "tensor \"w\"", "8 dimensions");
  // A zero among huge dimensions must not hide the overflow of what comes before it.
  EXPECT_REFUSED(
      parse("{" + entry("w", "F32", "[9223372036854775807,9223372036854775807,0]", "[0,0]") + "}",
            0),
      "overflows");
}

TEST(Safetensors, RefusesUnknownTypesAndDoubleNames) {
  EXPECT_REFUSED(parse("{" + entry("w", "F128", "[1]", "[0,16]") + "}", 16), "tensor \"w\"", "F128",
                 "supported: F32");
  EXPECT_REFUSED(parse("{" + entry("w", "F64", "[1]", "[0,8]") + "}", 8), "tensor \"w\"", "F64");
  EXPECT_REFUSED(
      parse("{" + entry("w", "U8", "[1]", "[0,1]") + "," + entry("w", "U8", "[1]", "[1,2]") + "}",
            2),
      "tensor \"w\"", "twice");
  EXPECT_REFUSED(parse("{" + entry("w", "U8", "[1]", "[0,1]") + "," +
                           entry("\\u0077", "U8", "[1]", "[1,2]") + "}",
                       2),
                 "tensor \"w\"", "twice");
  EXPECT_REFUSED(parse("{" + entry("", "U8", "[1]", "[0,1]") + "}", 1), "not a usable name");
  EXPECT_REFUSED(parse("{" + entry("a\\u0000b", "U8", "[1]", "[0,1]") + "}", 1), "a\\x00b");
}

TEST(Safetensors, RecognisesWhatIsNoModel) {
  EXPECT_REFUSED(parse_safetensors(bytes_of(
                     "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n")),
                 "Git LFS pointer");
  EXPECT_REFUSED(parse_safetensors(bytes_of("\n <!DOCTYPE html><html><body>404</body></html>")),
                 "HTML page");
  EXPECT_REFUSED(parse_safetensors(bytes_of("PK\x03\x04 archive/data.pkl")), "pickle");
  EXPECT_REFUSED(parse_safetensors(bytes_of("GGUF....")), "GGUF");
}

TEST(Safetensors, TakesLinearTimeForManyTensors) {
  std::string header = "{";
  constexpr int kCount = 200'000;
  for (int i = 0; i < kCount; ++i) {  // names and offsets in opposite orders
    const int at = kCount - 1 - i;
    header +=
        (i == 0 ? "" : ",") + entry("t" + std::to_string(i), "U8", "[1]",
                                    "[" + std::to_string(at) + "," + std::to_string(at + 1) + "]");
  }
  const auto tensors = parse(header + "}", kCount);
  ASSERT_TRUE(tensors) << tensors.error().message;
  EXPECT_EQ(tensors->front().name, "t199999");
}

// Random damage of a good file: parsed or refused in one line, never a tensor outside the file.
TEST(Safetensors, SurvivesRandomDamage) {
  const std::string good = testing::safetensors_of(testing::tiny_tensors());
  std::mt19937 random(7);
  for (int round = 0; round < 20'000; ++round) {
    std::string file = good;
    for (int edits = 1 + static_cast<int>(random() % 4); edits > 0; --edits) {
      const size_t at = random() % 260;
      if (random() % 3 == 0) {
        file.erase(at, 1 + random() % 3);
      } else {
        file[at] = static_cast<char>(random());
      }
    }
    const auto tensors = parse_safetensors(bytes_of(file));
    if (!tensors) {
      EXPECT_EQ(tensors.error().message.find('\n'), std::string::npos);
      continue;
    }
    for (const auto& tensor : *tensors) {
      ASSERT_GE(tensor.begin, 8);
      ASSERT_LE(tensor.end, static_cast<int64_t>(file.size()));
    }
  }
}

}  // namespace
}  // namespace atom
