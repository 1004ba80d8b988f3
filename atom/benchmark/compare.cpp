// Loading, the table and the warnings; the page is in compare_page.cpp.
#include "atom/benchmark/compare.h"

#include <algorithm>
#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "atom/core/json.h"
#include "atom/core/json_text.h"
#include "atom/core/printable.h"

namespace atom {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

// Facts that should be alike on both sides of a fair comparison.
constexpr std::string_view kFacts[] = {"backend",           "model_id",   "num_prompts",
                                       "request_rate",      "burstiness", "max_concurrency",
                                       "total_input_tokens"};

std::string as_text(const json::value& value) {
  return value.is_string() ? std::string(value.get_string()) : json_text(value);
}

void add_facts(const json::object& object, const std::string& prefix, ResultPoint& point) {
  for (const auto& [key, value] : object) {
    const std::string name = prefix + std::string(key);
    if (value.is_object()) {
      add_facts(value.get_object(), name + ".", point);
    } else if (!value.is_null()) {
      point.facts[name] = as_text(value);
    }
  }
}

Result<ResultPoint> load_point(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const auto parsed = parse_json(text, {.reject_duplicate_keys = false});
  if (!parsed) {
    return make_error(ErrorCode::kInvalidArgument, "{}: {}", path.string(), parsed.error().message);
  }
  if (!parsed->is_object() || !parsed->get_object().contains("output_throughput")) {
    return make_error(ErrorCode::kInvalidArgument, "{}: not a result of bench serve",
                      path.string());
  }
  ResultPoint point;
  const json::object& root = parsed->get_object();
  for (const auto& [key, value] : root) {
    if (value.is_number()) point.numbers[std::string(key)] = value.to_number<double>();
  }
  for (const std::string_view key : kFacts) {
    const json::value* value = root.if_contains(key);
    if (value != nullptr && !value->is_null()) point.facts[std::string(key)] = as_text(*value);
  }
  for (const char* key : {"server", "client"}) {
    const json::value* value = root.if_contains(key);
    if (value != nullptr && value->is_object())
      add_facts(value->get_object(), std::string(key) + ".", point);
  }
  point.partial = root.contains("partial");
  return point;
}

// 4 before 16 before 128: numbers inside names in numeric order.
bool natural_less(const std::string& a, const std::string& b) {
  size_t i = 0, j = 0;
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  while (i < a.size() && j < b.size()) {
    if (!digit(a[i]) || !digit(b[j])) {
      if (a[i] != b[j]) return a[i] < b[j];
      ++i, ++j;
      continue;
    }
    size_t m = i, n = j;
    while (m < a.size() && digit(a[m])) ++m;
    while (n < b.size() && digit(b[n])) ++n;
    const std::string x = a.substr(i, m - i), y = b.substr(j, n - j);
    if (x.size() != y.size()) return x.size() < y.size();
    if (x != y) return x < y;
    i = m, j = n;
  }
  return a.size() - i < b.size() - j;
}

}  // namespace

Result<ResultSet> load_results(const std::string& prefix) {
  ResultSet set{.name = prefix};
  std::error_code error;
  const bool whole_directory = fs::is_directory(prefix, error);
  const fs::path directory = whole_directory ? fs::path(prefix) : fs::path(prefix).parent_path();
  const std::string start = whole_directory ? "" : fs::path(prefix).filename().string();
  fs::directory_iterator files(directory.empty() ? fs::path(".") : directory, error);
  if (error) return make_error(ErrorCode::kNotFound, "{}: {}", printable(prefix), error.message());
  for (const auto& entry : files) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(start) || !name.ends_with(".json")) continue;
    if (name.ends_with(".pytorch.json")) continue;  // the same result in another form
    ATOM_ASSIGN_OR_RETURN(ResultPoint point, load_point(entry.path()));
    std::string config = name.substr(start.size(), name.size() - start.size() - 5);
    while (config.starts_with('_') || config.starts_with('-')) config.erase(0, 1);
    point.config = config.empty() ? name : config;
    set.points[point.config] = std::move(point);
  }
  if (set.points.empty())
    return make_error(ErrorCode::kNotFound, "{}*.json: no such file", printable(prefix));
  return set;
}

std::vector<std::string> comparison_warnings(const ResultSet& a, const ResultSet& b) {
  std::map<std::string, std::string> differing;  // fact -> "A: …; B: …"
  std::vector<std::string> out;
  for (const auto& [config, left] : a.points) {
    const auto found = b.points.find(config);
    if (found == b.points.end()) continue;
    const ResultPoint& right = found->second;
    for (const auto& [fact, value] : left.facts) {
      const auto other = right.facts.find(fact);
      if (fact == "client.command" || fact == "model_id") continue;
      if (other == right.facts.end() || other->second == value) continue;
      differing.emplace(fact, str_format("{} differs ({}): A {}; B {}", fact, config,
                                         printable(value, 200), printable(other->second, 200)));
    }
    if (left.partial || right.partial)
      out.push_back(str_format("{}: {} partial", config, left.partial ? "A is" : "B is"));
  }
  for (const auto& [fact, line] : differing) out.push_back(line);
  for (const auto& [config, point] : a.points) {
    if (!b.points.contains(config)) out.push_back(config + ": only in A");
  }
  for (const auto& [config, point] : b.points) {
    if (!a.points.contains(config)) out.push_back(config + ": only in B");
  }
  return out;
}

std::vector<std::string> common_configs(const ResultSet& a, const ResultSet& b) {
  std::vector<std::string> configs;
  for (const auto& [config, point] : a.points) {
    if (b.points.contains(config)) configs.push_back(config);
  }
  std::sort(configs.begin(), configs.end(), natural_less);
  return configs;
}

std::string comparison_table(const ResultSet& a, const ResultSet& b,
                             const std::vector<std::string>& metrics) {
  std::string out;
  for (const std::string& metric : metrics) {
    std::string rows;
    for (const std::string& config : common_configs(a, b)) {
      const auto& left = a.points.at(config).numbers;
      const auto& right = b.points.at(config).numbers;
      const auto x = left.find(metric), y = right.find(metric);
      if (x == left.end() || y == right.end()) continue;
      const std::string ratio =
          x->second != 0 ? str_format("{:>6.1f}%", 100 * y->second / x->second) : "      -";
      rows += str_format("{:<35} {:>10.1f} {:>10.1f} {}\n", config, x->second, y->second, ratio);
    }
    if (rows.empty()) continue;
    out += str_format("{}\n{:<35} {:>10} {:>10} {:>7}\n{}\n{}\n", metric, "Config", "A", "B",
                      "Ratio", std::string(65, '-'), rows);
  }
  return out;
}

}  // namespace atom
