// `atom bench compare A B`: two result sets as a table and a page.
#include <fstream>

#include "atom/benchmark/compare.h"
#include "atom/entrypoints/cli/bench_command.h"
#include "atom/entrypoints/cli/terminal.h"

namespace atom::cli {
namespace {

Status compare(const std::string& first, const std::string& second, const std::string& metrics,
               const std::string& html) {
  ATOM_ASSIGN_OR_RETURN(const ResultSet a, load_results(first));
  ATOM_ASSIGN_OR_RETURN(const ResultSet b, load_results(second));
  const std::vector<std::string> names = split_list(metrics, ',');
  std::string out = str_format("A: {}\nB: {}\n\n", first, second);
  out += comparison_table(a, b, names);
  for (const std::string& line : comparison_warnings(a, b)) out += "WARNING: " + line + "\n";
  if (!write_out(out)) return make_error(ErrorCode::kUnavailable, "stdout: cannot be written");
  if (html.empty()) return {};
  std::ofstream file(html, std::ios::binary | std::ios::trunc);
  file << comparison_page(a, b, names);
  file.close();
  if (!file) return make_error(ErrorCode::kUnavailable, "{}: cannot be written", html);
  return {};
}

}  // namespace

int bench_compare_command(const Arguments& arguments) {
  std::string metrics =
      "output_throughput,total_token_throughput,mean_ttft_ms,median_tpot_ms,mean_itl_ms,"
      "mean_e2el_ms";
  std::string html;
  FlagSet flags("atom bench compare A B [FLAGS]",
                "Compares the results of bench serve and bench sweep. A and B are directories or "
                "beginnings of file names (runs/old_, runs/new_); files that both have under the "
                "rest of the name are set against each other. Ratio is B / A.");
  flags.add(
      {.name = "--metrics",
       .metavar = "LIST",
       .help = "keys of the result files",
       .default_text = "throughputs, mean_ttft_ms, median_tpot_ms, mean_itl_ms, mean_e2el_ms"},
      &metrics);
  flags.add({.name = "--html",
             .metavar = "FILE",
             .help = "also a page with curves, percentiles, hardware and flags of both",
             .default_text = "none"},
            &html);
  // The first two arguments are the sets; flags may come before, between or behind.
  Arguments sets, rest;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const bool is_value = i > 0 && arguments[i - 1].starts_with("--") &&
                          arguments[i - 1].find('=') == std::string::npos;
    (arguments[i].starts_with('-') || is_value ? rest : sets).push_back(arguments[i]);
  }
  int status = kExitOk;
  if (!parse_or_exit(flags, rest, status)) return status;
  if (sets.size() != 2) {
    return report_error({.code = ErrorCode::kInvalidArgument,
                         .message = "bench compare: two result prefixes expected",
                         .param = "-"});
  }
  const Status done = compare(sets[0], sets[1], metrics, html);
  return done ? kExitOk : report_error(done.error());
}

}  // namespace atom::cli
