#include "atom/benchmark/metrics.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <numeric>

#include "atom/core/format.h"

namespace atom {
namespace {

struct MetricName {
  const char* key;
  const char* shown;
  const char* heading;
};

constexpr MetricName kMetricNames[] = {
    {"ttft", "TTFT", "Time to First Token"},
    {"tpot", "TPOT", "Time per Output Token (excl. 1st token)"},
    {"itl", "ITL", "Inter-token Latency"},
    {"e2el", "E2EL", "End-to-end Latency"},
};

double sorted_percentile(const std::vector<double>& sorted, double percentile) {
  if (sorted.empty()) return 0;
  const double at = percentile / 100.0 * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - static_cast<double>(low));
}

LatencySummary summarise(std::vector<double> seconds, const std::vector<double>& percentiles) {
  LatencySummary out;
  out.percentiles.assign(percentiles.size(), 0.0);
  if (seconds.empty()) return out;
  std::sort(seconds.begin(), seconds.end());
  const auto n = static_cast<double>(seconds.size());
  const double mean = std::accumulate(seconds.begin(), seconds.end(), 0.0) / n;
  double squares = 0;
  for (const double value : seconds) squares += (value - mean) * (value - mean);
  out.mean = mean * 1e3;
  out.std = std::sqrt(squares / n) * 1e3;
  out.median = sorted_percentile(seconds, 50) * 1e3;
  for (size_t i = 0; i < percentiles.size(); ++i)
    out.percentiles[i] = sorted_percentile(seconds, percentiles[i]) * 1e3;
  return out;
}

bool shown(const MetricsOptions& options, const char* key) {
  return std::find(options.metrics.begin(), options.metrics.end(), key) != options.metrics.end();
}

std::string row(std::string_view label, double value) {
  return str_format("{:<40} {:<10.2f}\n", label, value);
}

std::string row(std::string_view label, int64_t value) {
  return str_format("{:<40} {:<10}\n", label, value);
}

std::string rule(std::string_view title, char fill) {
  const size_t left = (50 - std::min<size_t>(title.size(), 50)) / 2;
  std::string line(left, fill);
  line += title;
  line.resize(50, fill);
  return line + "\n";
}

std::string speculation_table(const SpeculationStats& stats) {
  std::string out = rule("Speculative Decoding", '-');
  out += row("Acceptance rate (%):", 100 * stats.acceptance_rate);
  out += row("Acceptance length:", stats.acceptance_length);
  if (stats.drafts) out += row("Drafts:", *stats.drafts);
  if (stats.draft_tokens) out += row("Draft tokens:", *stats.draft_tokens);
  if (stats.accepted_tokens) out += row("Accepted tokens:", *stats.accepted_tokens);
  if (!stats.per_position.empty()) out += "Per-position acceptance (%):\n";
  for (size_t i = 0; i < stats.per_position.size(); ++i)
    out += row(str_format("  Position {}:", i), 100 * stats.per_position[i]);
  return out;
}

// vLLM's keys, then those of ATOM's client.
void append_speculation(const SpeculationStats& stats, boost::json::object& out) {
  out["spec_decode_acceptance_rate"] = 100 * stats.acceptance_rate;
  out["spec_decode_acceptance_length"] = stats.acceptance_length;
  if (stats.drafts) out["spec_decode_num_drafts"] = *stats.drafts;
  if (stats.draft_tokens) out["spec_decode_draft_tokens"] = *stats.draft_tokens;
  if (stats.accepted_tokens) out["spec_decode_accepted_tokens"] = *stats.accepted_tokens;
  if (stats.drafts) {
    out["spec_decode_per_position_acceptance_rates"] =
        boost::json::array(stats.per_position.begin(), stats.per_position.end());
  }
  out["accept_length"] = stats.tokens_per_forward;
  out["acceptance_rate"] = stats.acceptance_rate;
}

int64_t output_tokens(const RequestResult& request, const Tokenizer* tokenizer) {
  if (request.output_len) return *request.output_len;
  if (tokenizer != nullptr)
    return static_cast<int64_t>(tokenizer->encode(request.text, false).size());
  return static_cast<int64_t>(request.itl.size()) + 1;
}

bool meets(const std::map<std::string, double>& goodput, const RequestResult& request,
           double tpot) {
  const auto within = [&](const char* key, double seconds) {
    const auto found = goodput.find(key);
    return found == goodput.end() || seconds * 1e3 <= found->second;
  };
  return within("ttft", request.ttft) && within("tpot", tpot) && within("e2el", request.latency);
}

}  // namespace

double percentile_of(std::vector<double> values, double percentile) {
  std::sort(values.begin(), values.end());
  return sorted_percentile(values, percentile);
}

std::string percentile_name(double percentile) {
  return percentile == std::floor(percentile) ? str_format("{}", static_cast<int64_t>(percentile))
                                              : str_format("{}", percentile);
}

BenchmarkMetrics compute_metrics(const LoadResult& load, const MetricsOptions& options,
                                 const Tokenizer* tokenizer) {
  BenchmarkMetrics out;
  std::map<std::string, std::vector<double>> seconds;
  int64_t good = 0;
  for (const RequestResult& request : load.requests) {
    out.output_lens.push_back(0);
    if (!request.success) {
      ++(request.finished ? out.failed : out.unfinished);
      continue;
    }
    const int64_t output_len = output_tokens(request, tokenizer);
    out.output_lens.back() = output_len;
    ++out.completed;
    out.total_input += request.prompt_len;
    out.total_output += output_len;
    double tpot = 0;
    if (output_len > 1) {
      tpot = (request.latency - request.ttft) / static_cast<double>(output_len - 1);
      seconds["tpot"].push_back(tpot);
    }
    seconds["ttft"].push_back(request.ttft);
    seconds["e2el"].push_back(request.latency);
    auto& itl = seconds["itl"];
    itl.insert(itl.end(), request.itl.begin(), request.itl.end());
    good += meets(options.goodput, request, tpot) ? 1 : 0;
  }
  const double duration = std::max(load.duration, 1e-9);
  out.request_throughput = static_cast<double>(out.completed) / duration;
  out.request_goodput = static_cast<double>(good) / duration;
  out.output_throughput = static_cast<double>(out.total_output) / duration;
  out.total_token_throughput = static_cast<double>(out.total_input + out.total_output) / duration;
  for (const MetricName& metric : kMetricNames)
    out.latency[metric.key] = summarise(std::move(seconds[metric.key]), options.percentiles);
  return out;
}

std::string metrics_table(const BenchmarkMetrics& metrics, const LoadResult& load,
                          const MetricsOptions& options) {
  std::string out = rule(" Serving Benchmark Result ", '=');
  out += row("Successful requests:", metrics.completed);
  if (metrics.failed > 0) out += row("FAILED requests:", metrics.failed);
  if (metrics.unfinished > 0) out += row("Unfinished requests:", metrics.unfinished);
  out += row("Benchmark duration (s):", load.duration);
  out += row("Total input tokens:", metrics.total_input);
  out += row("Total generated tokens:", metrics.total_output);
  out += row("Request throughput (req/s):", metrics.request_throughput);
  if (!options.goodput.empty()) out += row("Request goodput (req/s):", metrics.request_goodput);
  out += row("Output token throughput (tok/s):", metrics.output_throughput);
  out += row("Total Token throughput (tok/s):", metrics.total_token_throughput);
  for (const MetricName& metric : kMetricNames) {
    if (!shown(options, metric.key)) continue;
    const LatencySummary& latency = metrics.latency.at(metric.key);
    out += rule(metric.heading, '-');
    out += row(str_format("Mean {} (ms):", metric.shown), latency.mean);
    out += row(str_format("Median {} (ms):", metric.shown), latency.median);
    for (size_t i = 0; i < options.percentiles.size(); ++i) {
      out += row(str_format("P{} {} (ms):", percentile_name(options.percentiles[i]), metric.shown),
                 latency.percentiles[i]);
    }
  }
  if (metrics.speculation) out += speculation_table(*metrics.speculation);
  return out + std::string(50, '=') + "\n";
}

void append_metrics(const BenchmarkMetrics& metrics, const LoadResult& load,
                    const MetricsOptions& options, bool detailed, boost::json::object& out) {
  out["duration"] = load.duration;
  out["completed"] = metrics.completed;
  out["failed"] = metrics.failed;
  out["total_input_tokens"] = metrics.total_input;
  out["total_output_tokens"] = metrics.total_output;
  out["request_throughput"] = metrics.request_throughput;
  // The colon is part of the original's key; scripts read it so.
  out["request_goodput:"] = options.goodput.empty() ? boost::json::value(nullptr)
                                                    : boost::json::value(metrics.request_goodput);
  out["output_throughput"] = metrics.output_throughput;
  out["total_token_throughput"] = metrics.total_token_throughput;
  out["concurrency"] = load.mean_concurrency;
  if (!load.stopped.empty()) {
    out["partial"] = load.stopped;
    out["unfinished"] = metrics.unfinished;
  }
  if (detailed) {
    boost::json::array input_lens, output_lens, starts, ttfts, itls, texts, errors;
    for (size_t i = 0; i < load.requests.size(); ++i) {
      const RequestResult& request = load.requests[i];
      input_lens.emplace_back(request.prompt_len);
      output_lens.emplace_back(metrics.output_lens[i]);
      starts.emplace_back(request.start);
      ttfts.emplace_back(request.ttft);
      itls.emplace_back(boost::json::array(request.itl.begin(), request.itl.end()));
      texts.emplace_back(request.text);
      errors.emplace_back(request.error);
    }
    out["input_lens"] = std::move(input_lens);
    out["output_lens"] = std::move(output_lens);
    out["start_times"] = std::move(starts);
    out["ttfts"] = std::move(ttfts);
    out["itls"] = std::move(itls);
    out["generated_texts"] = std::move(texts);
    out["errors"] = std::move(errors);
  }
  for (const MetricName& metric : kMetricNames) {
    if (!shown(options, metric.key)) continue;
    const LatencySummary& latency = metrics.latency.at(metric.key);
    const std::string key = metric.key;
    out["mean_" + key + "_ms"] = latency.mean;
    out["median_" + key + "_ms"] = latency.median;
    out["std_" + key + "_ms"] = latency.std;
    for (size_t i = 0; i < options.percentiles.size(); ++i) {
      out["p" + percentile_name(options.percentiles[i]) + "_" + key + "_ms"] =
          latency.percentiles[i];
    }
  }
  if (metrics.speculation) append_speculation(*metrics.speculation, out);
}

std::vector<std::string> failure_reasons(const LoadResult& load, size_t limit) {
  std::map<std::string, int64_t> counts;
  for (const RequestResult& request : load.requests) {
    if (request.finished && !request.success) ++counts[request.error];
  }
  std::vector<std::pair<int64_t, std::string>> order;
  for (const auto& [reason, count] : counts) order.emplace_back(-count, reason);
  std::sort(order.begin(), order.end());
  std::vector<std::string> lines;
  for (const auto& [count, reason] : order) {
    if (lines.size() == limit) break;
    lines.push_back(str_format("{} x {}", -count, reason));
  }
  return lines;
}

}  // namespace atom
