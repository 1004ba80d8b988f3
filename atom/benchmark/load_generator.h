// Sends the sampled requests to a server at the wanted rate and concurrency, and times every token
// of every answer. One thread; no statistics (metrics.h), no files.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "atom/benchmark/backend.h"
#include "atom/benchmark/dataset.h"
#include "atom/core/error.h"

namespace atom {

struct LoadOptions {
  const Backend* backend = nullptr;
  std::string base_url = {};
  std::string endpoint = {};  // path
  std::string model = {};
  std::string api_key = {};  // empty: no Authorization field
  int64_t best_of = 1;
  std::optional<int64_t> logprobs = {};
  bool ignore_eos = false;
  double request_rate = std::numeric_limits<double>::infinity();  // requests a second
  double burstiness = 1.0;      // shape of the gamma law of the gaps: 1 Poisson, below burstier
  int64_t max_concurrency = 0;  // 0: no bound
  double time_limit = 0;        // seconds; 0: none
};

// Times in seconds.
struct RequestResult {
  bool success = false;
  bool finished = false;  // an answer or an error came; false: cut off when the run was stopped
  std::string error = {};
  int64_t prompt_len = 0;                  // tokens
  std::optional<int64_t> output_len = {};  // tokens, as the server counted them
  std::string text = {};
  double start = 0;  // of the steady clock, when the request was sent
  double ttft = 0;
  double latency = 0;  // to the last piece of the answer
  std::vector<double> itl = {};
};

struct LoadProgress {
  int64_t done = 0;
  int64_t failed = 0;
  int64_t running = 0;
  int64_t total = 0;
  double seconds = 0;
  int64_t tokens = 0;  // events that carried a choice
};

struct LoadHooks {
  std::function<void(const LoadProgress&)> progress = {};  // five times a second, and at the end
  std::function<bool()> interrupted = {};                  // asked five times a second
};

struct LoadResult {
  std::vector<RequestResult> requests;  // in the order of the samples
  double duration = 0;                  // seconds from the first request to the last answer
  double mean_concurrency = 0;          // requests in flight, averaged over `duration`
  double client_cpu = 0;                // CPU seconds this thread spent
  std::string stopped = {};             // why the run ended early; empty when it did not
};

// `random` draws the gaps between arrivals.
Result<LoadResult> generate_load(const LoadOptions& options,
                                 const std::vector<SampleRequest>& samples, NumpyRandom& random,
                                 const LoadHooks& hooks);

// One request without a body or with `body`, its whole answer. For /start_profile, /version, ….
struct HttpAnswer {
  int status = 0;
  std::string body = {};
};
Result<HttpAnswer> fetch(const std::string& base_url, const std::string& method,
                         const std::string& path, const std::string& body,
                         const std::string& api_key);

}  // namespace atom
