// A result in the form of PyTorch's benchmark database, one record for each metric, as vLLM's
// benchmarks write it when SAVE_TO_PYTORCH_BENCHMARK_FORMAT is set.
#pragma once

#include <boost/json/fwd.hpp>
#include <filesystem>
#include <string>

#include "atom/core/error.h"

namespace atom {

struct PytorchRecords {
  std::string model = {};
  std::string arguments = {};  // the command's flags, a JSON object; --api-key is left out
};

// Writes RESULT.pytorch.json beside RESULT.json. `metrics`: name -> list of values; `extra_info`
// goes into every record. Nothing is written when there is no metric.
Status write_pytorch_records(const std::filesystem::path& result_path,
                             const PytorchRecords& records, const boost::json::object& metrics,
                             const boost::json::object& extra_info);

// The same for a result of the serving benchmark: its latencies are the metrics, the rest but the
// lists of times, texts and errors is extra_info.
Status write_serving_pytorch_records(const std::filesystem::path& result_path,
                                     const PytorchRecords& records,
                                     const boost::json::object& result);

}  // namespace atom
