// `bench compare A B`: two sets of result files side by side, as a table and as one self-contained
// HTML page. Reads files of `bench serve` and of the original client alike. Knows no network.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "atom/core/error.h"

namespace atom {

// One result file, cut down to what is compared.
struct ResultPoint {
  std::string config;  // the file's name without prefix and ".json"
  std::map<std::string, double> numbers;
  std::map<std::string, std::string> facts;  // hardware, versions, flags, what makes runs alike
  bool partial = false;
};

struct ResultSet {
  std::string name;  // the prefix as given
  std::map<std::string, ResultPoint> points;
};

// `prefix`: beginning of file paths ("runs/a_"), or a directory.
Result<ResultSet> load_results(const std::string& prefix);

// The configs that both have, in numeric order.
std::vector<std::string> common_configs(const ResultSet& a, const ResultSet& b);
// Config (35 wide), A, B (10.1f) and ratio B/A (7.1 %) of each metric over the configs that both
// have; what only one has is said below, and where hardware or flags differ.
std::string comparison_table(const ResultSet& a, const ResultSet& b,
                             const std::vector<std::string>& metrics);
std::vector<std::string> comparison_warnings(const ResultSet& a, const ResultSet& b);
// Curves of throughput against latency, percentiles, facts of both sides, the table, the warnings.
std::string comparison_page(const ResultSet& a, const ResultSet& b,
                            const std::vector<std::string>& metrics);

}  // namespace atom
