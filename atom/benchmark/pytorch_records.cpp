#include "atom/benchmark/pytorch_records.h"

#include <algorithm>
#include <boost/json.hpp>
#include <string_view>

#include "atom/benchmark/result_file.h"
#include "atom/core/json.h"
#include "atom/core/json_text.h"

namespace atom {
namespace {

namespace json = boost::json;

// The metrics of the original's serving benchmark; those that a result lacks have no record.
constexpr std::string_view kServingMetrics[] = {"median_ttft_ms", "mean_ttft_ms", "std_ttft_ms",
                                                "p99_ttft_ms",    "mean_tpot_ms", "median_tpot_ms",
                                                "std_tpot_ms",    "p99_tpot_ms",  "median_itl_ms",
                                                "mean_itl_ms",    "std_itl_ms",   "p99_itl_ms"};
constexpr std::string_view kIgnored[] = {"ttfts", "itls", "generated_texts", "errors"};

// Flags say nothing of a server's -tp: it is taken from --metadata tensor_parallel_size=N.
void take_tensor_parallel_size(const json::object& extra_info, json::object& arguments) {
  constexpr std::string_view kKey = "tensor_parallel_size";
  const json::value* given = extra_info.if_contains(kKey);
  if (given != nullptr && !arguments.contains(kKey)) arguments[kKey] = *given;
}

}  // namespace

Status write_pytorch_records(const std::filesystem::path& result_path,
                             const PytorchRecords& records, const json::object& metrics,
                             const json::object& extra_info) {
  if (metrics.empty()) return {};
  ATOM_ASSIGN_OR_RETURN(json::value parsed, parse_json(records.arguments));
  json::object& arguments = parsed.as_object();
  take_tensor_parallel_size(extra_info, arguments);
  arguments.erase("api_key");
  json::array out;
  for (const auto& [name, values] : metrics) {
    out.push_back(
        {{"benchmark", {{"name", "ATOM benchmark"}, {"extra_info", {{"args", arguments}}}}},
         {"model", {{"name", records.model}}},
         {"metric", {{"name", name}, {"benchmark_values", values}, {"extra_info", extra_info}}}});
  }
  std::filesystem::path path = result_path;
  return write_result_file(path.replace_extension(".pytorch.json"), json_text(out));
}

Status write_serving_pytorch_records(const std::filesystem::path& result_path,
                                     const PytorchRecords& records, const json::object& result) {
  json::object metrics;
  for (const std::string_view name : kServingMetrics) {
    if (const json::value* value = result.if_contains(name)) metrics[name] = json::array{*value};
  }
  json::object extra_info;
  for (const auto& [key, value] : result) {
    if (metrics.contains(key) ||
        std::ranges::find(kIgnored, std::string_view(key)) != std::end(kIgnored))
      continue;
    extra_info[key] = value;
  }
  return write_pytorch_records(result_path, records, metrics, extra_info);
}

}  // namespace atom
