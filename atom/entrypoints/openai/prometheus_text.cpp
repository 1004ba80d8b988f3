#include "atom/entrypoints/openai/prometheus_text.h"

#include <charconv>
#include <cmath>

namespace atom::openai {
namespace {

// Integers without a point: counters are.
void append_value(std::string& out, double value) {
  if (std::isnan(value)) {
    out += "NaN";
  } else if (std::isinf(value)) {
    out += value > 0 ? "+Inf" : "-Inf";
  } else {
    char digits[32];
    const bool whole = std::abs(value) < 1e15 && value == std::trunc(value);
    const auto end =
        whole ? std::to_chars(digits, digits + sizeof(digits), static_cast<int64_t>(value))
              : std::to_chars(digits, digits + sizeof(digits), value);
    out.append(digits, end.ptr);
  }
}

// A bound as the Python client prints it ("1.0"): queries select buckets by this text.
std::string bound_text(double bound) {
  std::string out;
  append_value(out, bound);
  if (out.find_first_of(".e") == std::string::npos) out += ".0";
  return out;
}

void append_labels(std::string& out, PrometheusText::Labels labels) {
  for (const auto& [name, value] : labels) {
    if (!out.empty()) out += ',';
    out += name;
    out += "=\"";
    for (const char c : value) {
      if (c == '\\' || c == '"') {
        out += '\\';
        out += c;
      } else if (c == '\n') {
        out += "\\n";
      } else {
        out += c;
      }
    }
    out += '"';
  }
}

}  // namespace

PrometheusText::PrometheusText(Labels common) {
  append_labels(common_, common);
  text_.reserve(64 << 10);
}

void PrometheusText::family(std::string_view name, std::string_view type, std::string_view help,
                            bool with_common_labels) {
  name_ = name;
  with_common_ = with_common_labels;
  for (const auto& [keyword, text] : {std::pair("# HELP ", help), std::pair("# TYPE ", type)}) {
    text_ += keyword;
    text_ += name;
    text_ += ' ';
    text_ += text;
    text_ += '\n';
  }
}

void PrometheusText::append_name(std::string_view suffix, std::string_view labels,
                                 std::string_view le) {
  text_ += name_;
  text_ += suffix;
  const std::string_view common = with_common_ ? std::string_view(common_) : std::string_view();
  char open = '{';
  for (const std::string_view part : {common, labels}) {
    if (part.empty()) continue;
    text_ += open;
    text_ += part;
    open = ',';
  }
  if (!le.empty()) {
    text_ += open;
    text_ += "le=\"";
    text_ += le;
    text_ += '"';
    open = ',';
  }
  text_ += open == '{' ? " " : "} ";
}

void PrometheusText::sample(double value, Labels labels) {
  std::string own;
  append_labels(own, labels);
  append_name("", own, "");
  append_value(text_, value);
  text_ += '\n';
}

void PrometheusText::histogram(const Histogram& histogram, Labels labels) {
  std::string own;
  append_labels(own, labels);
  const std::span<const double> bounds = histogram.bounds();
  int64_t total = 0;
  for (size_t i = 0; i <= bounds.size(); ++i) {
    total += histogram.count(i);
    append_name("_bucket", own, i < bounds.size() ? bound_text(bounds[i]) : "+Inf");
    append_value(text_, static_cast<double>(total));
    text_ += '\n';
  }
  append_name("_count", own, "");
  append_value(text_, static_cast<double>(total));
  text_ += '\n';
  append_name("_sum", own, "");
  append_value(text_, histogram.sum());
  text_ += '\n';
}

}  // namespace atom::openai
