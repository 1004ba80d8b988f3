#include "atom/model_engine/engine_core.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "atom/core/log.h"
#include "atom/core/with_memory.h"
#include "atom/model_engine/output_processor.h"
#include "atom/model_engine/work_queue.h"

namespace atom {
namespace {

using Clock = std::chrono::steady_clock;

// After this many failed steps in a row the device is given up.
constexpr int kMaxFailedSteps = 3;
// Drafted tokens between two lines of the log about them.
constexpr int64_t kDraftsPerLog = 1000;
// How long drain() waits for aborted requests to be answered, after its deadline.
constexpr std::chrono::seconds kAbortGrace{5};

Error step_error() {  // what a client may see; the cause is in the log
  return {.code = ErrorCode::kInternal, .message = "a step of the engine failed", .param = {}};
}

Error dead_error() {
  return {.code = ErrorCode::kUnavailable,
          .message = "the engine has stopped after repeated failures",
          .param = {}};
}

struct Command {
  enum class Kind { kAdd, kAbort, kAbortAll, kStopChoice };
  Kind kind = Kind::kAbort;
  RequestId id = 0;
  int32_t choice = 0;
  std::unique_ptr<Request> request;
  std::unique_ptr<OutputRequest> output;
};

// Runs a call into a device; an exception (out of memory, in practice) is an error like any other.
template <class Call>
auto guarded(Call call) -> decltype(call()) {
  try {
    return call();
  } catch (const std::exception& error) {
    return make_error(ErrorCode::kInternal, "exception: {}", error.what());
  }
}

}  // namespace

struct EngineCore::Impl {
  Impl(std::unique_ptr<Executor> device, std::shared_ptr<const Tokenizer> vocabulary,
       EngineCoreOptions core_options)
      : executor(std::move(device)),
        tokenizer(std::move(vocabulary)),
        options(std::move(core_options)),
        max_in_flight(std::max(1, executor->capacity().max_in_flight)),
        scheduler(options.scheduler),
        processor(
            {.stop_choice =
                 [this](RequestId id, int32_t choice) {
                   post({.kind = Command::Kind::kStopChoice, .id = id, .choice = choice});
                 },
             .abort = [this](RequestId id) { post({.kind = Command::Kind::kAbort, .id = id}); },
             .done = [this](RequestId) { request_done(); }},
            &metrics) {
    stats.draft_method = options.scheduler.speculative.method;
    stats.max_draft_tokens = options.scheduler.speculative.num_tokens;
    stats.num_blocks = options.scheduler.num_blocks;
    stats.block_size = options.scheduler.block_size;
    stats.num_free_blocks = options.scheduler.num_blocks;
    mark_progress();
    engine_thread = std::thread([this] { run_engine(); });
    output_thread = std::thread([this] { run_output(); });
  }

  ~Impl() {
    inbox.close();
    engine_thread.join();
    outputs.close();
    output_thread.join();
  }

  // --- any thread ---

  double now() const { return std::chrono::duration<double>(Clock::now() - start).count(); }

  Result<RequestId> add_request(GenerationRequest request, OutputCallback callback) {
    ATOM_RETURN_IF_ERROR(Scheduler::check(request, options.scheduler));
    const double arrival = now();
    std::optional<GrammarMatcher> matcher;
    if (request.grammar) {
      matcher.emplace(request.grammar);
      if (Status started = matcher->start(); !started) {
        started.error().param = request.sampling.grammar ? request.sampling.grammar->param : "";
        return std::unexpected(std::move(started.error()));
      }
    }
    RequestId id = 0;
    {
      const std::lock_guard lock(live_mutex);
      if (draining) {
        return make_error(ErrorCode::kUnavailable, "the engine is shutting down");
      }
      if (dead) {
        return std::unexpected(dead_error());
      }
      if (num_live >= options.max_live_requests) {
        return make_error(ErrorCode::kResourceExhausted, "too many requests: {} are being served",
                          num_live);
      }
      ++num_live;
      id = next_id++;
    }
    try {
      const uint64_t seed = request.sampling.seed ? static_cast<uint64_t>(*request.sampling.seed)
                                                  : options.seed * 0x9e3779b97f4a7c15ULL + id;
      inbox.push({.kind = Command::Kind::kAdd,
                  .id = id,
                  .request = Scheduler::make_request(id, request, seed, arrival, options.scheduler,
                                                     matcher ? &*matcher : nullptr),
                  .output = std::make_unique<OutputRequest>(id, request, arrival, tokenizer,
                                                            std::move(callback))});
    } catch (const std::exception& error) {
      log_error("request {}: {}", id, error.what());
      request_done();
      return make_error(ErrorCode::kResourceExhausted, "not enough memory for this request");
    }
    return id;
  }

  // What must reach the engine thread whatever happens.
  void post(Command command) {
    with_memory([&] { inbox.push(std::move(command)); });
  }

  void request_done() {
    const std::lock_guard lock(live_mutex);
    if (--num_live == 0) {
      none_live.notify_all();
    }
  }

  void drain(std::chrono::milliseconds deadline) {
    std::unique_lock lock(live_mutex);
    draining = true;
    const auto none = [&] { return num_live == 0; };
    if (none_live.wait_for(lock, deadline, none)) {
      return;
    }
    lock.unlock();
    post({.kind = Command::Kind::kAbortAll});
    lock.lock();
    none_live.wait_for(lock, kAbortGrace, none);
  }

  EngineStats snapshot() const {
    EngineStats result;
    {
      const std::lock_guard lock(stats_mutex);
      result = stats;
    }
    const double limit = std::chrono::duration<double>(options.stall_timeout).count() +
                         4 * slowest_step.load(std::memory_order_relaxed);
    const double time = now();
    result.seconds_since_progress =
        std::max(busy ? time - last_progress : 0.0, delivering ? time - last_delivery : 0.0);
    if (dead) {
      result.condition = EngineCondition::kDead;
    } else if (result.seconds_since_progress >= limit) {
      result.condition = EngineCondition::kStalled;
    }
    return result;
  }

  // --- engine thread ---

  void run_engine() {
    std::vector<Command> commands;
    while (true) {
      busy = scheduler.has_requests() && !dead;
      const bool open = inbox.take(commands, !busy);
      mark_progress();
      busy = true;
      OutputBatch out{.now = now()};
      try {
        for (Command& command : commands) {
          apply(command, out);
        }
        if (!dead && open) {
          advance(out);
        } else if (!dead) {
          scheduler.abort_all(out.updates);
          discard_in_flight();
        }
      } catch (const std::exception& error) {
        scheduler_failed(error, commands, out);
      }
      publish(std::move(out));
      if (!open) {
        return;
      }
    }
  }

  void apply(Command& command, OutputBatch& out) {
    if (command.output) {
      out.added.push_back(std::move(command.output));
    }
    if (dead) {
      out.fatal = dead_error();
      return;
    }
    switch (command.kind) {
      case Command::Kind::kAdd:
        scheduler.add(std::move(command.request));
        break;
      case Command::Kind::kAbort:
        scheduler.abort(command.id, out.updates);
        break;
      case Command::Kind::kAbortAll:
        scheduler.abort_all(out.updates);
        break;
      case Command::Kind::kStopChoice:
        scheduler.stop_choice(command.id, command.choice);
        break;
    }
  }

  // One turn of the step loop: fill the device's queue, then take the oldest outcome.
  void advance(OutputBatch& out) {
    while (scheduler.num_in_flight() < max_in_flight) {
      const ScheduledBatch& batch = scheduler.schedule(now());
      if (batch.sequences.empty()) {
        break;
      }
      if (const Status status = guarded([&] { return executor->submit(batch); }); !status) {
        step_failed(status.error(), out);
        return;
      }
      metrics.iteration_tokens.observe(static_cast<double>(batch.num_tokens));
      mark_progress();
    }
    if (scheduler.num_in_flight() == 0) {
      if (scheduler.has_requests()) {
        log_error("the scheduler has requests but nothing to run");
        scheduler.fail_all(step_error(), out.updates);
      }
      return;
    }
    Result<StepOutput> output = guarded([&] { return executor->collect(); });
    mark_progress();
    out.now = now();
    if (!output) {
      step_failed(output.error(), out);
    } else if (const Status status = scheduler.commit(std::move(*output), out.updates); !status) {
      step_failed(status.error(), out);
    } else {
      num_failed_steps = 0;
    }
  }

  void step_failed(const Error& error, OutputBatch& out) {
    ++num_failed_steps;
    log_error("step failed ({} in a row): {}", num_failed_steps, error.message);
    discard_in_flight();
    if (num_failed_steps < kMaxFailedSteps) {
      scheduler.fail_running(step_error(), out.updates);
    } else {
      log_error("the device is given up: no more requests are served");
      dead = true;
      scheduler.fail_all(dead_error(), out.updates);
    }
  }

  // The scheduler itself ran out of memory: what it holds is not to be trusted any more. Every
  // request fails, and the next one finds it empty.
  void scheduler_failed(const std::exception& error, std::vector<Command>& commands,
                        OutputBatch& out) {
    with_memory([&] { log_error("the scheduler failed, and every request: {}", error.what()); });
    with_memory([&] { discard_in_flight(); });
    scheduler.restart();
    dead = dead || ++num_failed_steps >= kMaxFailedSteps;
    with_memory([&] { out.fatal = dead ? dead_error() : step_error(); });
    for (Command& command : commands) {
      if (command.output) {
        with_memory([&] { out.added.push_back(std::move(command.output)); });
      }
    }
  }

  // The scheduler may count one step more than the device has (the failed one); collect() then only
  // reports an error.
  void discard_in_flight() {
    for (int i = 0; i < scheduler.num_in_flight(); ++i) {
      (void)guarded([&] { return executor->collect(); });
    }
  }

  void mark_progress() {
    const double time = now();
    const double took = time - last_progress.exchange(time);
    if (busy && took > slowest_step.load(std::memory_order_relaxed)) {
      slowest_step.store(took, std::memory_order_relaxed);
    }
  }

  void publish(OutputBatch&& out) {
    const SchedulerStats from = scheduler.stats();
    {
      const std::lock_guard lock(stats_mutex);
      stats.num_running = from.num_running;
      stats.num_waiting = from.num_waiting;
      stats.num_free_blocks = from.num_free_blocks;
      stats.prompt_tokens = from.prompt_tokens;
      stats.cached_prompt_tokens = from.cached_prompt_tokens;
      stats.generation_tokens = from.generation_tokens;
      stats.prefix_cache_queries = from.prefix_cache_queries;
      stats.prefix_cache_hits = from.prefix_cache_hits;
      stats.num_preemptions = from.num_preemptions;
      stats.num_steps = from.num_steps;
      stats.drafts = from.drafts;
    }
    if (from.drafts.num_draft_tokens >= next_draft_log) {
      log_drafts(from.drafts);
    }
    if (!out.empty()) {
      with_memory([&] { outputs.push(std::move(out)); });
    }
  }

  void log_drafts(const DraftStats& drafts) {
    next_draft_log = (drafts.num_draft_tokens / kDraftsPerLog + 1) * kDraftsPerLog;
    with_memory([&] {
      log_info("drafts: {} tokens, {} accepted ({:.1f} %), {:.2f} tokens a forward",
               drafts.num_draft_tokens, drafts.num_accepted_tokens, 100 * drafts.acceptance_rate(),
               drafts.tokens_per_forward());
    });
  }

  // --- output thread ---

  void run_output() {
    std::vector<OutputBatch> batches;
    while (outputs.take(batches, true)) {
      last_delivery = now();
      delivering = true;
      processor.process(batches);
      delivering = false;
    }
  }

  const Clock::time_point start = Clock::now();
  const std::unique_ptr<Executor> executor;
  const std::shared_ptr<const Tokenizer> tokenizer;
  const EngineCoreOptions options;
  const int max_in_flight;
  WorkQueue<Command> inbox;
  WorkQueue<OutputBatch> outputs;

  EngineMetrics metrics{options.scheduler.max_model_len};
  Scheduler scheduler;                     // engine thread
  int num_failed_steps = 0;                // engine thread
  int64_t next_draft_log = kDraftsPerLog;  // drafted tokens; engine thread
  OutputProcessor processor;               // output thread

  std::mutex live_mutex;
  std::condition_variable none_live;
  int64_t num_live = 0;
  RequestId next_id = 1;
  bool draining = false;

  std::atomic<bool> dead = false;  // the device is given up
  std::atomic<bool> busy = false;  // the engine thread is not asleep
  std::atomic<double> last_progress = 0;
  std::atomic<bool> delivering = false;  // the output thread is not asleep
  std::atomic<double> last_delivery = 0;
  std::atomic<double> slowest_step = 0;
  mutable std::mutex stats_mutex;
  EngineStats stats;

  std::thread engine_thread, output_thread;
};

EngineCore::EngineCore(std::unique_ptr<Executor> executor,
                       std::shared_ptr<const Tokenizer> tokenizer, EngineCoreOptions options)
    : impl_(std::make_unique<Impl>(std::move(executor), std::move(tokenizer), std::move(options))) {
}

EngineCore::~EngineCore() = default;

EngineCore::Hold::Hold(EngineCore& core) : core_(core) { core_.impl_->inbox.hold(); }

EngineCore::Hold::~Hold() { core_.impl_->inbox.release(); }

Result<RequestId> EngineCore::add_request(GenerationRequest request, OutputCallback callback) {
  return impl_->add_request(std::move(request), std::move(callback));
}

void EngineCore::abort(RequestId id) { impl_->post({.kind = Command::Kind::kAbort, .id = id}); }

void EngineCore::drain(std::chrono::milliseconds deadline) { impl_->drain(deadline); }

EngineStats EngineCore::stats() const { return impl_->snapshot(); }

const EngineMetrics& EngineCore::metrics() const { return impl_->metrics; }

}  // namespace atom
