// The text format, the histogram under many readers, and what the page's policy is made of.
#include <gtest/gtest.h>

#include <limits>
#include <thread>

#include "atom/entrypoints/openai/api_metrics.h"
#include "atom/entrypoints/openai/page.h"
#include "atom/entrypoints/openai/prometheus_text.h"

namespace atom::openai {
namespace {

TEST(PrometheusText, SamplesAndLabels) {
  PrometheusText out({{"model_name", "a\"b\\c\nd"}});
  out.gauge("g", "A gauge.", 0.25);
  out.family("c_total", "counter", "Counts.", false);
  out.sample(3, {{"x", "1"}, {"y", ""}});
  out.sample(1e20);
  out.sample(std::numeric_limits<double>::infinity());
  EXPECT_EQ(out.take(),
            "# HELP g A gauge.\n# TYPE g gauge\ng{model_name=\"a\\\"b\\\\c\\nd\"} 0.25\n"
            "# HELP c_total Counts.\n# TYPE c_total counter\n"
            "c_total{x=\"1\",y=\"\"} 3\nc_total 1e+20\nc_total +Inf\n");
}

TEST(PrometheusText, HistogramIsCumulative) {
  constexpr double kBounds[] = {0.5, 1, 10};
  Histogram histogram(kBounds);
  for (const double value : {0.1, 0.5, 0.6, 10.0, 11.0, 1e9}) histogram.observe(value);
  PrometheusText out({{"m", "x"}});
  out.family("h", "histogram", "H.");
  out.histogram(histogram, {{"k", "v"}});
  const std::string text = out.take();
  EXPECT_NE(text.find("h_bucket{m=\"x\",k=\"v\",le=\"0.5\"} 2\n"
                      "h_bucket{m=\"x\",k=\"v\",le=\"1.0\"} 3\n"
                      "h_bucket{m=\"x\",k=\"v\",le=\"10.0\"} 4\n"
                      "h_bucket{m=\"x\",k=\"v\",le=\"+Inf\"} 6\n"
                      "h_count{m=\"x\",k=\"v\"} 6\n"
                      "h_sum{m=\"x\",k=\"v\"} 1000000022.2\n"),
            std::string::npos)
      << text;
}

TEST(RouteMetrics, CountsFromManyThreadsByClosedLabels) {
  RouteMetrics route;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&route] {
      for (int i = 0; i < 10000; ++i)
        route.count(i % 2 == 0 ? "POST" : "BREW", 200 + i % 3 * 100, 0.2);
    });
  }
  for (std::thread& thread : threads) thread.join();
  int64_t total = 0;
  for (const auto& method : route.answers)
    for (const Counter& counter : method) total += counter.value();
  EXPECT_EQ(total, 40000);
  EXPECT_EQ(route.answers[2][1].value() + route.answers[4][1].value(), 4 * 3334);
  EXPECT_EQ(route.duration.count(1), 40000);
  route.count("GET", 99, 0);
  route.count("GET", 1000, 0);
  EXPECT_EQ(route.answers[0][0].value() + route.answers[0][4].value(), 2);
}

// The hash is that of the W3C's example: 'alert('Hello, world.');'.
TEST(Page, PolicyNamesStyleAndScriptByHash) {
  const Page page =
      make_page("<style></style><p><script></script>", "p{}", "alert('Hello, world.');");
  EXPECT_EQ(page.html, "<style>p{}</style><p><script>alert('Hello, world.');</script>");
  EXPECT_NE(page.content_security_policy.find(
                "script-src 'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='"),
            std::string::npos)
      << page.content_security_policy;
  EXPECT_EQ(ui_page().html.find("</script>", ui_page().html.find("<script>")),
            ui_page().html.rfind("</script>"))
      << "the script must not contain its own end";
}

}  // namespace
}  // namespace atom::openai
