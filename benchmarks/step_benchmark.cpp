// Prefill and decode speed of one model through its executor, without tokenizer, scheduler or
// server. The counterpart of llama.cpp's llama-bench: ppN processes N prompt tokens from an empty
// cache, tgN generates N tokens one by one (batch B) after an empty prompt; wall and CPU time of
// the best repetition.
//   step_benchmark MODEL [--threads T] [--pp N]... [--tg N]... [--batch B] [--repeat R] [--level L]
//                        [--dtype auto|float32] [--depth D] [--load_dummy xavier]
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "atom/model_engine/model_runner.h"

namespace {

using atom::Executor;

struct Options {
  std::string model;
  std::vector<int64_t> prefill, decode;
  int64_t batch = 1;
  int64_t depth = 0;  // tokens already in the context when tg starts
  int repeat = 3;
};

struct Times {
  double wall = 0, cpu = 0;  // seconds
};

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

template <class Body>
Times best_of(int repeat, Body&& body) {
  Times best{1e30, 1e30};
  for (int i = 0; i < repeat; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const double cpu = cpu_seconds();
    body();
    const double wall =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (wall < best.wall) {
      best = {wall, cpu_seconds() - cpu};
    }
  }
  return best;
}

// Sequences of one length, each with its own consecutive blocks.
class Workload {
 public:
  Workload(Executor& executor, int64_t batch, int64_t max_tokens) : executor_(executor) {
    const int64_t block_size = executor.capacity().block_size;
    blocks_per_sequence_ = (max_tokens + block_size - 1) / block_size;
    blocks_.resize(static_cast<size_t>(batch * blocks_per_sequence_));
    std::iota(blocks_.begin(), blocks_.end(), 0);
    params_.temperature = 0;
    tokens_.assign(static_cast<size_t>(batch), {});
    for (size_t i = 0; i < tokens_.size(); ++i) {
      for (int64_t t = 0; t < max_tokens + 1; ++t) {
        tokens_[i].push_back(
            static_cast<int32_t>(1 + (t * 7919 + static_cast<int64_t>(i) * 31) % 300));
      }
    }
  }

  // Computes tokens [begin, end) of every sequence, in steps as large as the executor takes.
  void run(int64_t begin, int64_t end, int64_t step_tokens) {
    for (int64_t at = begin; at < end; at += step_tokens) {
      step(at, std::min(at + step_tokens, end), end);
    }
  }

 private:
  void step(int64_t begin, int64_t end, int64_t known) {
    atom::ScheduledBatch batch;
    for (size_t i = 0; i < tokens_.size(); ++i) {
      batch.sequences.push_back(
          {.id = i,
           .token_ids = std::span(tokens_[i]).first(static_cast<size_t>(known)),
           .num_prompt_tokens = known,
           .num_computed_tokens = begin,
           .num_scheduled_tokens = end - begin,
           .block_table = std::span(blocks_).subspan(i * static_cast<size_t>(blocks_per_sequence_),
                                                     static_cast<size_t>(blocks_per_sequence_)),
           .sample = end == known,
           .sampling = &params_});
    }
    batch.num_tokens = (end - begin) * static_cast<int64_t>(tokens_.size());
    if (!executor_.submit(batch) || !executor_.collect()) {
      std::fprintf(stderr, "step failed\n");
      std::exit(1);
    }
  }

  Executor& executor_;
  int64_t blocks_per_sequence_ = 0;
  std::vector<int32_t> blocks_;
  std::vector<std::vector<int32_t>> tokens_;
  atom::SamplingParams params_;
};

void report(const std::string& name, int64_t tokens, const Times& times) {
  std::printf("%-12s %10.1f tok/s  %10.1f tok/CPU-s\n", name.c_str(),
              static_cast<double>(tokens) / times.wall, static_cast<double>(tokens) / times.cpu);
  std::fflush(stdout);
}

void run(Executor& executor, const Options& options) {
  const int64_t step_tokens = executor.capacity().max_step_tokens;
  for (const int64_t length : options.prefill) {
    Workload workload(executor, options.batch, length);
    const Times times = best_of(options.repeat, [&] {
      workload.run(0, length, std::max<int64_t>(1, step_tokens / options.batch));
    });
    report("pp" + std::to_string(length), length * options.batch, times);
  }
  for (const int64_t length : options.decode) {
    Workload workload(executor, options.batch, options.depth + length);
    if (options.depth > 0) {
      workload.run(0, options.depth, std::max<int64_t>(1, step_tokens / options.batch));
    }
    const Times times = best_of(options.repeat, [&] {
      for (int64_t at = options.depth; at < options.depth + length; ++at) {
        workload.run(at, at + 1, 1);
      }
    });
    report("tg" + std::to_string(length), length * options.batch, times);
  }
}

}  // namespace

int main(int argc, char** argv) {
  atom::EngineArgs args;
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (!flag.starts_with("--")) {
      options.model = flag;
      continue;
    }
    const char* value = i + 1 < argc ? argv[++i] : "0";
    if (flag == "--threads")
      args.threads = std::atoi(value);
    else if (flag == "--pp")
      options.prefill.push_back(std::atoll(value));
    else if (flag == "--tg")
      options.decode.push_back(std::atoll(value));
    else if (flag == "--batch")
      options.batch = std::atoll(value);
    else if (flag == "--depth")
      options.depth = std::atoll(value);
    else if (flag == "--repeat")
      options.repeat = std::atoi(value);
    else if (flag == "--level")
      args.level = std::atoi(value);
    else if (flag == "--dtype")
      args.dtype = value;
    else if (flag == "--load_dummy")
      args.load_dummy = value;
    else
      return std::fprintf(stderr, "unknown flag %s\n", flag.c_str()), 2;
  }
  args.model = options.model;
  const auto fail = [](const atom::Error& error) {
    std::fprintf(stderr, "%s\n", error.message.c_str());
    return 1;
  };
  auto config = atom::make_engine_config(args);
  if (!config) return fail(config.error());
  auto checkpoint =
      atom::Checkpoint::open(options.model, args.load_dummy ? atom::CheckpointWeights::kIgnored
                                                            : atom::CheckpointWeights::kRequired);
  if (!checkpoint) return fail(checkpoint.error());
  atom::MemoryPlan plan;
  const double cpu = cpu_seconds();
  auto executor = atom::make_model_runner(*config, std::move(*checkpoint), plan);
  if (!executor) return fail(executor.error());
  std::printf("load %.3f CPU s; %s\n", cpu_seconds() - cpu, atom::describe(plan).c_str());
  run(**executor, options);
}
