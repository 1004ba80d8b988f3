// GET /metrics: every series in one table per source. The vllm: names, labels and buckets are
// vLLM's, so that its dashboards and the Kubernetes endpoint picker work; atom: names are ATOM's
// and ours. To add a series: a row here and one in docs/operations.md (a test compares the two).
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>

#include "atom/core/log.h"
#include "atom/entrypoints/openai/api_server.h"
#include "atom/entrypoints/openai/json_writer.h"
#include "atom/entrypoints/openai/prometheus_text.h"

namespace atom::openai {
namespace {

const double kStartTime = static_cast<double>(std::time(nullptr));

struct HistogramRow {
  const char* name;
  const char* help;
  Histogram EngineMetrics::*histogram;
};
constexpr HistogramRow kHistograms[] = {
    {"vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.",
     &EngineMetrics::time_to_first_token},
    {"vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.",
     &EngineMetrics::inter_token_latency},
    // vLLM's name of the same until 0.11; dashboards still ask for it.
    {"vllm:time_per_output_token_seconds", "Histogram of time per output token in seconds.",
     &EngineMetrics::inter_token_latency},
    {"vllm:request_time_per_output_token_seconds",
     "Histogram of the mean time per output token of a request in seconds.",
     &EngineMetrics::time_per_output_token},
    {"vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.",
     &EngineMetrics::e2e_latency},
    {"vllm:request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.",
     &EngineMetrics::queue_time},
    {"vllm:request_prefill_time_seconds", "Histogram of time spent in PREFILL phase for request.",
     &EngineMetrics::prefill_time},
    {"vllm:request_decode_time_seconds", "Histogram of time spent in DECODE phase for request.",
     &EngineMetrics::decode_time},
    {"vllm:request_inference_time_seconds", "Histogram of time spent in RUNNING phase for request.",
     &EngineMetrics::inference_time},
    {"vllm:request_prompt_tokens", "Number of prefill tokens processed.",
     &EngineMetrics::prompt_tokens},
    {"vllm:request_prefill_kv_computed_tokens",
     "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
     &EngineMetrics::prefill_computed_tokens},
    {"vllm:request_generation_tokens", "Number of generation tokens processed.",
     &EngineMetrics::generation_tokens},
    {"vllm:request_max_num_generation_tokens",
     "Histogram of maximum number of requested generation tokens.",
     &EngineMetrics::max_generation_tokens},
    {"vllm:request_params_n", "Histogram of the n request parameter.", &EngineMetrics::params_n},
    {"vllm:request_params_max_tokens", "Histogram of the max_tokens request parameter.",
     &EngineMetrics::params_max_tokens},
    {"vllm:iteration_tokens_total", "Histogram of number of tokens per engine_step.",
     &EngineMetrics::iteration_tokens},
};

struct StatsRow {
  const char* name;
  const char* type;
  const char* help;
  int64_t EngineStats::*value;
};
constexpr StatsRow kStats[] = {
    {"vllm:num_requests_running", "gauge", "Number of requests in model execution batches.",
     &EngineStats::num_running},
    {"vllm:num_requests_waiting", "gauge", "Number of requests waiting to be processed.",
     &EngineStats::num_waiting},
    {"vllm:prompt_tokens_total", "counter", "Number of prefill tokens processed.",
     &EngineStats::prompt_tokens},
    {"vllm:prompt_tokens_cached_total", "counter", "Number of cached prompt tokens.",
     &EngineStats::cached_prompt_tokens},
    {"vllm:generation_tokens_total", "counter", "Number of generation tokens processed.",
     &EngineStats::generation_tokens},
    {"vllm:num_preemptions_total", "counter", "Cumulative number of preemption from the engine.",
     &EngineStats::num_preemptions},
    {"vllm:prefix_cache_queries_total", "counter",
     "Prefix cache queries, in terms of number of queried tokens.",
     &EngineStats::prefix_cache_queries},
    {"vllm:prefix_cache_hits_total", "counter",
     "Prefix cache hits, in terms of number of cached tokens.", &EngineStats::prefix_cache_hits},
    {"atom:requests_running", "gauge", "Sequences in the running batch.",
     &EngineStats::num_running},
    {"atom:requests_waiting", "gauge", "Sequences waiting to be scheduled.",
     &EngineStats::num_waiting},
    {"atom:kv_cache_blocks", "gauge", "KV cache blocks.", &EngineStats::num_blocks},
    {"atom:kv_cache_free_blocks", "gauge", "KV cache blocks free or evictable.",
     &EngineStats::num_free_blocks},
    {"atom:kv_cache_blocks_total", "gauge", "KV cache blocks.", &EngineStats::num_blocks},
    {"atom:kv_cache_blocks_free", "gauge", "KV cache blocks free or evictable.",
     &EngineStats::num_free_blocks},
    {"atom:prompt_tokens_total", "counter", "Prompt tokens.", &EngineStats::prompt_tokens},
    {"atom:generation_tokens_total", "counter", "Generated tokens.",
     &EngineStats::generation_tokens},
    {"atom:preemptions_total", "counter", "Sequences preempted.", &EngineStats::num_preemptions},
    {"atom:engine_steps_total", "counter", "Steps of the engine.", &EngineStats::num_steps},
};

constexpr std::string_view kFinishReasons[] = {"stop", "length", "abort", "error"};

// Open files; 0 when /proc does not tell.
double open_files() {
  struct stat info {};
  // Linux 6.2 and later count them here, without a walk over thousands of entries.
  return ::stat("/proc/self/fd", &info) == 0 ? static_cast<double>(info.st_size) : 0;
}

void add_process(PrometheusText& out) {
  const auto family = [&](const char* name, const char* type, const char* help, double value) {
    out.family(name, type, help, false);
    out.sample(value);
  };
  timespec cpu{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
  family("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.",
         static_cast<double>(cpu.tv_sec) + static_cast<double>(cpu.tv_nsec) * 1e-9);
  if (std::FILE* file = std::fopen("/proc/self/statm", "re")) {
    long total = 0;
    long resident = 0;
    if (std::fscanf(file, "%ld %ld", &total, &resident) == 2) {
      const auto page = static_cast<double>(sysconf(_SC_PAGESIZE));
      family("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.",
             static_cast<double>(total) * page);
      family("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.",
             static_cast<double>(resident) * page);
    }
    std::fclose(file);
  }
  family("process_start_time_seconds", "gauge",
         "Start time of the process since unix epoch in seconds.", kStartTime);
  if (const double files = open_files(); files > 0)
    family("process_open_fds", "gauge", "Number of open file descriptors.", files);
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    family("process_max_fds", "gauge", "Maximum number of open file descriptors.",
           static_cast<double>(limit.rlim_cur));
  }
}

void add_engine(PrometheusText& out, const EngineStats& stats, const EngineMetrics* metrics) {
  const double used = stats.num_blocks > 0 ? 1.0 - static_cast<double>(stats.num_free_blocks) /
                                                       static_cast<double>(stats.num_blocks)
                                           : 0.0;
  for (const StatsRow& row : kStats) {
    out.family(row.name, row.type, row.help);
    out.sample(static_cast<double>(stats.*row.value));
  }
  out.gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", used);
  out.gauge("atom:kv_cache_blocks_used", "KV cache blocks that sequences hold.",
            static_cast<double>(stats.num_blocks - stats.num_free_blocks));
  out.gauge("atom:kv_cache_usage_ratio", "Used share of the KV cache, 1 = all.", used);
  out.gauge("atom:engine_healthy", "1 while the step loop makes progress, else 0.",
            stats.condition == EngineCondition::kOk ? 1 : 0);
  out.gauge("atom:engine_seconds_since_progress",
            "Time since the engine made progress while there is work, else 0.",
            stats.seconds_since_progress);
  if (metrics == nullptr) return;
  out.family("vllm:request_success_total", "counter", "Count of successfully processed requests.");
  int64_t ended = 0;
  for (size_t i = 0; i < std::size(kFinishReasons); ++i) {
    const int64_t count = metrics->finished[i].value();
    ended += count;
    out.sample(static_cast<double>(count), {{"finished_reason", kFinishReasons[i]}});
  }
  out.counter("atom:requests_finished_total", "Ended choices, whatever the reason.",
              static_cast<double>(ended));
  for (const HistogramRow& row : kHistograms) {
    out.family(row.name, "histogram", row.help);
    out.histogram(metrics->*row.histogram);
  }
}

// Only where tokens are drafted, as vLLM does.
void add_drafts(PrometheusText& out, const EngineStats& stats) {
  if (stats.draft_method == DraftMethod::kNone) return;
  const DraftStats& drafts = stats.drafts;
  out.counter("vllm:spec_decode_num_drafts_total", "Number of spec decoding drafts.",
              static_cast<double>(drafts.num_drafts));
  out.counter("vllm:spec_decode_num_draft_tokens_total", "Number of draft tokens.",
              static_cast<double>(drafts.num_draft_tokens));
  out.counter("vllm:spec_decode_num_accepted_tokens_total", "Number of accepted tokens.",
              static_cast<double>(drafts.num_accepted_tokens));
  out.family("vllm:spec_decode_num_accepted_tokens_per_pos_total", "counter",
             "Accepted tokens per draft position.");
  for (int i = 0; i < stats.max_draft_tokens; ++i) {
    const std::string position = std::to_string(i);
    out.sample(static_cast<double>(drafts.num_accepted_at[static_cast<size_t>(i)]),
               {{"position", position}});
  }
}

void add_http(PrometheusText& out, const ApiMetrics& metrics,
              std::span<const ApiServer::Route> routes) {
  const auto name_of = [&](size_t i) { return i < routes.size() ? routes[i].path : "none"; };
  out.family("http_requests_total", "counter",
             "Total number of requests by method, status and handler.", false);
  for (size_t i = 0; i < metrics.routes.size(); ++i) {
    for (size_t m = 0; m < std::size(kHttpMethods); ++m) {
      for (size_t s = 0; s < std::size(kStatusClasses); ++s) {
        const int64_t count = metrics.routes[i].answers[m][s].value();
        if (count == 0) continue;
        out.sample(
            static_cast<double>(count),
            {{"handler", name_of(i)}, {"method", kHttpMethods[m]}, {"status", kStatusClasses[s]}});
      }
    }
  }
  out.family("http_request_duration_seconds", "histogram",
             "Latency of requests by handler, to the end of the answer.", false);
  for (size_t i = 0; i < metrics.routes.size(); ++i) {
    const std::string_view method = i < routes.size() ? routes[i].method : "other";
    out.histogram(metrics.routes[i].duration, {{"handler", name_of(i)}, {"method", method}});
  }
}

}  // namespace

std::optional<http::Response> ApiServer::metrics(Call&) {
  const EngineStats stats = engine_.stats();
  PrometheusText out({{"model_name", options_.served_model_names[0]}, {"engine", "0"}});
  add_engine(out, stats, engine_.metrics());
  add_drafts(out, stats);

  out.family("vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig", false);
  const std::string block_size = std::to_string(stats.block_size);
  const std::string num_blocks = std::to_string(stats.num_blocks);
  out.sample(1, {{"block_size", block_size},
                 {"num_gpu_blocks", num_blocks},
                 {"cache_dtype", options_.cache_dtype},
                 {"enable_prefix_caching", options_.enable_prefix_caching ? "True" : "False"},
                 {"engine", "0"}});

  out.gauge("atom:num_sequences_in_flight", "Sequences admitted and not finished.",
            static_cast<double>(metrics_->in_flight.load()));
  out.gauge("atom:max_num_seqs", "Sequences that may run at once.",
            static_cast<double>(options_.max_num_seqs));
  out.gauge("atom:max_sequences_in_flight", "Sequences in flight beyond which the answer is 503.",
            static_cast<double>(options_.max_in_flight));
  out.gauge("atom:max_model_len", "Context length in tokens.",
            static_cast<double>(options_.limits.max_model_len));
  out.gauge("atom:draining", "1 after SIGTERM or SIGINT, else 0.", draining_.load() ? 1 : 0);
  out.family("atom:requests_rejected_total", "counter",
             "Generation requests refused before they reached the engine, by reason.");
  for (size_t i = 0; i < std::size(kRejectionNames); ++i) {
    out.sample(static_cast<double>(metrics_->rejected[i].value()),
               {{"reason", kRejectionNames[i]}});
  }
  out.counter("atom:http_refused_total",
              "Requests answered by the HTTP layer itself: framing, limits, deadlines.",
              static_cast<double>(metrics_->refused_connections.value()));
  if (options_.http_stats) {
    const http::HttpStats http = options_.http_stats();
    out.gauge("atom:http_connections", "Open connections.",
              static_cast<double>(http.open_connections));
    out.gauge("atom:http_requests_in_progress", "Requests whose answer is not complete.",
              static_cast<double>(http.active_exchanges));
    out.counter("atom:http_disconnects_total", "Clients that left before the end of their answer.",
                static_cast<double>(http.disconnects));
  }
  out.counter("atom:log_lines_dropped_total",
              "Log lines dropped because their reader was too slow.",
              static_cast<double>(num_dropped_log_lines()));
  out.family("atom:build_info", "gauge", "Version of the server; always 1.", false);
  out.sample(1, {{"version", ATOM_VERSION}});
  add_process(out);
  add_http(out, *metrics_, routes());
  return http::Response{.content_type = "text/plain; version=0.0.4; charset=utf-8",
                        .body = out.take()};
}

}  // namespace atom::openai
