// The datasets that are files of recorded traffic: conversations (sharegpt, hf) and a table of
// lengths (burstgpt).
#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <fstream>
#include <iterator>

#include "atom/benchmark/dataset.h"
#include "atom/benchmark/python_random.h"
#include "atom/core/json.h"

namespace atom {
namespace {

using Samples = std::vector<SampleRequest>;

// Bounds of vLLM's benchmark, which drops what is too short to time and too long for small models.
constexpr int64_t kShortest = 4;
constexpr int64_t kLongestPrompt = 1024;
constexpr int64_t kLongestTotal = 2048;

struct Turns {
  std::string question;
  std::string answer;
};

Result<std::string> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return make_error(ErrorCode::kNotFound, "{}: cannot be opened", path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}, …]}
bool first_turns(const boost::json::value& item, Turns& turns) {
  const auto* object = item.if_object();
  const auto* list = object != nullptr ? object->if_contains("conversations") : nullptr;
  const auto* conversation = list != nullptr ? list->if_array() : nullptr;
  if (conversation == nullptr || conversation->size() < 2) return false;
  const auto text = [&](size_t i, std::string& out) {
    const auto* turn = (*conversation)[i].if_object();
    const auto* value = turn != nullptr ? turn->if_contains("value") : nullptr;
    if (value == nullptr) value = turn != nullptr ? turn->if_contains("content") : nullptr;
    if (value == nullptr || !value->is_string()) return false;
    out = value->get_string().c_str();
    return true;
  };
  return text(0, turns.question) && text(1, turns.answer);
}

// A JSON list, or one JSON object a line.
Result<std::vector<Turns>> read_conversations(const std::string& path) {
  ATOM_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  if (text.starts_with("PAR1")) {
    return make_error(ErrorCode::kUnsupported,
                      "{}: Parquet is not read; give the dataset as .json or .jsonl", path);
  }
  const JsonLimits limits{.reject_duplicate_keys = false};
  std::vector<Turns> all;
  Turns turns;
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && text[first] == '[') {
    const auto parsed = parse_json(text, limits);
    if (!parsed)
      return make_error(ErrorCode::kInvalidArgument, "{}: {}", path, parsed.error().message);
    for (const auto& item : parsed->get_array()) {
      if (first_turns(item, turns)) all.push_back(turns);
    }
    return all;
  }
  size_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line(text.data() + at, end - at);
    at = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const auto parsed = parse_json(line, limits);
    if (!parsed) {
      return make_error(ErrorCode::kInvalidArgument, "{}:{}: {}", path, number,
                        parsed.error().message);
    }
    if (first_turns(*parsed, turns)) all.push_back(turns);
  }
  return all;
}

Result<Samples> sample_conversations(const DatasetOptions& options, const DatasetContext& context,
                                     int64_t fixed_output_len) {
  ATOM_ASSIGN_OR_RETURN(std::vector<Turns> all, read_conversations(options.path));
  PythonRandom(options.seed).shuffle(all);
  Samples samples;
  for (Turns& turns : all) {
    if (static_cast<int64_t>(samples.size()) == options.num_prompts) break;
    const auto count = [&](const std::string& text) {
      return static_cast<int64_t>(context.tokenizer->encode(text, true).size());
    };
    const int64_t prompt_len = count(turns.question);
    const int64_t output_len = fixed_output_len > 0 ? fixed_output_len : count(turns.answer);
    if (prompt_len < kShortest || (fixed_output_len == 0 && output_len < kShortest)) continue;
    if (prompt_len > kLongestPrompt || prompt_len + output_len > kLongestTotal) continue;
    samples.push_back(
        {.prompt = std::move(turns.question), .prompt_len = prompt_len, .output_len = output_len});
  }
  return samples;
}

struct CsvRow {
  int64_t request_tokens = 0;
  int64_t response_tokens = 0;
};

std::vector<std::string_view> split_commas(std::string_view line) {
  std::vector<std::string_view> fields;
  while (true) {
    const size_t comma = line.find(',');
    fields.push_back(line.substr(0, comma));
    if (comma == std::string_view::npos) return fields;
    line.remove_prefix(comma + 1);
  }
}

bool parse_count(std::string_view text, int64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value >= 0;
}

// Rows of GPT-4 with an answer: Timestamp,Model,Request tokens,Response tokens,…
Result<std::vector<CsvRow>> read_burstgpt(const std::string& path) {
  std::ifstream file(path);
  if (!file) return make_error(ErrorCode::kNotFound, "{}: cannot be opened", path);
  std::string line;
  std::getline(file, line);
  if (line.ends_with('\r')) line.pop_back();
  const std::vector<std::string_view> header = split_commas(line);
  const auto column = [&](std::string_view name) {
    return static_cast<size_t>(std::find(header.begin(), header.end(), name) - header.begin());
  };
  const size_t model = column("Model"), request = column("Request tokens"),
               response = column("Response tokens");
  const size_t needed = std::max({model, request, response});
  if (needed >= header.size()) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{}: columns Model, Request tokens and Response tokens expected", path);
  }
  std::vector<CsvRow> rows;
  for (size_t number = 2; std::getline(file, line); ++number) {
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty()) continue;
    const std::vector<std::string_view> fields = split_commas(line);
    CsvRow row;
    if (fields.size() <= needed || !parse_count(fields[request], row.request_tokens) ||
        !parse_count(fields[response], row.response_tokens)) {
      return make_error(ErrorCode::kInvalidArgument, "{}:{}: not a row of lengths", path, number);
    }
    if (fields[model] == "GPT-4" && row.response_tokens > 0) rows.push_back(row);
  }
  return rows;
}

}  // namespace

Result<Samples> sample_sharegpt(const DatasetOptions& options, const DatasetContext& context) {
  return sample_conversations(options, context, options.sharegpt_output_len);
}

Result<Samples> sample_hf(const DatasetOptions& options, const DatasetContext& context) {
  return sample_conversations(options, context, options.hf_output_len);
}

Result<Samples> sample_burstgpt(const DatasetOptions& options, const DatasetContext& context) {
  ATOM_ASSIGN_OR_RETURN(const std::vector<CsvRow> rows, read_burstgpt(options.path));
  if (rows.empty()) return Samples{};
  // As pandas' DataFrame.sample(random_state=seed).
  NumpyRandom& random = *context.random;
  const auto available = static_cast<int64_t>(rows.size());
  std::vector<int64_t> picked = options.num_prompts <= available
                                    ? random.permutation(available)
                                    : random.randint(0, available, options.num_prompts);
  picked.resize(static_cast<size_t>(options.num_prompts));
  Samples samples;
  for (int64_t i = 0; i < options.num_prompts; ++i) {
    const CsvRow& row = rows[static_cast<size_t>(picked[static_cast<size_t>(i)])];
    std::vector<int32_t> ids;
    for (int64_t j = 0; j < row.request_tokens; ++j)
      ids.push_back(static_cast<int32_t>((i + j) % context.tokenizer->base_vocab_size()));
    samples.push_back({.prompt = context.tokenizer->decode(ids, false),
                       .prompt_len = row.request_tokens,
                       .output_len = row.response_tokens});
  }
  return samples;
}

}  // namespace atom
