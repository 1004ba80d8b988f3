// The real server (sockets, routes, scheduler, detokeniser, logs) around an executor that computes
// nothing: every sequence generates the alphabet until max_tokens. For load tests.
//   mock_server PORT [STEP_MICROSECONDS] [MAX_NUM_SEQS]
#include <cstdio>
#include <cstdlib>

#include "atom/core/log.h"
#include "atom/entrypoints/serve.h"
#include "atom/model_engine/llm_engine.h"
#include "tests/support/byte_tokenizer.h"
#include "tests/support/scripted_executor.h"

using namespace atom;
using namespace atom::testing_support;

namespace {

constexpr int64_t kContext = 65536;

Result<std::unique_ptr<LLMEngine>> make_engine(const EngineConfig& config, int64_t step_us) {
  EngineParts parts;
  parts.executor = std::make_unique<ScriptedExecutor>(
      ScriptedOptions{.eos = kByteEos,
                      .capacity = {.num_blocks = 100'000, .block_size = 16, .max_in_flight = 1},
                      .step_time = std::chrono::microseconds(step_us),
                      .on_token = [](SequenceId, int64_t index, int32_t) {
                        return static_cast<int32_t>('a' + index % 26);
                      }});
  parts.tokenizer = make_byte_tokenizer();
  parts.model.vocab_size = kByteVocabSize;
  parts.model.eos_token_ids = {kByteEos};
  parts.model.max_position_embeddings = kContext;
  parts.scheduler = config.scheduler;
  return LLMEngine::create_with(std::move(parts));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: mock_server PORT [STEP_MICROSECONDS] [MAX_NUM_SEQS]\n");
    return 2;
  }
  const int64_t step_us = argc > 2 ? std::atoll(argv[2]) : 0;
  EngineConfig config;
  config.model.model = "mock";
  config.scheduler.max_num_seqs = argc > 3 ? std::atoll(argv[3]) : 512;
  const ServerConfig server{.host = "127.0.0.1",
                            .port = std::atoi(argv[1]),
                            .access_log = false,
                            .max_connections = 20000,
                            .timeout_keep_alive = 600};
  set_log_level(LogLevel::kWarning);
  return run_server(config, server, [&](const EngineConfig& c) { return make_engine(c, step_us); });
}
