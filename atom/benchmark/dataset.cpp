// The table of datasets, and the two that need no conversation file: random and sonnet.
#include "atom/benchmark/dataset.h"

#include <algorithm>
#include <cmath>
#include <fstream>

#include "atom/benchmark/python_random.h"
#include "atom/core/printable.h"

namespace atom {
namespace {

using Samples = std::vector<SampleRequest>;

struct Dataset {
  std::string_view name;
  bool needs_path;
  Result<Samples> (*sample)(const DatasetOptions&, const DatasetContext&);
};

constexpr Dataset kDatasets[] = {
    {"sharegpt", true, sample_sharegpt},
    {"burstgpt", true, sample_burstgpt},
    {"sonnet", true, sample_sonnet},
    {"random", false, sample_random},
    {"hf", true, sample_hf},
};

// Decoding and encoding again changes the number of tokens where drawn ids merge; what is sent is
// the text of the first `length` tokens of that second encoding.
SampleRequest settled_prompt(const Tokenizer& tokenizer, std::span<const int32_t> ids,
                             int64_t length) {
  std::vector<int32_t> again = tokenizer.encode(tokenizer.decode(ids, false), false);
  again.resize(std::min(again.size(), static_cast<size_t>(length)));
  return {.prompt = tokenizer.decode(again, false),
          .prompt_len = static_cast<int64_t>(again.size())};
}

int64_t count_tokens(const Tokenizer& tokenizer, std::string_view text) {
  return static_cast<int64_t>(tokenizer.encode(text, false).size());
}

}  // namespace

std::unexpected<Error> flag_error(std::string flag, const std::string& message) {
  std::string line = flag + ": " + message;
  return std::unexpected(Error{
      .code = ErrorCode::kInvalidArgument, .message = std::move(line), .param = std::move(flag)});
}

std::vector<std::string> dataset_names() {
  std::vector<std::string> names;
  for (const Dataset& dataset : kDatasets) names.emplace_back(dataset.name);
  return names;
}

Result<Samples> sample_dataset(const DatasetOptions& options, const DatasetContext& context) {
  for (const Dataset& dataset : kDatasets) {
    if (dataset.name != options.name) continue;
    if (dataset.needs_path && options.path.empty())
      return flag_error("--dataset-path", "needed with --dataset-name " + options.name);
    ATOM_ASSIGN_OR_RETURN(Samples samples, dataset.sample(options, context));
    if (samples.empty())
      return make_error(ErrorCode::kInvalidArgument, "{}: no usable request in it", options.path);
    return samples;
  }
  return flag_error("--dataset-name", printable(options.name) + " is unknown");
}

Result<Samples> sample_random(const DatasetOptions& options, const DatasetContext& context) {
  int64_t input_len = options.random_input_len;
  if (options.use_chat_template) {
    ATOM_ASSIGN_OR_RETURN(const std::string overhead, context.render(""));
    input_len -= count_tokens(*context.tokenizer, overhead);
    if (input_len < 1) return flag_error("--random-input-len", "the chat template alone is longer");
  }
  NumpyRandom& random = *context.random;
  const std::vector<int64_t> prefix =
      random.randint(0, context.tokenizer->base_vocab_size(), options.random_prefix_len);
  const auto lengths = [&](int64_t longest) {
    const auto shortest =
        static_cast<int64_t>(static_cast<double>(longest) * options.random_range_ratio);
    return random.randint(std::max<int64_t>(shortest, 1), longest + 1, options.num_prompts);
  };
  const std::vector<int64_t> input_lens = lengths(input_len);
  const std::vector<int64_t> output_lens = lengths(options.random_output_len);
  const std::vector<int64_t> offsets =
      random.randint(0, context.tokenizer->base_vocab_size(), options.num_prompts);
  Samples samples;
  for (int64_t i = 0; i < options.num_prompts; ++i) {
    const auto n = static_cast<size_t>(i);
    std::vector<int32_t> ids(prefix.begin(), prefix.end());
    for (int64_t j = 0; j < input_lens[n]; ++j)
      ids.push_back(
          static_cast<int32_t>((offsets[n] + i + j) % context.tokenizer->base_vocab_size()));
    SampleRequest sample =
        settled_prompt(*context.tokenizer, ids, options.random_prefix_len + input_lens[n]);
    if (options.use_chat_template) {
      ATOM_ASSIGN_OR_RETURN(sample.prompt, context.render(sample.prompt));
      sample.prompt_len = count_tokens(*context.tokenizer, sample.prompt);
    }
    sample.output_len = output_lens[n];
    samples.push_back(std::move(sample));
  }
  return samples;
}

Result<Samples> sample_sonnet(const DatasetOptions& options, const DatasetContext& context) {
  std::ifstream file(options.path);
  if (!file) return make_error(ErrorCode::kNotFound, "{}: cannot be opened", options.path);
  std::vector<std::string> lines;
  int64_t tokens = 0;
  for (std::string line; std::getline(file, line);) {
    lines.push_back(line + "\n");
    tokens += count_tokens(*context.tokenizer, lines.back());
  }
  if (tokens == 0) return make_error(ErrorCode::kInvalidArgument, "{}: empty", options.path);
  const double average = static_cast<double>(tokens) / static_cast<double>(lines.size());
  const std::string instruction = "Pick as many lines as you can from these poem lines:\n";
  ATOM_ASSIGN_OR_RETURN(const std::string rendered, context.render(instruction));
  const int64_t overhead = count_tokens(*context.tokenizer, rendered);
  if (options.sonnet_input_len <= overhead || options.sonnet_prefix_len <= overhead) {
    return flag_error(
        options.sonnet_input_len <= overhead ? "--sonnet-input-len" : "--sonnet-prefix-len",
        str_format("must exceed the {} tokens of the instruction", overhead));
  }
  const auto lines_of = [&](int64_t length) {
    return static_cast<int64_t>(std::nearbyint(static_cast<double>(length - overhead) / average));
  };
  const int64_t fixed = lines_of(options.sonnet_prefix_len);
  const int64_t drawn = lines_of(options.sonnet_input_len) - fixed;
  if (drawn < 0) return flag_error("--sonnet-prefix-len", "longer than --sonnet-input-len");
  PythonRandom random(options.seed);
  Samples samples;
  for (int64_t i = 0; i < options.num_prompts; ++i) {
    std::string text = instruction;
    for (int64_t j = 0; j < fixed; ++j) text += lines[static_cast<size_t>(j) % lines.size()];
    for (const int64_t line : random.choices(static_cast<int64_t>(lines.size()), drawn))
      text += lines[static_cast<size_t>(line)];
    ATOM_ASSIGN_OR_RETURN(std::string whole, context.render(text));
    const int64_t prompt_len = count_tokens(*context.tokenizer, whole);
    samples.push_back({.prompt = options.chat_backend ? std::move(text) : std::move(whole),
                       .prompt_len = prompt_len,
                       .output_len = options.sonnet_output_len});
  }
  return samples;
}

}  // namespace atom
