// ApiMetrics: what the routes count: HTTP answers by route and status, refused generations by
// reason, sequences in flight. Labels come from closed sets (the route table, the enums here), so
// no client can make them grow. Shared by everything that outlives a handler.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "atom/core/metrics.h"

namespace atom::openai {

// Why a generation did not reach the engine.
enum class Rejection : uint8_t {
  kInvalid,
  kUnknownModel,
  kContextLength,
  kQueueFull,
  kDraining,
  kEngine
};
inline constexpr std::string_view kRejectionNames[] = {
    "invalid_request", "unknown_model", "context_length", "queue_full", "draining", "engine"};

inline constexpr std::string_view kHttpMethods[] = {"GET", "HEAD", "POST", "OPTIONS", "other"};
inline constexpr std::string_view kStatusClasses[] = {"1xx", "2xx", "3xx", "4xx", "5xx"};

// Answers of one route.
class RouteMetrics {
 public:
  RouteMetrics();
  void count(std::string_view method, int status, double seconds);

  Histogram duration;
  // [method][status class]
  std::array<std::array<Counter, std::size(kStatusClasses)>, std::size(kHttpMethods)> answers;
};

struct ApiMetrics {
  explicit ApiMetrics(size_t num_routes) : routes(num_routes + 1) {}
  // Index num_routes is for what no route serves.
  RouteMetrics& route(size_t index) { return routes[std::min(index, routes.size() - 1)]; }
  Counter& rejected_by(Rejection reason) { return rejected[static_cast<size_t>(reason)]; }

  std::atomic<int64_t> in_flight{0};  // sequences admitted and not finished
  std::array<Counter, std::size(kRejectionNames)> rejected;
  Counter refused_connections;  // answered by the HTTP layer: framing, limits, deadlines
  std::vector<RouteMetrics> routes;
};

}  // namespace atom::openai
