// The flag table: every engine flag in both spellings and forms, typed values, lists, suggestions,
// help.
#include "atom/entrypoints/cli/flag_set.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "atom/core/log.h"
#include "atom/entrypoints/cli/engine_flags.h"

namespace atom::cli {
namespace {

struct Parsed {
  EngineArgs args;
  Status status;
  bool help = false;
};

Parsed parse(const std::vector<std::string>& arguments) {
  Parsed out;
  FlagSet flags("atom test [FLAGS]", "A test.");
  add_engine_flags(flags, out.args);
  flags.positional("--model");
  out.status = flags.parse(arguments);
  out.help = flags.help_requested();
  return out;
}

std::string message(const std::vector<std::string>& arguments) {
  const Parsed parsed = parse(arguments);
  return parsed.status ? "" : parsed.status.error().message;
}

std::string spelled(std::string name, char from, char to) {
  std::replace(name.begin() + 2, name.end(), from, to);
  return name;
}

struct Row {
  std::string name;
  std::string value;  // empty: a switch
  std::function<bool(const EngineArgs&)> holds;
};

const std::vector<Row>& rows() {
  static const std::vector<Row> table = {
      {"--model", "dir/x", [](const EngineArgs& a) { return a.model == "dir/x"; }},
      {"--trust-remote-code", "", [](const EngineArgs& a) { return a.trust_remote_code; }},
      {"--tensor-parallel-size", "8",
       [](const EngineArgs& a) { return a.tensor_parallel_size == 8; }},
      {"--data-parallel-size", "2", [](const EngineArgs& a) { return a.data_parallel_size == 2; }},
      {"--enforce-eager", "", [](const EngineArgs& a) { return a.enforce_eager; }},
      {"--deterministic", "", [](const EngineArgs& a) { return a.deterministic; }},
      {"--enable-prefix-caching", "", [](const EngineArgs& a) { return a.enable_prefix_caching; }},
      {"--no-enable-prefix-caching", "",
       [](const EngineArgs& a) { return !a.enable_prefix_caching; }},
      {"--port", "9000", [](const EngineArgs& a) { return a.port == 9000; }},
      {"--kv-cache-dtype", "fp8", [](const EngineArgs& a) { return a.kv_cache_dtype == "fp8"; }},
      {"--block-size", "32", [](const EngineArgs& a) { return a.block_size == 32; }},
      {"--max-model-len", "4096", [](const EngineArgs& a) { return a.max_model_len == 4096; }},
      {"--max-num-batched-tokens", "99",
       [](const EngineArgs& a) { return a.max_num_batched_tokens == 99; }},
      {"--max-num-seqs", "7", [](const EngineArgs& a) { return a.max_num_seqs == 7; }},
      {"--gpu-memory-utilization", "0.5",
       [](const EngineArgs& a) { return a.gpu_memory_utilization == 0.5; }},
      {"--scheduler-delay-factor", "0.25",
       [](const EngineArgs& a) { return a.scheduler_delay_factor == 0.25; }},
      {"--cudagraph-capture-sizes", "[1,2]",
       [](const EngineArgs& a) {
         return a.cudagraph_capture_sizes == std::vector<int>{1, 2};
       }},
      {"--level", "0", [](const EngineArgs& a) { return a.level == 0; }},
      {"--load-dummy", "zero", [](const EngineArgs& a) { return a.load_dummy == "zero"; }},
      {"--enable-expert-parallel", "",
       [](const EngineArgs& a) { return a.enable_expert_parallel; }},
      {"--enable-dp-attention", "", [](const EngineArgs& a) { return a.enable_dp_attention; }},
      {"--torch-profiler-dir", "t",
       [](const EngineArgs& a) { return a.torch_profiler_dir == "t"; }},
      {"--method", "mtp", [](const EngineArgs& a) { return a.method == "mtp"; }},
      {"--prompt-lookup-min", "1", [](const EngineArgs& a) { return a.prompt_lookup_min == 1; }},
      {"--prompt-lookup-max", "9", [](const EngineArgs& a) { return a.prompt_lookup_max == 9; }},
      {"--speculative-config", "{}",
       [](const EngineArgs& a) { return a.speculative_config == "{}"; }},
      {"--num-speculative-tokens", "3",
       [](const EngineArgs& a) { return a.num_speculative_tokens == 3; }},
      {"--seed", "-9223372036854775808", [](const EngineArgs& a) { return a.seed == INT64_MIN; }},
      {"--device", "cpu", [](const EngineArgs& a) { return a.device == "cpu"; }},
      {"--quantization", "fp8", [](const EngineArgs& a) { return a.quantization == "fp8"; }},
      {"--dtype", "float32", [](const EngineArgs& a) { return a.dtype == "float32"; }},
      {"--threads", "2", [](const EngineArgs& a) { return a.threads == 2; }},
      {"--kv-cache-memory-gb", "1.5",
       [](const EngineArgs& a) { return a.kv_cache_memory_gb == 1.5; }},
  };
  return table;
}

TEST(EngineFlags, EveryFlagInBothSpellingsAndForms) {
  for (const Row& row : rows()) {
    for (const std::string& name : {spelled(row.name, '_', '-'), spelled(row.name, '-', '_')}) {
      std::vector<std::vector<std::string>> forms = {{name}};
      if (!row.value.empty()) forms = {{name, row.value}, {name + "=" + row.value}};
      for (const auto& form : forms) {
        const Parsed parsed = parse(form);
        ASSERT_TRUE(parsed.status) << parsed.status.error().message;
        EXPECT_TRUE(row.holds(parsed.args)) << name;
      }
    }
  }
}

TEST(EngineFlags, TheTestTableCoversTheHelp) {
  FlagSet flags("", "");
  EngineArgs args;
  add_engine_flags(flags, args);
  std::istringstream lines(flags.help());
  int flags_in_help = 0;
  for (std::string line; std::getline(lines, line);) {
    flags_in_help += line.starts_with("  -") ? 1 : 0;
  }
  EXPECT_EQ(flags_in_help + 1, static_cast<int>(rows().size()))
      << "--no-enable-... has no row of its own";
}

TEST(EngineFlags, WrongTypesNameFlagValueAndAllowed) {
  EXPECT_EQ(message({"--block-size", "x"}),
            "--block-size: x: not a whole number; allowed: a whole number");
  EXPECT_EQ(message({"--block-size=1.5"}),
            "--block-size: 1.5: not a whole number; allowed: a whole number");
  EXPECT_EQ(message({"--max-num-seqs", "99999999999999999999"}),
            "--max-num-seqs: 99999999999999999999: out of range; allowed: a whole number");
  EXPECT_EQ(message({"--gpu-memory-utilization", "nan"}),
            "--gpu-memory-utilization: nan: not a finite number; allowed: a number");
  EXPECT_EQ(message({"--kv_cache_dtype", "fp16"}),
            "--kv_cache_dtype: fp16: unknown value; allowed: bf16, fp8");
  EXPECT_EQ(message({"--enforce-eager=1"}), "--enforce-eager: takes no value");
  EXPECT_EQ(message({"--model", ""}), "--model: (empty): needs a value");
  EXPECT_EQ(message({"--model="}), "--model: (empty): needs a value");
  EXPECT_EQ(message({"--model"}), "--model: needs a value (MODEL)");
  EXPECT_EQ(message({"--model", "--port", "1"}), "--model: needs a value (MODEL), not --port");
  EXPECT_EQ(message({"--cudagraph-capture-sizes", "[1,x]"}).substr(0, 27),
            "--cudagraph-capture-sizes: ");
}

TEST(EngineFlags, HugeAndBinaryValuesStayOneShortLine) {
  EXPECT_LT(message({"--block-size", std::string(1 << 20, '7')}).size(), 200U);
  EXPECT_LT(message({std::string("--") + std::string(1 << 20, 'm')}).size(), 200U);
  EXPECT_EQ(message({"--level", "1\n2"}),
            "--level: 1\\x0a2: not a whole number; allowed: a whole number");
  EXPECT_NE(message({"--model", std::string("a\0b", 3)}), "");
}

TEST(EngineFlags, UnknownFlagsNameTheNearest) {
  const auto suggestion = [](const std::string& flag) {
    const std::string text = message({flag, "1"});
    const auto at = text.find("did you mean ");
    return at == std::string::npos ? "" : text.substr(at + 13, text.size() - at - 14);
  };
  EXPECT_EQ(suggestion("--modle"), "--model");
  EXPECT_EQ(suggestion("--max-model-length"), "--max-model-len");
  EXPECT_EQ(suggestion("--max_num_batch_tokens"), "--max-num-batched-tokens");
  EXPECT_EQ(suggestion("--tensor-paralel-size"), "--tensor-parallel-size");
  EXPECT_EQ(suggestion("--kv-cache-dtyp"), "--kv_cache_dtype");
  EXPECT_EQ(suggestion("--no-enable-prefix-cachin"), "--no-enable-prefix-caching");
  EXPECT_EQ(suggestion("--max-model"), "--max-model-len");
  EXPECT_EQ(suggestion("--qqqqqqqqqqqqq"), "");
  EXPECT_TRUE(message({"-x"}).starts_with("-x: unknown flag"));
}

TEST(EngineFlags, ShortNames) {
  EXPECT_EQ(parse({"-tp", "8", "-dp=2"}).args.tensor_parallel_size, 8);
  EXPECT_EQ(parse({"-tp", "8", "-dp=2"}).args.data_parallel_size, 2);
}

TEST(EngineFlags, LoadDummyTakesAnOptionalValue) {
  EXPECT_EQ(parse({"--load_dummy"}).args.load_dummy, "empty");
  EXPECT_EQ(parse({"--load_dummy", "--seed", "3"}).args.load_dummy, "empty");
  EXPECT_EQ(parse({"--load_dummy", "--seed", "3"}).args.seed, 3);
  EXPECT_EQ(parse({"--load-dummy", "xavier"}).args.load_dummy, "xavier");
  EXPECT_EQ(message({"--load_dummy", "xvaier"}),
            "--load_dummy: xvaier: unknown value; allowed: empty, zero, xavier");
}

TEST(EngineFlags, ListForms) {
  const std::vector<int> expected = {1, 2, 4};
  for (const std::vector<std::string>& form : std::vector<std::vector<std::string>>{
           {"[1,2,4]"}, {"1,2,4"}, {"[1, 2, 4]"}, {"1", "2", "4"}, {"[1,", "2,", "4]"}}) {
    std::vector<std::string> arguments = {"--cudagraph-capture-sizes"};
    arguments.insert(arguments.end(), form.begin(), form.end());
    arguments.insert(arguments.end(), {"--level", "1"});
    const Parsed parsed = parse(arguments);
    ASSERT_TRUE(parsed.status) << form[0] << ": " << parsed.status.error().message;
    EXPECT_EQ(parsed.args.cudagraph_capture_sizes, expected) << form[0];
    EXPECT_EQ(parsed.args.level, 1);
  }
  EXPECT_EQ(parse({"--cudagraph-capture-sizes=8"}).args.cudagraph_capture_sizes,
            std::vector<int>{8});
}

TEST(EngineFlags, TheLastOfARepeatedFlagCounts) {
  testing::internal::CaptureStderr();
  const Parsed parsed = parse({"--seed", "1", "--seed=2", "--cudagraph-capture-sizes", "1",
                               "--cudagraph_capture_sizes", "2"});
  const std::string log = testing::internal::GetCapturedStderr();
  ASSERT_TRUE(parsed.status);
  EXPECT_EQ(parsed.args.seed, 2);
  EXPECT_EQ(parsed.args.cudagraph_capture_sizes, std::vector<int>{2});
  EXPECT_NE(log.find("--seed: given more than once"), std::string::npos) << log;
  testing::internal::CaptureStderr();
  EXPECT_TRUE(
      parse({"--no-enable-prefix-caching", "--enable_prefix_caching"}).args.enable_prefix_caching);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("WARNING"), std::string::npos);
}

TEST(EngineFlags, PositionalModel) {
  EXPECT_EQ(parse({"some/model", "--level", "1"}).args.model, "some/model");
  EXPECT_EQ(parse({"--", "--odd-name"}).args.model, "--odd-name");
  EXPECT_EQ(message({"a", "b"}), "b: unexpected argument; --model is given already");
}

TEST(EngineFlags, HelpWinsOverEverythingElse) {
  EXPECT_TRUE(parse({"--nonsense", "--help"}).help);
  EXPECT_TRUE(parse({"-h"}).help);
}

TEST(FlagSet, RangesChoicesRepeatsAndEmptyValues) {
  FlagSet flags("", "");
  double fraction = 0.5;
  std::string text = "x";
  std::vector<std::string> many;
  flags.add({.name = "--fraction", .min = 0, .max = 1}, &fraction);
  flags.add({.name = "--text", .allow_empty = true}, &text);
  flags.add({.name = "--many"}, &many);
  EXPECT_EQ(flags.parse({"--fraction", "2"}).error().message,
            "--fraction: 2: out of range; allowed: a number from 0 to 1");
  EXPECT_EQ(flags.parse({"--fraction", "-1"}).error().param, "--fraction");
  EXPECT_TRUE(flags.parse({"--text", "", "--many", "a", "--many", "--b"}));
  EXPECT_EQ(text, "");
  EXPECT_EQ(many, (std::vector<std::string>{"a", "--b"}));
  EXPECT_TRUE(flags.given("--text"));
  EXPECT_EQ(flags.parse({"stray"}).error().message,
            "stray: unexpected argument; values follow their flag");
}

TEST(FlagSet, HelpFitsTheTerminal) {
  EngineArgs args;
  FlagSet flags("atom serve [MODEL] [FLAGS]", "Serves.");
  add_engine_flags(flags, args);
  const std::string help = flags.help();
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100U) << line;
  for (const char* part : {"[16384]", "[Qwen/Qwen3-0.6B]", "[on]", "TOKENS",
                           "-tp, --tensor-parallel-size", "[[1,2,4,8,16,32,48,64,128,256]]"}) {
    EXPECT_NE(help.find(part), std::string::npos) << part << "\n" << help;
  }
}

TEST(FlagSet, SettingsAreJson) {
  std::string text = "a \"b\"", nothing;
  std::optional<int64_t> not_given;
  std::vector<std::string> list = {"x", "y"};
  double ratio = 0.5;
  bool on = false;
  int count = 3;
  FlagSet flags("atom test [FLAGS]", "A test.");
  flags.add({.name = "--some_text"}, &text);
  flags.add({.name = "--nothing"}, &nothing);
  flags.add({.name = "--not-given"}, &not_given);
  flags.add({.name = "--list"}, &list);
  flags.add({.name = "--ratio"}, &ratio);
  flags.add({.name = "--count"}, &count);
  flags.add_on_off({.name = "--on"}, &on);
  ASSERT_TRUE(flags.parse({"--on", "--count=4"}));
  EXPECT_EQ(flags.settings(),
            "{\"some_text\": \"a \\\"b\\\"\", \"nothing\": null, \"not_given\": null, "
            "\"list\": [\"x\", \"y\"], \"ratio\": 0.5, \"count\": 4, \"on\": true}");
}

}  // namespace
}  // namespace atom::cli
