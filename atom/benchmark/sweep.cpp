#include "atom/benchmark/sweep.h"

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "atom/core/json.h"

namespace atom {
namespace {

enum class Found { kNothing, kWhole, kPartial, kDamaged };

// A partial or damaged file is measured again.
Found look(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return Found::kNothing;
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const auto parsed = parse_json(text);
  if (!parsed || !parsed->is_object()) return Found::kDamaged;
  return parsed->get_object().contains("partial") ? Found::kPartial : Found::kWhole;
}

}  // namespace

std::string sweep_file_name(const SweepOptions& options, const SweepPoint& point) {
  return str_format("{}_tp{}_isl{}_osl{}_conc{}.json", options.prefix, options.tensor_parallel_size,
                    point.input_len, point.output_len, point.concurrency);
}

Result<SweepSummary> run_sweep(const SweepOptions& options, const BenchmarkSink& sink) {
  SweepSummary summary;
  for (const auto& [input_len, output_len] : options.lengths) {
    for (const int64_t concurrency : options.concurrencies) {
      const SweepPoint point{input_len, output_len, concurrency};
      ServingBenchmarkOptions run = options.base;
      run.result_filename = sweep_file_name(options, point);
      const Found found = look(std::filesystem::path(run.result_dir) / run.result_filename);
      if (found == Found::kWhole) {
        sink.print("skipped, it is there: " + run.result_filename + "\n");
        ++summary.skipped;
        continue;
      }
      sink.print(str_format(
          "{}{}\n", found == Found::kNothing ? "" : "measured again: ", run.result_filename));
      run.save_result = true;
      run.dataset.name = "random";
      run.dataset.random_input_len = input_len;
      run.dataset.random_output_len = output_len;
      run.dataset.num_prompts = concurrency * options.prompts_per_client;
      run.max_concurrency = concurrency;
      run.time_limit = options.point_time_limit;
      const auto result = run_serving_benchmark(run, sink);
      summary.interrupted = sink.hooks.interrupted && sink.hooks.interrupted();
      if (summary.interrupted) return summary;
      if (!result) {
        // A wrong flag is wrong for all points; a server that fails at one may serve the next.
        if (result.error().param.starts_with('-')) return std::unexpected(result.error());
        sink.print("FAILED: " + result.error().message + "\n");
        ++summary.failed;
        continue;
      }
      ++(result->stopped.empty() ? summary.measured : summary.partial);
    }
  }
  return summary;
}

}  // namespace atom
