// The parts of the serving benchmark that need no server: generators, datasets, streams,
// statistics, comparison.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>

#include "atom/benchmark/compare.h"
#include "atom/benchmark/metrics.h"
#include "atom/benchmark/pytorch_records.h"
#include "atom/benchmark/result_file.h"
#include "tests/support/byte_tokenizer.h"

namespace atom {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Expected values: numpy 2.4 with np.random.seed(…), CPython 3.12 with random.seed(…).
TEST(PythonRandom, DrawsWhatNumpyAndPythonDraw) {
  EXPECT_THAT(NumpyRandom(0).randint(0, 10, 5), ElementsAre(5, 0, 3, 3, 7));
  EXPECT_THAT(NumpyRandom(3).permutation(10), ElementsAre(5, 4, 1, 2, 9, 6, 7, 0, 3, 8));
  NumpyRandom gaps(7);
  EXPECT_DOUBLE_EQ(gaps.gamma(1.0, 0.5), 0.039688454760722254);
  for (int i = 0; i < 2; ++i) gaps.gamma(1.0, 0.5);
  EXPECT_DOUBLE_EQ(gaps.gamma(0.5, 2.0), 1.2676640200616947);
  for (int i = 0; i < 2; ++i) gaps.gamma(0.5, 2.0);
  EXPECT_DOUBLE_EQ(gaps.gamma(2.5, 2.0), 13.451228463202092);
  PythonRandom python(0);
  std::vector<int> values = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  python.shuffle(values);
  EXPECT_THAT(values, ElementsAre(7, 8, 1, 5, 3, 4, 2, 0, 9, 6));
  EXPECT_THAT(python.choices(100, 5), ElementsAre(35, 89, 21, 13, 13));
}

TEST(PythonRandom, OneValueIsNotDrawn) {
  NumpyRandom a(1), b(1);
  EXPECT_EQ(a.randint(4, 5), 4);
  EXPECT_EQ(a.randint(0, 1000), b.randint(0, 1000));
}

class Datasets : public ::testing::Test {
 protected:
  Result<std::vector<SampleRequest>> sample(const DatasetOptions& options) {
    return sample_dataset(options, {.tokenizer = tokenizer_.get(),
                                    .render = [](std::string_view text) -> Result<std::string> {
                                      return "<user>" + std::string(text) + "<assistant>";
                                    },
                                    .random = &random_});
  }
  std::string file(const std::string& name, const std::string& text) {
    const auto path = std::filesystem::path(::testing::TempDir()) / name;
    std::ofstream(path) << text;
    return path.string();
  }
  std::shared_ptr<const Tokenizer> tokenizer_ = testing_support::make_byte_tokenizer();
  NumpyRandom random_{0};
};

TEST_F(Datasets, RandomPromptsKeepTheirLengthsAndPrefix) {
  const auto samples = sample({.name = "random",
                               .num_prompts = 200,
                               .random_input_len = 40,
                               .random_output_len = 10,
                               .random_range_ratio = 0.5,
                               .random_prefix_len = 3});
  ASSERT_TRUE(samples) << samples.error().message;
  ASSERT_EQ(samples->size(), 200);
  int64_t shortest = 1000, longest = 0;
  for (const SampleRequest& s : *samples) {
    EXPECT_LE(s.prompt_len, 43);
    shortest = std::min(shortest, s.output_len);
    longest = std::max(longest, s.output_len);
  }
  EXPECT_EQ(shortest, 5);
  EXPECT_EQ(longest, 10);
}

TEST_F(Datasets, ConversationsAreShuffledAndPruned) {
  std::string text = "[";
  for (int i = 0; i < 20; ++i) {
    text += str_format(
        R"({}{{"conversations": [{{"from": "human", "value": "question {}"}}, {{"from": "gpt", "value": "answer {}"}}]}})",
        i > 0 ? "," : "", i, i);
  }
  text +=
      R"(,{"conversations": [{"value": "abc"}, {"value": "too short"}]}, {"conversations": []}])";
  const DatasetOptions options{
      .name = "sharegpt", .path = file("sharegpt.json", text), .num_prompts = 100};
  const auto samples = sample(options);
  ASSERT_TRUE(samples) << samples.error().message;
  EXPECT_EQ(samples->size(), 20);
  EXPECT_NE((*samples)[0].prompt, "question 0");
  EXPECT_EQ((*sample(options))[0].prompt, (*samples)[0].prompt);
  DatasetOptions fixed = options;
  fixed.sharegpt_output_len = 77;
  EXPECT_EQ((*sample(fixed))[3].output_len, 77);
}

TEST_F(Datasets, TablesAndPoems) {
  const std::string csv =
      "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
      "1,GPT-4,30,40,70,x\n2,ChatGPT,5,6,11,x\n3,GPT-4,9,0,9,x\n4,GPT-4,8,12,20,x\n";
  const auto rows = sample({.name = "burstgpt", .path = file("burst.csv", csv), .num_prompts = 2});
  ASSERT_TRUE(rows) << rows.error().message;
  EXPECT_EQ((*rows)[0].output_len + (*rows)[1].output_len, 52);
  std::string poem;
  for (int i = 0; i < 30; ++i) poem += str_format("line {:02} of the poem\n", i);
  const auto sonnets = sample({.name = "sonnet", .path = file("poem.txt", poem), .num_prompts = 4});
  ASSERT_TRUE(sonnets) << sonnets.error().message;
  for (const SampleRequest& s : *sonnets) {
    EXPECT_NEAR(static_cast<double>(s.prompt_len), 550, 22);
    EXPECT_EQ(s.prompt.substr(0, 180), (*sonnets)[0].prompt.substr(0, 180));
    EXPECT_EQ(s.output_len, 150);
  }
}

TEST_F(Datasets, WrongFilesAreNamed) {
  const auto message = [&](const DatasetOptions& options) {
    const auto samples = sample(options);
    return samples ? "sampled" : samples.error().message;
  };
  EXPECT_THAT(message({.name = "sharegpt"}), HasSubstr("--dataset-path"));
  EXPECT_THAT(message({.name = "sharegpt", .path = "/nowhere/x.json"}), HasSubstr("/nowhere"));
  EXPECT_THAT(message({.name = "hf", .path = file("bad.jsonl", "{\"a\": 1}\n{oops\n")}),
              HasSubstr("bad.jsonl:2:"));
  EXPECT_THAT(message({.name = "burstgpt", .path = file("bad.csv", "a,b\n1,2\n")}),
              HasSubstr("Request tokens"));
  EXPECT_THAT(message({.name = "sharegpt", .path = file("empty.json", "[]")}),
              HasSubstr("no usable request"));
  EXPECT_THAT(message({.name = "sonnet", .path = file("p.txt", "a\n"), .sonnet_prefix_len = 10}),
              HasSubstr("--sonnet-prefix-len"));
}

TEST(EventSplitter, DoesNotDependOnHowBytesAreSplit) {
  const std::string stream =
      "data: {\"a\": 1}\r\n\r\n: comment\n\ndata:two\n\nevent: x\ndata: [DONE]\n\n";
  for (size_t step = 1; step <= stream.size(); ++step) {
    EventSplitter splitter;
    std::vector<std::string> found;
    for (size_t at = 0; at < stream.size(); at += step) {
      splitter.push(std::string_view(stream).substr(at, step));
      while (const auto event = splitter.next()) found.emplace_back(*event);
    }
    EXPECT_THAT(found, ElementsAre("{\"a\": 1}", "two", "[DONE]")) << step;
  }
}

TEST(Backends, BodiesAndAnswers) {
  const BackendRequest request{
      .model = "m", .prompt = "say \"hi\"", .output_len = 7, .ignore_eos = true};
  const Backend& vllm = *find_backend("vllm");
  EXPECT_EQ(boost::json::parse(vllm.body(request)), boost::json::parse(R"({"model": "m",
      "prompt": "say \"hi\"", "temperature": 0.0, "best_of": 1, "max_tokens": 7, "logprobs": null,
      "stream": true, "stream_options": {"include_usage": true}, "ignore_eos": true})"));
  EXPECT_EQ(vllm.read(R"({"choices": [{"text": "ab"}]})")->text, "ab");
  EXPECT_EQ(vllm.read(R"({"choices": [], "usage": {"completion_tokens": 9}})")->completion_tokens,
            9);
  EXPECT_TRUE(vllm.read("[DONE]")->done);
  EXPECT_EQ(vllm.read(R"({"error": {"message": "broken"}})")->error, "broken");
  EXPECT_FALSE(vllm.read("<html>"));
  const Backend& chat = *find_backend("openai-chat");
  EXPECT_EQ(chat.read(R"({"choices": [{"delta": {"content": "x"}}]})")->text, "x");
  EXPECT_TRUE(chat.read(R"({"choices": [{"delta": {"role": "assistant"}}]})")->has_choice);
  EXPECT_TRUE(
      find_backend("tgi")->read(R"({"token": {"text": "t"}, "generated_text": "t"})")->done);
  EXPECT_EQ(find_backend("tensorrt-llm")->read(R"({"text_output": "o"})")->text, "o");
  EXPECT_EQ(find_backend("deepspeed-mii")->read(R"({"text": ["whole"]})")->text, "whole");
  EXPECT_EQ(backend_names().size(), 9);
}

LoadResult two_requests() {
  LoadResult load{.duration = 2.0, .mean_concurrency = 1.5};
  load.requests = {{.success = true,
                    .finished = true,
                    .prompt_len = 10,
                    .output_len = 5,
                    .ttft = 0.1,
                    .latency = 0.5,
                    .itl = {0.1, 0.1, 0.1, 0.1}},
                   {.success = true,
                    .finished = true,
                    .prompt_len = 20,
                    .output_len = 1,
                    .ttft = 0.3,
                    .latency = 0.3},
                   {.finished = true, .error = "HTTP 500"},
                   {}};
  return load;
}

TEST(Metrics, FollowTheirDefinitions) {
  const MetricsOptions options{.metrics = {"ttft", "tpot", "itl", "e2el"},
                               .percentiles = {50, 99.9},
                               .goodput = {{"ttft", 200}}};
  const LoadResult load = two_requests();
  const BenchmarkMetrics metrics = compute_metrics(load, options, nullptr);
  EXPECT_EQ(metrics.completed, 2);
  EXPECT_EQ(metrics.failed, 1);
  EXPECT_EQ(metrics.unfinished, 1);
  EXPECT_DOUBLE_EQ(metrics.output_throughput, 3.0);
  EXPECT_DOUBLE_EQ(metrics.total_token_throughput, 18.0);
  EXPECT_DOUBLE_EQ(metrics.request_goodput, 0.5);
  EXPECT_NEAR(metrics.latency.at("tpot").mean, 100, 1e-9);  // a one-token answer has none
  EXPECT_NEAR(metrics.latency.at("ttft").percentiles[0], 200, 1e-9);
  EXPECT_NEAR(metrics.latency.at("ttft").std, 100, 1e-9);
  const std::string table = metrics_table(metrics, load, options);
  EXPECT_THAT(table, HasSubstr("============ Serving Benchmark Result ============\n"
                               "Successful requests:                     2         \n"));
  EXPECT_THAT(table, HasSubstr("---------------Time to First Token----------------\n"));
  EXPECT_THAT(table, HasSubstr("P99.9 TTFT (ms):"));
  boost::json::object out;
  append_metrics(metrics, load, options, true, out);
  for (const char* key :
       {"duration", "completed", "total_input_tokens", "request_goodput:", "total_token_throughput",
        "p99.9_e2el_ms", "std_itl_ms", "itls", "errors"})
    EXPECT_TRUE(out.contains(key)) << key;
  EXPECT_THAT(failure_reasons(load, 5), ElementsAre("1 x HTTP 500"));
}

std::optional<SpeculationCounters> counters(const char* text) {
  return read_speculation(boost::json::parse(text));
}

TEST(Speculation, IsWhatTheServerCountedInBetween) {
  for (const char* none : {"null", "[]", "{}", R"({"enabled": false})", R"({"enabled": "yes"})"})
    EXPECT_FALSE(counters(none)) << none;
  const auto before = counters(R"({"enabled": true, "total_drafts": 10, "total_draft_tokens": 30,
      "total_accepted_tokens": 6, "distribution": {"0": 7, "2": 3}})");
  const auto after = counters(R"({"enabled": true, "total_drafts": 14, "total_draft_tokens": 42,
      "total_accepted_tokens": 12, "distribution": {"0": 9, "1": 1, "2": 4, "3": 1}})");
  ASSERT_TRUE(before && after);
  EXPECT_FALSE(speculation_between(*after, *after));   // nothing was drafted
  EXPECT_FALSE(speculation_between(*after, *before));  // the server started anew
  const auto stats = speculation_between(*before, *after);
  ASSERT_TRUE(stats);
  EXPECT_DOUBLE_EQ(stats->acceptance_rate, 6 / 12.0);
  EXPECT_DOUBLE_EQ(stats->acceptance_length, 1 + 6 / 4.0);
  EXPECT_DOUBLE_EQ(stats->tokens_per_forward, 1 + 6 / 5.0);
  EXPECT_THAT(stats->per_position, ElementsAre(3 / 4.0, 2 / 4.0, 1 / 4.0));
  BenchmarkMetrics metrics = compute_metrics(two_requests(), {}, nullptr);
  metrics.speculation = stats;
  EXPECT_THAT(metrics_table(metrics, two_requests(), {}),
              HasSubstr("---------------Speculative Decoding---------------\n"
                        "Acceptance rate (%):                     50.00     \n"
                        "Acceptance length:                       2.50      \n"
                        "Drafts:                                  4         \n"
                        "Draft tokens:                            12        \n"
                        "Accepted tokens:                         6         \n"
                        "Per-position acceptance (%):\n"
                        "  Position 0:                            75.00     \n"));
  boost::json::object out;
  append_metrics(metrics, two_requests(), {}, false, out);
  EXPECT_EQ(out["spec_decode_acceptance_rate"], 50.0);
  EXPECT_EQ(out["spec_decode_per_position_acceptance_rates"].as_array().size(), 3);
  EXPECT_EQ(out["acceptance_rate"], 0.5);
}

TEST(Speculation, AnOlderServerTellsItsAveragesAlone) {
  const auto told =
      counters(R"({"enabled": true, "average_tokens_per_forward": 1.7, "acceptance_rate": 0.7})");
  ASSERT_TRUE(told);
  const auto stats = speculation_between(*told, *told);
  ASSERT_TRUE(stats);
  EXPECT_DOUBLE_EQ(stats->acceptance_length, 1.7);
  BenchmarkMetrics metrics = compute_metrics(two_requests(), {}, nullptr);
  metrics.speculation = stats;
  EXPECT_THAT(metrics_table(metrics, two_requests(), {}), Not(HasSubstr("Drafts:")));
  boost::json::object out;
  append_metrics(metrics, two_requests(), {}, false, out);
  EXPECT_FALSE(out.contains("spec_decode_num_drafts"));
}

TEST(PytorchRecords, OneForEachMetric) {
  const auto folder =
      std::filesystem::temp_directory_path() / ("pytorch_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  const boost::json::object result{{"backend", "vllm"},   {"mean_ttft_ms", 1.5},
                                   {"p99_itl_ms", 2.0},   {"p90_itl_ms", 1.0},
                                   {"ttfts", {0.1, 0.2}}, {"tensor_parallel_size", "4"}};
  ASSERT_TRUE(write_serving_pytorch_records(
      folder / "r.x.json", {.model = "m", .arguments = R"({"seed": 1, "api_key": "k"})"}, result));
  std::string text;
  std::getline(std::ifstream(folder / "r.x.pytorch.json"), text);
  EXPECT_EQ(boost::json::parse(text).as_array().at(0), boost::json::parse(R"({
      "benchmark": {"name": "ATOM benchmark",
                    "extra_info": {"args": {"seed": 1, "tensor_parallel_size": "4"}}},
      "model": {"name": "m"},
      "metric": {"name": "mean_ttft_ms", "benchmark_values": [1.5],
                 "extra_info": {"backend": "vllm", "p90_itl_ms": 1.0, "tensor_parallel_size": "4"}}})"));
  EXPECT_EQ(boost::json::parse(text).as_array().size(), 2);
  std::filesystem::remove_all(folder);
}

TEST(Metrics, PercentilesAsNumpy) {
  EXPECT_NEAR(percentile_of({3, 1, 2, 10}, 99), 9.79, 1e-12);
  EXPECT_EQ(percentile_of({5}, 99), 5);
  EXPECT_EQ(percentile_of({}, 99), 0);
}

TEST(Compare, TableWarningsAndPage) {
  const auto dir = std::filesystem::path(::testing::TempDir()) / "compare_test";
  std::filesystem::remove_all(dir);
  std::filesystem::create_directories(dir);
  const auto write = [&](const std::string& name, double value, const std::string& gpu) {
    std::ofstream(dir / name) << str_format(
        R"({{"output_throughput": {}, "server": {{"device": "{}"}}}})", value, gpu);
  };
  write("a_conc4.json", 100, "H200");
  write("b_conc4.json", 150, "MI300X</script>");
  write("a_conc16.json", 300, "H200");
  write("b_conc16.json", 330, "H200");
  write("a_conc32.json", 1, "H200");
  const auto a = load_results((dir / "a_").string());
  const auto b = load_results((dir / "b_").string());
  ASSERT_TRUE(a && b);
  EXPECT_THAT(common_configs(*a, *b), ElementsAre("conc4", "conc16"));
  EXPECT_THAT(comparison_table(*a, *b, {"output_throughput"}),
              HasSubstr("conc4                                    100.0      150.0  150.0%\n"));
  const auto warnings = comparison_warnings(*a, *b);
  EXPECT_THAT(warnings, ElementsAre(HasSubstr("server.device differs (conc4)"),
                                    HasSubstr("conc32: only in A")));
  const std::string page = comparison_page(*a, *b, {"output_throughput"});
  EXPECT_THAT(page, HasSubstr("\\u003c/script>"));
  EXPECT_THAT(page, Not(HasSubstr("MI300X</script>")));
  EXPECT_FALSE(load_results((dir / "none_").string()));
}

TEST(ResultFile, IsThereWholeOrNotAtAllAndLeavesDevicesAlone) {
  const auto folder =
      std::filesystem::temp_directory_path() / ("result_file_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  ASSERT_TRUE(write_result_file(folder / "r.json", "{}"));
  std::filesystem::create_symlink(folder / "r.json", folder / "link.json");
  ASSERT_TRUE(write_result_file(folder / "link.json", "[1]"));
  std::string text;
  std::getline(std::ifstream(folder / "r.json"), text);
  EXPECT_EQ(text, "[1]");
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link.json"));
  // A device that is always full, by a name of its own: nothing may be renamed over it.
  std::filesystem::create_symlink("/dev/full", folder / "full");
  const Status full = write_result_file(folder / "full", "{}");
  ASSERT_FALSE(full);
  EXPECT_NE(full.error().message.find("No space left"), std::string::npos) << full.error().message;
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/full"));
  const Status nowhere = write_result_file(folder / "nowhere" / "r.json", "{}");
  ASSERT_FALSE(nowhere);
  EXPECT_NE(nowhere.error().message.find("No such file"), std::string::npos);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 3);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace atom
