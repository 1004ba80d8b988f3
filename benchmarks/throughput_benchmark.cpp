// A whole engine on one device, without tokenizer and server: time per token at batch 1, and
// output tokens per second with a fixed number of clients, each of which asks again when its answer
// is there. Random token ids, greedy (or --temperature T), EOS ignored. Weights are made up (--load_dummy) unless the
// folder has them. Results: docs/benchmarks/gpu.md.
//   throughput_benchmark MODEL [--input N] [--output N] [--clients LIST] [--requests-per-client N]
//                        [--device D] [--quantization fp8] [--kv-cache-dtype D] [--level N] ...
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "atom/model_engine/llm_engine.h"
#include "atom/model_engine/model_runner.h"

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

struct Options {
  std::string model;
  int64_t input = 1024;
  int64_t output = 256;
  int64_t requests_per_client = 2;
  std::vector<int> clients = {1};
  // Of sampling; made-up weights answer greedily with one token over and over, which sends every
  // sequence of a mixture of experts to the same ones.
  float temperature = 0.0F;
  atom::EngineArgs engine = {.enable_prefix_caching = false,
                             .max_model_len = 4096,
                             .max_num_seqs = 256,
                             .load_dummy = "xavier"};
};

bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (!flag.starts_with("--")) {
      options.model = flag;
      continue;
    }
    if (flag == "--enforce-eager") {
      options.engine.enforce_eager = true;
      continue;
    }
    if (++i == argc) {
      return false;
    }
    const std::string value = argv[i];
    if (flag == "--input")
      options.input = std::stoll(value);
    else if (flag == "--output")
      options.output = std::stoll(value);
    else if (flag == "--requests-per-client")
      options.requests_per_client = std::stoll(value);
    else if (flag == "--temperature")
      options.temperature = std::stof(value);
    else if (flag == "--device")
      options.engine.device = value;
    else if (flag == "--quantization")
      options.engine.quantization = value;
    else if (flag == "--kv-cache-dtype")
      options.engine.kv_cache_dtype = value;
    else if (flag == "--level")
      options.engine.level = std::stoi(value);
    else if (flag == "--load_dummy")
      options.engine.load_dummy = value;
    else if (flag == "--threads")
      options.engine.threads = std::stoi(value);
    else if (flag == "--max-num-batched-tokens")
      options.engine.max_num_batched_tokens = std::stoll(value);
    else if (flag == "--kv-cache-memory-gb")
      options.engine.kv_cache_memory_gb = std::stod(value);
    else if (flag == "--clients") {
      options.clients.clear();
      std::stringstream list(value);
      for (std::string one; std::getline(list, one, ',');) {
        options.clients.push_back(std::stoi(one));
      }
    } else {
      return false;
    }
  }
  return !options.model.empty();
}

// The closed loop: `clients` requests in flight, `total` in all.
class Load {
 public:
  Load(atom::LLMEngine& engine, const Options& options, int64_t total)
      : engine_(engine), options_(options), total_(total) {}

  void run(int clients) {
    begin_ = Clock::now();
    for (int i = 0; i < clients; ++i) {
      start_one();
    }
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return finished_ == total_; });
    elapsed_ = seconds_since(begin_);
  }

  void print(const char* name, int clients) const {
    const double tokens = static_cast<double>(tokens_);
    const double n = static_cast<double>(total_);
    std::printf("%-14s %7d %9.1f %11.3f %10.1f %12.1f%s\n", name, clients, tokens / elapsed_,
                1e3 * tpot_ / n, 1e3 * ttft_ / n, 1e3 * max_gap_,
                failed_ > 0 ? "  FAILED requests" : "");
    std::fflush(stdout);
  }

 private:
  void start_one() {
    std::vector<int32_t> prompt(static_cast<size_t>(options_.input));
    {
      const std::lock_guard lock(mutex_);
      if (started_ == total_) {
        return;
      }
      ++started_;
      for (int32_t& id : prompt) {
        id = static_cast<int32_t>(random_() % 32000);
      }
    }
    atom::SamplingParams params{
        .temperature = options_.temperature, .max_tokens = options_.output, .ignore_eos = true};
    const auto id =
        engine_.add_request({.prompt_token_ids = std::move(prompt), .sampling = params},
                            [this](atom::RequestOutput&& output) { take(std::move(output)); });
    if (!id) {
      std::fprintf(stderr, "%s\n", id.error().message.c_str());
      std::exit(1);
    }
  }

  void take(atom::RequestOutput&& output) {
    {
      const std::lock_guard lock(mutex_);
      for (const atom::ChoiceDelta& delta : output.choices) {
        tokens_ += std::ssize(delta.token_ids);
      }
      const auto now = Clock::now();
      const auto [last, first] = last_.try_emplace(output.request_id, now);
      if (!first) {
        max_gap_ = std::max(max_gap_, std::chrono::duration<double>(now - last->second).count());
        last->second = now;
      }
      if (!output.finished) {
        return;
      }
      last_.erase(last);
      failed_ += output.error.has_value();
      ttft_ += output.timing.ttft;
      tpot_ += (output.timing.latency - output.timing.ttft) /
               static_cast<double>(std::max<int64_t>(1, options_.output - 1));
      if (++finished_ == total_) {
        changed_.notify_all();
      }
    }
    start_one();
  }

  atom::LLMEngine& engine_;
  const Options& options_;
  const int64_t total_;
  std::mt19937 random_{1};
  Clock::time_point begin_;
  double elapsed_ = 0, ttft_ = 0, tpot_ = 0, max_gap_ = 0;
  int64_t started_ = 0, finished_ = 0, tokens_ = 0, failed_ = 0;
  std::map<atom::RequestId, Clock::time_point> last_;
  std::mutex mutex_;
  std::condition_variable changed_;
};

atom::Result<std::unique_ptr<atom::LLMEngine>> make_engine(const Options& options) {
  using namespace atom;
  EngineArgs args = options.engine;
  args.model = options.model;
  ATOM_ASSIGN_OR_RETURN(const EngineConfig config, make_engine_config(args));
  ATOM_ASSIGN_OR_RETURN(
      std::shared_ptr<const Checkpoint> checkpoint,
      Checkpoint::open(options.model, args.load_dummy ? CheckpointWeights::kIgnored
                                                      : CheckpointWeights::kRequired));
  EngineParts parts{.model = checkpoint->config(),
                    .scheduler = config.scheduler,
                    .enable_prefix_caching = config.cache.enable_prefix_caching};
  MemoryPlan plan;
  ATOM_ASSIGN_OR_RETURN(parts.executor, make_model_runner(config, checkpoint, plan));
  std::printf("%s\n", describe(plan).c_str());
  parts.scheduler.max_model_len = plan.max_model_len;
  return LLMEngine::create_with(std::move(parts));
}

}  // namespace

int main(int argc, char** argv) {
  const auto begin = Clock::now();
  Options options;
  if (!parse(argc, argv, options)) {
    std::fprintf(stderr, "usage: throughput_benchmark MODEL [flags; see the head of the file]\n");
    return 2;
  }
  auto engine = make_engine(options);
  if (!engine) {
    std::fprintf(stderr, "throughput_benchmark: %s\n", engine.error().message.c_str());
    return 1;
  }
  const double loaded = seconds_since(begin);
  Options first = options;
  first.output = 1;
  Load(**engine, first, 1).run(1);
  std::printf("%s: engine ready %.2f s, first token %.2f s after start\n", options.model.c_str(),
              loaded, seconds_since(begin));
  std::printf("%-14s %7s %9s %11s %10s %12s   (%lld in, %lld out)\n", "", "clients", "tok/s",
              "ms/token", "TTFT ms", "max gap ms", static_cast<long long>(options.input),
              static_cast<long long>(options.output));
  for (const int clients : options.clients) {
    Options warm = options;
    warm.output = 8;
    Load(**engine, warm, clients).run(clients);  // captures the steps of this size
    Load load(**engine, options, clients * options.requests_per_client);
    load.run(clients);
    load.print("closed loop", clients);
  }
  return 0;
}
