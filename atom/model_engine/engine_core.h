// EngineCore: the engine thread (inbox -> Scheduler -> Executor), the output thread
// (OutputProcessor) and the queues between them. Every public function is thread-safe. README.md
// states who owns what. Knows nothing of models, files or HTTP.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "atom/core/error.h"
#include "atom/model_engine/executor.h"
#include "atom/model_engine/llm_engine.h"
#include "atom/model_engine/scheduler.h"
#include "atom/request_output.h"
#include "atom/tokenizer/tokenizer.h"

namespace atom {

struct EngineCoreOptions {
  SchedulerOptions scheduler;
  uint64_t seed = 0;  // of requests without one
  // Requests accepted and not yet answered; more are refused with kResourceExhausted.
  int64_t max_live_requests = 65536;
  // A step may take this long plus four times the slowest step seen before it counts as stalled.
  std::chrono::milliseconds stall_timeout{30'000};
};

class EngineCore {
 public:
  EngineCore(std::unique_ptr<Executor> executor, std::shared_ptr<const Tokenizer> tokenizer,
             EngineCoreOptions options);
  ~EngineCore();  // aborts what is left, delivers the last events
  EngineCore(const EngineCore&) = delete;
  EngineCore& operator=(const EngineCore&) = delete;

  // While one lives, requests that are added wait: those of one caller then start in one step.
  class Hold {
   public:
    explicit Hold(EngineCore& core);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    EngineCore& core_;
  };

  Result<RequestId> add_request(GenerationRequest request, OutputCallback callback);
  void abort(RequestId id);
  void drain(std::chrono::milliseconds deadline);
  EngineStats stats() const;
  const EngineMetrics& metrics() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace atom
