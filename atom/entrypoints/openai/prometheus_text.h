// Writes Prometheus's text format 0.0.4: one HELP and TYPE per family, then its samples. Knows the
// syntax, not what is measured (metrics_routes.cpp).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "atom/core/metrics.h"

namespace atom::openai {

class PrometheusText {
 public:
  using Labels = std::initializer_list<std::pair<std::string_view, std::string_view>>;

  // The labels that samples of family() carry before their own.
  explicit PrometheusText(Labels common);

  void family(std::string_view name, std::string_view type, std::string_view help,
              bool with_common_labels = true);
  // A sample of the family begun last.
  void sample(double value, Labels labels = {});
  void histogram(const Histogram& histogram, Labels labels = {});

  // A family of one sample.
  void gauge(std::string_view name, std::string_view help, double value) {
    family(name, "gauge", help);
    sample(value);
  }
  void counter(std::string_view name, std::string_view help, double value) {
    family(name, "counter", help);
    sample(value);
  }

  std::string take() { return std::move(text_); }

 private:
  void append_name(std::string_view suffix, std::string_view labels, std::string_view le);

  std::string text_;
  std::string common_;  // a="b",c="d"
  std::string name_;
  bool with_common_ = true;
};

}  // namespace atom::openai
