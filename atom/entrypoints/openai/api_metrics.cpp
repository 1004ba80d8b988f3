#include "atom/entrypoints/openai/api_metrics.h"

#include <algorithm>

namespace atom::openai {
namespace {

// Those of prometheus-fastapi-instrumentator, which vLLM's dashboards know.
constexpr double kDurations[] = {0.1, 0.5, 1};

}  // namespace

RouteMetrics::RouteMetrics() : duration(kDurations) {}

void RouteMetrics::count(std::string_view method, int status, double seconds) {
  const auto known = std::find(std::begin(kHttpMethods), std::end(kHttpMethods) - 1, method);
  const auto row = static_cast<size_t>(known - std::begin(kHttpMethods));
  answers[row][static_cast<size_t>(std::clamp(status / 100, 1, 5) - 1)].add();
  duration.observe_shared(seconds);
}

}  // namespace atom::openai
