// What speculative decoding brings on the CPU: generated tokens per CPU second (user and system, of
// the whole process) with and without drafts, by number of sequences and length of drafts. Engines
// take turns within every round, and what is compared are rounds: the machine's mood passes.
// Greedy, EOS ignored; prompts are pieces of a text, with --copy each said once and begun again.
//   speculative_benchmark MODEL TEXT [--method mtp] [--lengths 1,2,3] [--batches 1,4,16,64]
//                         [--prompt 32] [--output 128] [--rounds 5] [--threads 1] [--fixed]
//                         [--copy]
// --fixed: drafts are always as long as they may be. Results: docs/benchmarks/speculative.md.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "atom/core/log.h"
#include "atom/model_engine/llm_engine.h"

namespace {

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Options {
  std::string model, text;
  atom::DraftMethod method = atom::DraftMethod::kMtp;
  std::vector<int> lengths = {1, 2, 3};
  std::vector<int> batches = {1, 4, 16, 64};
  int64_t prompt = 16;
  int64_t output = 256;
  int rounds = 5;
  int threads = 1;
  bool adaptive = true;
  bool copy = false;
};

std::vector<int> numbers(const std::string& list) {
  std::vector<int> result;
  std::stringstream stream(list);
  for (std::string one; std::getline(stream, one, ',');) {
    result.push_back(std::stoi(one));
  }
  return result;
}

bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--fixed" || flag == "--copy") {
      (flag == "--copy" ? options.copy : options.adaptive) = flag == "--copy";
      continue;
    }
    if (!flag.starts_with("--")) {
      (options.model.empty() ? options.model : options.text) = flag;
      continue;
    }
    if (++i == argc) {
      return false;
    }
    const std::string value = argv[i];
    if (flag == "--method")
      options.method = value == "mtp" ? atom::DraftMethod::kMtp : atom::DraftMethod::kNgram;
    else if (flag == "--lengths")
      options.lengths = numbers(value);
    else if (flag == "--batches")
      options.batches = numbers(value);
    else if (flag == "--prompt")
      options.prompt = std::stoll(value);
    else if (flag == "--output")
      options.output = std::stoll(value);
    else if (flag == "--rounds")
      options.rounds = std::stoi(value);
    else if (flag == "--threads")
      options.threads = std::stoi(value);
    else
      return false;
  }
  return !options.text.empty();
}

struct Contender {
  std::string name;
  std::unique_ptr<atom::LLMEngine> engine;
  std::vector<double> rates;  // generated tokens per CPU second, by round
  atom::DraftStats before;
};

std::unique_ptr<atom::LLMEngine> make_engine(const Options& options, int length) {
  auto config =
      atom::make_engine_config({.model = options.model,
                                .enable_prefix_caching = false,
                                .max_model_len = 2 * options.prompt + options.output + 8,
                                .max_num_seqs = *std::ranges::max_element(options.batches),
                                .device = "cpu",
                                .threads = options.threads,
                                .kv_cache_memory_gb = 0.5});
  if (!config) {
    std::fprintf(stderr, "%s\n", config.error().message.c_str());
    return nullptr;
  }
  if (length > 0) {
    config->speculative.method = options.method;
    config->speculative.num_tokens = length;
    config->speculative.adaptive = options.adaptive;
  }
  auto engine = atom::LLMEngine::create(*config);
  if (!engine) {
    std::fprintf(stderr, "%s\n", engine.error().message.c_str());
    return nullptr;
  }
  return std::move(*engine);
}

// Pieces of the text, spread over it; others in every round.
std::vector<std::vector<int32_t>> make_prompts(const Options& options,
                                               const std::vector<int32_t>& ids, int count,
                                               int round) {
  std::vector<std::vector<int32_t>> prompts;
  const auto length = static_cast<size_t>(options.prompt);
  const size_t room = ids.size() > length ? ids.size() - length : 1;
  for (int i = 0; i < count; ++i) {
    const double place = (i + std::fmod((round + 1) * 0.618, 1.0)) / count;
    const auto begin = static_cast<size_t>(static_cast<double>(room) * place);
    const auto piece = std::span(ids).subspan(begin).first(std::min(length, ids.size() - begin));
    std::vector<int32_t>& prompt = prompts.emplace_back(piece.begin(), piece.end());
    if (options.copy) {
      prompt.insert(prompt.end(), piece.begin(), piece.begin() + static_cast<long>(length / 8));
    }
  }
  return prompts;
}

bool run(Contender& contender, const Options& options,
         const std::vector<std::vector<int32_t>>& prompts, bool counts) {
  const double begin = cpu_seconds();
  const auto results = contender.engine->generate(
      prompts, {{.temperature = 0.0F, .max_tokens = options.output, .ignore_eos = true}});
  const double seconds = cpu_seconds() - begin;
  if (!results) {
    std::fprintf(stderr, "%s\n", results.error().message.c_str());
    return false;
  }
  if (counts) {
    contender.rates.push_back(
        static_cast<double>(static_cast<int64_t>(prompts.size()) * options.output) / seconds);
  }
  return true;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void print(int batch, const Contender& contender, const Contender& plain) {
  std::vector<double> ratios;
  for (size_t i = 0; i < plain.rates.size(); ++i) {
    ratios.push_back(contender.rates[i] / plain.rates[i]);
  }
  const atom::DraftStats now = contender.engine->stats().drafts;
  const auto drafted = now.num_draft_tokens - contender.before.num_draft_tokens;
  const auto accepted = now.num_accepted_tokens - contender.before.num_accepted_tokens;
  const auto forwards = now.num_forwards - contender.before.num_forwards;
  const double best = std::ranges::max(contender.rates);
  std::printf(
      "%5d  %-8s %10.1f %10.1f %8.3f %8.3f %9.3f %9.2f\n", batch, contender.name.c_str(),
      median(contender.rates), best, median(ratios), best / std::ranges::max(plain.rates),
      drafted == 0 ? 0.0 : static_cast<double>(accepted) / static_cast<double>(drafted),
      forwards == 0 ? 1.0 : 1.0 + static_cast<double>(accepted) / static_cast<double>(forwards));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) {
    std::fprintf(stderr, "usage: see the head of speculative_benchmark.cpp\n");
    return 2;
  }
  atom::set_log_level(atom::LogLevel::kWarning);
  std::vector<Contender> contenders;
  contenders.push_back({.name = "plain", .engine = make_engine(options, 0)});
  for (const int length : options.lengths) {
    contenders.push_back(
        {.name = "k = " + std::to_string(length), .engine = make_engine(options, length)});
  }
  if (std::ranges::any_of(contenders, [](const auto& one) { return one.engine == nullptr; })) {
    return 1;
  }
  std::ifstream file(options.text);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::vector<int32_t> ids = contenders[0].engine->tokenizer()->encode(text, false);
  std::printf("%5s  %-8s %10s %10s %8s %8s %9s %9s\n", "batch", "drafts", "tokens/s", "best",
              "ratio", "of best", "accepted", "per step");
  for (const int batch : options.batches) {
    for (int round = -1; round < options.rounds; ++round) {  // the first warms up
      const auto prompts = make_prompts(options, ids, batch, round);
      for (Contender& contender : contenders) {
        if (round <= 0) {
          contender.rates.clear();
          contender.before = contender.engine->stats().drafts;
        }
        if (!run(contender, options, prompts, round >= 0)) {
          return 1;
        }
      }
    }
    for (const Contender& contender : contenders) {
      print(batch, contender, contenders[0]);
    }
  }
}
