// What measuring costs: nanoseconds per token on the output thread, per log line on an I/O thread,
// and the time of one /metrics page of the engine's series. Usage: metrics_benchmark
#include <cstdio>
#include <ctime>

#include "atom/core/log.h"
#include "atom/entrypoints/openai/api_metrics.h"
#include "atom/entrypoints/openai/prometheus_text.h"
#include "atom/model_engine/engine_metrics.h"

namespace {

// CPU time of this thread: a busy machine does not count.
double now_ns() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
}

template <class Work>
double nanoseconds(int64_t repeats, Work work) {
  const double start = now_ns();
  for (int64_t i = 0; i < repeats; ++i) work(i);
  return (now_ns() - start) / static_cast<double>(repeats);
}

}  // namespace

int main() {
  using namespace atom;
  EngineMetrics metrics(131072);
  std::printf("inter-token latency, one writer: %.1f ns\n", nanoseconds(20'000'000, [&](int64_t i) {
                metrics.inter_token_latency.observe(static_cast<double>(i % 1000) * 1e-4);
              }));
  openai::RouteMetrics route;
  std::printf("HTTP answer, any writer: %.1f ns\n", nanoseconds(5'000'000, [&](int64_t i) {
                route.count("POST", 200, static_cast<double>(i % 1000) * 1e-3);
              }));
  int64_t bytes = 0;
  const double page = nanoseconds(2000, [&](int64_t) {
    openai::PrometheusText out({{"model_name", "Qwen/Qwen3-0.6B"}, {"engine", "0"}});
    for (const Histogram* histogram :
         {&metrics.iteration_tokens, &metrics.time_to_first_token, &metrics.inter_token_latency,
          &metrics.time_per_output_token, &metrics.e2e_latency, &metrics.queue_time,
          &metrics.prefill_time, &metrics.decode_time, &metrics.inference_time,
          &metrics.prompt_tokens, &metrics.prefill_computed_tokens, &metrics.generation_tokens,
          &metrics.max_generation_tokens, &metrics.params_n, &metrics.params_max_tokens}) {
      out.family("vllm:series_name_of_the_usual_length", "histogram", "Help of the usual length.");
      out.histogram(*histogram);
    }
    bytes = static_cast<int64_t>(out.take().size());
  });
  std::printf("all histograms as text: %.0f us, %lld bytes\n", page / 1000,
              static_cast<long long>(bytes));
  const LogField fields[] = {{"method", "POST"},
                             {"path", "/v1/chat/completions"},
                             {"status", int64_t{200}},
                             {"bytes", int64_t{12345}},
                             {"duration_ms", 12.5},
                             {"client", "127.0.0.1"},
                             {"id", "5f2eeff08ea4a74272d33223c35de7d5"}};
  const LogWriter writer;
  const double line =
      nanoseconds(100'000, [&](int64_t) { log_event(LogLevel::kInfo, "request", fields); });
  std::printf("access log line, to the caller: %.0f ns (%lld dropped)\n", line,
              static_cast<long long>(num_dropped_log_lines()));
}
