// The HTML page of `bench compare`: compare.html, embedded, with the numbers put into it as JSON.
#include <boost/json.hpp>
#include <set>

#include "atom/benchmark/compare.h"

namespace atom {

namespace embedded {
extern const std::string_view compare_html;
}

namespace {

namespace json = boost::json;

json::object set_json(const ResultSet& set) {
  json::object points;
  for (const auto& [config, point] : set.points) {
    json::object numbers;
    for (const auto& [key, value] : point.numbers) numbers[key] = value;
    points[config] = json::object{{"numbers", std::move(numbers)}, {"partial", point.partial}};
  }
  return {{"name", set.name}, {"points", std::move(points)}};
}

// [fact, A, B] of the first common point that has it.
json::array facts_json(const ResultSet& a, const ResultSet& b) {
  std::map<std::string, std::pair<std::string, std::string>> facts;
  for (const std::string& config : common_configs(a, b)) {
    for (const auto& [name, value] : a.points.at(config).facts)
      facts.try_emplace(name).first->second.first = value;
    for (const auto& [name, value] : b.points.at(config).facts)
      facts.try_emplace(name).first->second.second = value;
  }
  json::array rows;
  for (const auto& [name, sides] : facts)
    rows.push_back(json::array{name, sides.first, sides.second});
  return rows;
}

json::array texts(const std::vector<std::string>& lines) {
  json::array out;
  for (const std::string& line : lines) out.emplace_back(line);
  return out;
}

}  // namespace

std::string comparison_page(const ResultSet& a, const ResultSet& b,
                            const std::vector<std::string>& metrics) {
  const json::object data{{"a", set_json(a)},
                          {"b", set_json(b)},
                          {"common", texts(common_configs(a, b))},
                          {"metrics", texts(metrics)},
                          {"facts", facts_json(a, b)},
                          {"warnings", texts(comparison_warnings(a, b))}};
  // Inside a script element nothing may look like its end: every `<` becomes its JSON escape.
  std::string text;
  for (const char c : json::serialize(data)) {
    if (c == '<') {
      text += "\\u003c";
    } else {
      text += c;
    }
  }
  std::string page(embedded::compare_html);
  constexpr std::string_view kPlace = "type=\"application/json\">{}";
  const size_t at = page.find(kPlace);
  return page.replace(at + kPlace.size() - 2, 2, text);
}

}  // namespace atom
