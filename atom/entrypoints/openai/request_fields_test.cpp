// The validator, row by row of its own table: field x route x {missing, null, wrong type, both ends
// of the range and beyond, huge}. A new row is tested without a line here.
#include "atom/entrypoints/openai/request_fields.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace atom::openai {
namespace {
namespace json = boost::json;

const RequestLimits kLimits{.vocab_size = 100, .max_model_len = 512};

// The smallest good request of a route, with what single fields need around them.
json::object base(Endpoint endpoint, std::string_view field) {
  json::object body;
  if (endpoint == kChat) {
    body["messages"] = json::array{json::object{{"role", "user"}, {"content", "a"}}};
  } else {
    body["prompt"] = "a";
  }
  if (field == "top_logprobs") body["logprobs"] = true;
  if (field == "stream_options") body["stream"] = true;
  if (field == "best_of") body["n"] = 1;
  return body;
}

Result<ApiRequest> with(Endpoint endpoint, std::string_view field, const json::value& value) {
  json::object body = base(endpoint, field);
  body.insert_or_assign(json::string_view(field.data(), field.size()), value);
  return parse_request(endpoint, json::serialize(body), kLimits);
}

bool required(const FieldSpec& field) { return field.name == "messages" || field.name == "prompt"; }

void expect_refused(Endpoint endpoint, const FieldSpec& field, const json::value& value) {
  const Result<ApiRequest> result = with(endpoint, field.name, value);
  ASSERT_FALSE(result) << field.name << " = " << json::serialize(value);
  EXPECT_TRUE(result.error().param.starts_with(field.name))
      << field.name << ": " << result.error().param;
  EXPECT_LT(result.error().message.size(), 600U);
}

void expect_accepted(Endpoint endpoint, const FieldSpec& field, const json::value& value) {
  const Result<ApiRequest> result = with(endpoint, field.name, value);
  EXPECT_TRUE(result) << field.name << " = " << json::serialize(value) << ": "
                      << (result ? "" : result.error().message);
}

template <class Check>
void for_every_row(Check check) {
  for (const FieldSpec& field : request_fields()) {
    for (const Endpoint endpoint : {kChat, kCompletions}) {
      if ((field.endpoints & endpoint) == 0) continue;
      if (endpoint == kChat && field.name == "prompt") continue;  // only read without messages
      check(endpoint, field);
    }
  }
}

TEST(RequestFields, NullMeansDefault) {
  for_every_row([](Endpoint endpoint, const FieldSpec& field) {
    if (required(field)) {
      EXPECT_FALSE(with(endpoint, field.name, nullptr));
      return;
    }
    const Result<ApiRequest> missing =
        parse_request(endpoint, json::serialize(base(endpoint, field.name)), kLimits);
    const Result<ApiRequest> null = with(endpoint, field.name, nullptr);
    ASSERT_TRUE(missing && null) << field.name;
    EXPECT_EQ(missing->sampling, null->sampling) << field.name;
    EXPECT_EQ(missing->max_tokens, null->max_tokens) << field.name;
  });
}

TEST(RequestFields, WrongTypesAreRefused) {
  const std::pair<FieldKind, json::value> samples[] = {
      {FieldKind::kBool, true},
      {FieldKind::kInteger, 1},
      {FieldKind::kString, "x"},
      {FieldKind::kArray, json::parse("[[]]")},  // in braces it would be a copy to some compilers
      {FieldKind::kObject, json::object{{"x", json::array{}}}}};
  for_every_row([&](Endpoint endpoint, const FieldSpec& field) {
    if (field.kind == FieldKind::kOther) return;
    for (const auto& [kind, value] : samples) {
      const bool fits =
          kind == field.kind || (kind == FieldKind::kInteger && field.kind == FieldKind::kNumber);
      if (!fits || field.kind == FieldKind::kRefused) expect_refused(endpoint, field, value);
    }
  });
}

TEST(RequestFields, RangesHoldAtBothEnds) {
  for_every_row([](Endpoint endpoint, const FieldSpec& field) {
    if (field.kind != FieldKind::kInteger && field.kind != FieldKind::kNumber) return;
    const double max =
        field.max_from != nullptr ? static_cast<double>(kLimits.*field.max_from) : field.max;
    for (const double huge : {1e30, -1e30, 1e300}) expect_refused(endpoint, field, huge);
    if (field.name == "seed") return;  // every int64: below
    const bool lengths = field.name == "max_tokens" || field.name == "max_completion_tokens" ||
                         field.name == "min_tokens";
    expect_refused(endpoint, field, json::value(static_cast<int64_t>(field.min) - 1));
    expect_refused(endpoint, field, json::value(static_cast<int64_t>(max) + 1));
    if (!lengths) expect_accepted(endpoint, field, json::value(static_cast<int64_t>(max)));
    if (field.above_min) {
      expect_refused(endpoint, field, field.min);
    } else if (!lengths) {
      expect_accepted(endpoint, field, json::value(static_cast<int64_t>(field.min)));
    }
    if (field.kind == FieldKind::kInteger) expect_refused(endpoint, field, 1.5);
    if (field.kind == FieldKind::kInteger) expect_accepted(endpoint, field, 1.0);
  });
}

TEST(RequestFields, EverySeedIsExact) {
  for (const int64_t seed :
       {INT64_MIN, int64_t{-1}, int64_t{0}, (int64_t{1} << 53) + 1, INT64_MAX}) {
    const Result<ApiRequest> request = with(kChat, "seed", seed);
    ASSERT_TRUE(request);
    EXPECT_EQ(request->sampling.seed, seed);
  }
  EXPECT_EQ(with(kChat, "seed", uint64_t{1} << 63).error().message,
            "seed must be an integer of 64 bits");
}

TEST(RequestFields, LengthsAgreeWithEachOther) {
  EXPECT_EQ(with(kChat, "max_tokens", 512)->max_tokens, 512);
  EXPECT_NE(
      with(kChat, "max_tokens", 513).error().message.find("maximum context length is 512 tokens"),
      std::string::npos);
  EXPECT_FALSE(with(kChat, "max_tokens", 0));
  EXPECT_TRUE(parse_request(kCompletions, R"({"prompt":"a","max_tokens":0,"echo":true})", kLimits));
  EXPECT_FALSE(
      parse_request(kCompletions, R"({"prompt":"a","max_tokens":3,"min_tokens":4})", kLimits));
  EXPECT_FALSE(parse_request(kCompletions, R"({"prompt":"a","min_tokens":257})", kLimits));
  EXPECT_EQ(
      parse_request(
          kChat,
          R"({"messages":[{"role":"user","content":"a"}],"max_tokens":9,"max_completion_tokens":5})",
          kLimits)
          ->max_tokens,
      5);
}

TEST(RequestFields, PromptForms) {
  const auto count = [](const char* prompt) -> int64_t {
    const auto request =
        parse_request(kCompletions, std::string(R"({"prompt":)") + prompt + "}", kLimits);
    return request ? static_cast<int64_t>(request->prompts.size()) : -1;
  };
  EXPECT_EQ(count(R"("a")"), 1);
  EXPECT_EQ(count(R"(["a","b"])"), 2);
  EXPECT_EQ(count("[1,2,3]"), 1);
  EXPECT_EQ(count("[[1],[2,3]]"), 2);
  for (const char* bad : {"[]", "5", "{}", "[true]", R"(["a",1])", R"([1,"a"])", "[[1],2]",
                          R"([["a"]])", "[100]", "[-1]", "[1.5]", "[[1e400]]"}) {
    EXPECT_EQ(count(bad), -1) << bad;
  }
}

TEST(RequestFields, TinyTemperatureIsGreedy) {
  EXPECT_TRUE(with(kChat, "temperature", 1e-30)->sampling.greedy());
  EXPECT_FALSE(with(kChat, "temperature", 0.01)->sampling.greedy());
  EXPECT_GT(with(kChat, "top_p", 1e-300)->sampling.top_p, 0.0F);
}

TEST(RequestFields, BiasIsClampedAndChecked) {
  const auto request = with(kChat, "logit_bias", json::object{{"3", 1000}, {"99", -0.5}});
  ASSERT_TRUE(request);
  EXPECT_EQ(request->sampling.logit_bias,
            (std::vector<std::pair<int32_t, float>>{{3, 100.0F}, {99, -0.5F}}));
  for (const char* key : {"100", "-1", "", "1.0", " 1", "99999999999"}) {
    EXPECT_FALSE(with(kChat, "logit_bias", json::object{{key, 1}})) << key;
  }
}

}  // namespace
}  // namespace atom::openai
