#include "atom/benchmark/load_generator.h"

#include <ctime>
#include <memory>

#include "atom/benchmark/http_load_client.h"
#include "atom/core/printable.h"

namespace atom {
namespace {

using Clock = HttpLoadClient::Clock;

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

double thread_cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

std::vector<std::pair<std::string, std::string>> request_headers(const std::string& api_key) {
  std::vector<std::pair<std::string, std::string>> headers = {{"Content-Type", "application/json"}};
  if (!api_key.empty()) headers.emplace_back("Authorization", "Bearer " + api_key);
  return headers;
}

// An error body in a line: the message of an OpenAI error object, else its beginning.
std::string error_line(const HttpOutcome& outcome, const std::string& body) {
  if (!outcome.error.empty()) return outcome.error;
  std::string line = str_format("HTTP {}", outcome.status);
  return body.empty() ? line + " " + outcome.reason : line + ": " + printable(body, 300);
}

class Run {
 public:
  Run(const LoadOptions& options, const std::vector<SampleRequest>& samples, NumpyRandom& random,
      const LoadHooks& hooks, HttpLoadClient& client)
      : options_(options), samples_(samples), random_(random), hooks_(hooks), client_(client) {
    result_.requests.resize(samples.size());
    progress_.total = static_cast<int64_t>(samples.size());
  }

  LoadResult run() {
    const double cpu_before = thread_cpu_seconds();
    start_ = last_change_ = last_end_ = Clock::now();
    if (options_.time_limit > 0) {
      client_.at_most(nanoseconds(options_.time_limit), [this] {
        stop(str_format("the time limit of {:g} s was reached", options_.time_limit));
      });
    }
    arrive();
    client_.run([this] { tick(); });
    tick();
    count_running(0);
    result_.duration = seconds_between(start_, last_end_);
    if (result_.duration > 0) result_.mean_concurrency = in_flight_ / result_.duration;
    result_.client_cpu = thread_cpu_seconds() - cpu_before;
    return std::move(result_);
  }

 private:
  // What one request needs while it runs.
  struct Active {
    size_t index = 0;
    Clock::time_point sent;
    Clock::time_point last;
    bool done = false;
    std::string body;  // of errors and of backends that do not stream
    EventSplitter splitter;
  };

  static std::chrono::nanoseconds nanoseconds(double seconds) {
    return std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
  }

  void stop(const std::string& why) {
    if (!result_.stopped.empty()) return;
    result_.stopped = why;
    client_.cancel(why);
  }

  void tick() {
    if (hooks_.interrupted && hooks_.interrupted()) stop("interrupted");
    progress_.seconds = seconds_between(start_, Clock::now());
    if (hooks_.progress) hooks_.progress(progress_);
  }

  // Requests arrive one after another at gaps of a gamma law, then wait for a free place.
  void arrive() {
    while (arrived_ < samples_.size()) {
      ++arrived_;
      send_waiting();
      if (options_.request_rate == std::numeric_limits<double>::infinity()) continue;
      arrival_time_ +=
          random_.gamma(options_.burstiness, 1.0 / (options_.request_rate * options_.burstiness));
      const double wait = arrival_time_ - seconds_between(start_, Clock::now());
      if (wait <= 0) continue;
      client_.after(nanoseconds(wait), [this] { arrive(); });
      return;
    }
  }

  void send_waiting() {
    while (sent_ < arrived_ && result_.stopped.empty() &&
           (options_.max_concurrency == 0 || progress_.running < options_.max_concurrency)) {
      send(sent_++);
    }
  }

  void count_running(int64_t change) {
    const auto now = Clock::now();
    in_flight_ += static_cast<double>(progress_.running) * seconds_between(last_change_, now);
    last_change_ = now;
    progress_.running += change;
  }

  void send(size_t index) {
    const SampleRequest& sample = samples_[index];
    result_.requests[index].prompt_len = sample.prompt_len;
    HttpPost post{.path = options_.endpoint,
                  .headers = request_headers(options_.api_key),
                  .body = options_.backend->body({.model = options_.model,
                                                  .prompt = sample.prompt,
                                                  .output_len = sample.output_len,
                                                  .best_of = options_.best_of,
                                                  .logprobs = options_.logprobs,
                                                  .ignore_eos = options_.ignore_eos})};
    count_running(+1);
    auto active = std::make_shared<Active>();
    active->index = index;
    active->sent = active->last = Clock::now();
    result_.requests[index].start = seconds_between({}, active->sent);
    client_.send(
        std::move(post),
        [this, active](std::string_view bytes, Clock::time_point now) {
          received(*active, bytes, now);
        },
        [this, active](const HttpOutcome& outcome) { ended(*active, outcome); });
  }

  void received(Active& active, std::string_view bytes, Clock::time_point now) {
    constexpr size_t kKept = 4096;  // of an error, for its message
    if (!options_.backend->streams || active.body.size() < kKept) active.body.append(bytes);
    if (!options_.backend->streams) return;
    RequestResult& result = result_.requests[active.index];
    active.splitter.push(bytes);
    while (const auto event = active.splitter.next()) take_event(active, result, *event, now);
    if (active.splitter.overflowed() && result.error.empty())
      result.error = "a line of the stream has no end";
  }

  void take_event(Active& active, RequestResult& result, std::string_view text,
                  Clock::time_point now) {
    if (active.done || !result.error.empty()) return;
    const Result<StreamEvent> event = options_.backend->read(text);
    if (!event) {
      result.error = event.error().message;
      return;
    }
    if (!event->error.empty()) result.error = event->error;
    if (event->completion_tokens) result.output_len = event->completion_tokens;
    if (event->done) active.done = true;
    if (!event->has_choice) return;
    ++progress_.tokens;
    if (result.ttft == 0) {
      result.ttft = seconds_between(active.sent, now);
    } else {
      result.itl.push_back(seconds_between(active.last, now));
    }
    active.last = now;
    result.latency = seconds_between(active.sent, now);
    result.text += event->text;
  }

  void ended(Active& active, const HttpOutcome& outcome) {
    RequestResult& result = result_.requests[active.index];
    const auto now = Clock::now();
    last_end_ = now;
    count_running(-1);
    result.finished = result_.stopped.empty();
    if (!outcome.error.empty() || outcome.status != 200) {
      result.error = error_line(outcome, active.body);
    } else if (!options_.backend->streams) {
      active.splitter = EventSplitter();
      take_event(active, result, active.body, now);
      result.ttft = result.latency;  // nothing came earlier
    }
    if (result.error.empty() && result.ttft == 0) result.error = "the stream ended without a token";
    result.success = result.error.empty();
    if (result.finished) ++(result.success ? progress_.done : progress_.failed);
    send_waiting();
  }

  const LoadOptions& options_;
  const std::vector<SampleRequest>& samples_;
  NumpyRandom& random_;
  const LoadHooks& hooks_;
  HttpLoadClient& client_;
  LoadResult result_;
  LoadProgress progress_;
  Clock::time_point start_, last_change_, last_end_;
  double arrival_time_ = 0;  // seconds after start_ at which the next request arrives
  double in_flight_ = 0;     // integral of running requests over time
  size_t arrived_ = 0;
  size_t sent_ = 0;
};

}  // namespace

Result<LoadResult> generate_load(const LoadOptions& options,
                                 const std::vector<SampleRequest>& samples, NumpyRandom& random,
                                 const LoadHooks& hooks) {
  ATOM_ASSIGN_OR_RETURN(const auto client, HttpLoadClient::create(options.base_url));
  return Run(options, samples, random, hooks, *client).run();
}

Result<HttpAnswer> fetch(const std::string& base_url, const std::string& method,
                         const std::string& path, const std::string& body,
                         const std::string& api_key) {
  ATOM_ASSIGN_OR_RETURN(const auto client, HttpLoadClient::create(base_url));
  HttpAnswer answer;
  HttpOutcome end;
  client->send(
      {.method = method, .path = path, .headers = request_headers(api_key), .body = body},
      [&](std::string_view bytes, Clock::time_point) { answer.body.append(bytes); },
      [&](const HttpOutcome& outcome) { end = outcome; });
  client->at_most(std::chrono::seconds(600), [&] { client->cancel("no answer within 600 s"); });
  client->run({});
  if (!end.error.empty())
    return make_error(ErrorCode::kUnavailable, "{}{}: {}", printable(base_url), path, end.error);
  answer.status = end.status;
  return answer;
}

}  // namespace atom
