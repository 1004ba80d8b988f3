// Host CPU time of one thread per step with many running sequences and no model: schedule(),
// commit() and output processing, each measured alone. Results: docs/benchmarks/engine.md.
//   engine_benchmark [num_sequences] [num_steps]
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <utility>
#include <vector>

#include "atom/model_engine/output_processor.h"
#include "atom/model_engine/scheduler.h"
#include "tests/support/byte_tokenizer.h"

using namespace atom;

namespace {

// CPU time of this thread: a busy machine does not count.
double now_us() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_nsec) * 1e-3;
}

double microseconds(double begin) { return now_us() - begin; }

}  // namespace

int main(int argc, char** argv) {
  const int64_t num_sequences = argc > 1 ? std::atoll(argv[1]) : 512;
  const int64_t num_steps = argc > 2 ? std::atoll(argv[2]) : 2000;
  const int64_t context = num_steps + 300;
  const SchedulerOptions options{.max_num_batched_tokens = 16384,
                                 .max_num_seqs = num_sequences,
                                 .max_model_len = context,
                                 .num_blocks = num_sequences * (context / 16 + 2),
                                 .block_size = 16,
                                 .cache_salt = 1,
                                 .vocab_size = testing_support::kByteVocabSize,
                                 .eos_token_ids = {testing_support::kByteEos}};
  Scheduler scheduler(options);
  OutputProcessor processor({.stop_choice = [](RequestId, int32_t) {},
                             .abort = [](RequestId) {},
                             .done = [](RequestId) {}});
  const auto tokenizer = testing_support::make_byte_tokenizer();
  int64_t num_events = 0;
  std::vector<OutputBatch> batches(1);
  for (int64_t i = 0; i < num_sequences; ++i) {
    GenerationRequest request{
        .prompt_token_ids = std::vector<int32_t>(100, static_cast<int32_t>(i % 256)),
        .sampling = {.max_tokens = context, .stop_strings = {"\n\n", "</answer>"}}};
    const auto id = static_cast<RequestId>(i + 1);
    scheduler.add(Scheduler::make_request(id, request, 1, 0, options));
    batches[0].added.push_back(std::make_unique<OutputRequest>(
        id, request, 0, tokenizer,
        [&](RequestOutput&& output) { num_events += !output.choices.empty(); }));
  }
  double schedule_us = 0, commit_us = 0, output_us = 0;
  int64_t measured = 0;
  for (int64_t step = 0; step < num_steps; ++step) {
    double begin = now_us();
    const ScheduledBatch& batch = scheduler.schedule(static_cast<double>(step));
    const double scheduled = microseconds(begin);
    const bool decode = batch.num_tokens == num_sequences;
    StepOutput output{.step = batch.step, .rows = {}, .prompt_logprobs = {}};
    for (const ScheduledSequence& sequence : batch.sequences) {
      if (sequence.sample) {
        output.rows.push_back(
            {.id = sequence.id, .token = {.token_id = static_cast<int32_t>('a' + step % 26)}});
      }
    }
    begin = now_us();
    if (!scheduler.commit(std::move(output), batches[0].updates)) {
      return 1;
    }
    const double committed = microseconds(begin);
    begin = now_us();
    processor.process(batches);
    const double processed = microseconds(begin);
    batches.clear();
    batches.resize(1);
    if (decode) {
      schedule_us += scheduled;
      commit_us += committed;
      output_us += processed;
      ++measured;
    }
  }
  const auto steps = static_cast<double>(measured);
  std::printf(
      "%lld sequences, %lld decode steps, %lld events: schedule %.1f us, commit %.1f us, output "
      "%.1f us per step\n",
      static_cast<long long>(num_sequences), static_cast<long long>(measured),
      static_cast<long long>(num_events), schedule_us / steps, commit_us / steps,
      output_us / steps);
  return 0;
}
