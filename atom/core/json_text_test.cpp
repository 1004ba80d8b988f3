#include "atom/core/json_text.h"

#include <gtest/gtest.h>

#include <bit>
#include <boost/json.hpp>
#include <charconv>
#include <cmath>
#include <limits>
#include <random>

#include "atom/core/json.h"

namespace atom {
namespace {

std::string number(double value) {
  std::string out;
  append_json_number(out, value);
  return out;
}

// What Python's json.dumps prints for each.
TEST(JsonText, NumbersAsPythonPrintsThem) {
  EXPECT_EQ(number(0.0), "0.0");
  EXPECT_EQ(number(-0.0), "-0.0");
  EXPECT_EQ(number(1.0), "1.0");
  EXPECT_EQ(number(77.05894003112607), "77.05894003112607");
  EXPECT_EQ(number(-0.1), "-0.1");
  EXPECT_EQ(number(0.0001), "0.0001");
  EXPECT_EQ(number(0.00001), "1e-05");
  EXPECT_EQ(number(1.5e-7), "1.5e-07");
  EXPECT_EQ(number(9999999999999998.0), "9999999999999998.0");
  EXPECT_EQ(number(1e16), "1e+16");
  EXPECT_EQ(number(1.7976931348623157e308), "1.7976931348623157e+308");
  EXPECT_EQ(number(5e-324), "5e-324");
  EXPECT_EQ(number(std::numeric_limits<double>::infinity()), "null");
  EXPECT_EQ(number(std::numeric_limits<double>::quiet_NaN()), "null");
}

TEST(JsonText, EveryNumberComesBack) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20000; ++i) {
    const double value = std::bit_cast<double>(random());
    if (!std::isfinite(value)) continue;
    const std::string text = number(value);
    double back = 0;
    std::from_chars(text.data(), text.data() + text.size(), back);
    ASSERT_EQ(back, value) << text;
  }
}

TEST(JsonText, StructureAndStrings) {
  const char* const text =
      R"({"a": [], "b": {}, "c": [1, -2, 18446744073709551615, 2.5, true, null], "d\n\"": "é\u0001/"})";
  const auto value = parse_json(text);
  ASSERT_TRUE(value);
  EXPECT_EQ(json_text(*value), text);
  EXPECT_EQ(*parse_json(json_text(*value)), *value);
}

}  // namespace
}  // namespace atom
