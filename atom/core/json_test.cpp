#include "atom/core/json.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <string>

namespace atom {
namespace {

TEST(ParseJson, KeepsOrderAndExactNumbers) {
  auto value = parse_json(R"({"b": 9007199254740993, "a": 0.1, "é": "\u00e9"})");
  ASSERT_TRUE(value.has_value()) << value.error().message;
  EXPECT_EQ(value->as_object().begin()->key(), "b");
  EXPECT_EQ(value->at("b").as_int64(), 9007199254740993);
  EXPECT_DOUBLE_EQ(value->at("a").as_double(), 0.1);
  EXPECT_EQ(value->at("é").as_string(), "é");
}

TEST(ParseJson, NamesWhatIsWrong) {
  EXPECT_NE(parse_json("{\"a\":1,\"a\":2}").error().message.find("duplicate key \"a\""),
            std::string::npos);
  EXPECT_NE(parse_json("{\"a\":1,\"\\u0061\":2}").error().message.find("duplicate"),
            std::string::npos);
  EXPECT_NE(parse_json("{\"\":1,\"\":2}").error().message.find("duplicate key \"\""),
            std::string::npos);
  EXPECT_NE(parse_json("{} {}").error().message.find("trailing"), std::string::npos);
  EXPECT_NE(parse_json(std::string(100, '[')).error().message.find("deeper than 64"),
            std::string::npos);
  EXPECT_FALSE(parse_json("").has_value());
  EXPECT_FALSE(parse_json("{\"a\":").has_value());
  EXPECT_FALSE(parse_json("\"\xff\"").has_value());
  EXPECT_FALSE(parse_json("NaN").has_value());
  const std::string key = parse_json("{\"\\n\\u001b\":1,\"\\n\\u001b\":2}").error().message;
  EXPECT_NE(key.find("duplicate key \"\\x0a\\x1b\""), std::string::npos) << key;
}

TEST(ParseJson, SameKeyInDifferentObjectsIsFine) {
  EXPECT_TRUE(parse_json(R"([{"a":{"a":1}},{"a":2}])").has_value());
}

}  // namespace
}  // namespace atom
