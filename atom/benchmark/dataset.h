// The datasets of `bench serve`: sharegpt, burstgpt, sonnet, random and hf, each sampled by the law
// of the original client with the same generators (python_random.h), so that equal seeds give
// equal prompts. Nothing is downloaded: files are the user's. To add one: a row in the table of
// dataset.cpp and a function.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "atom/benchmark/python_random.h"
#include "atom/core/error.h"
#include "atom/tokenizer/tokenizer.h"

namespace atom {

struct SampleRequest {
  std::string prompt = {};
  int64_t prompt_len = 0;  // tokens
  int64_t output_len = 0;  // tokens wanted
};

// Renders one user message with the model's chat template, generation prompt included.
using RenderUserMessage = std::function<Result<std::string>(std::string_view text)>;

struct DatasetOptions {
  std::string name = "sharegpt";
  std::string path = {};
  int64_t num_prompts = 1000;
  uint32_t seed = 0;  // of Python's generator; numpy's comes with the context
  int64_t random_input_len = 1024;
  int64_t random_output_len = 128;
  double random_range_ratio = 1.0;  // lengths are uniform in [int(len * ratio), len]
  int64_t random_prefix_len = 0;    // tokens that all prompts begin with
  bool use_chat_template = false;
  int64_t sharegpt_output_len = 0;  // 0: the length of the recorded answer
  int64_t hf_output_len = 0;
  int64_t sonnet_input_len = 550;
  int64_t sonnet_output_len = 150;
  int64_t sonnet_prefix_len = 200;
  bool chat_backend = false;  // the server renders: sonnet sends the plain text
};

struct DatasetContext {
  const Tokenizer* tokenizer = nullptr;
  RenderUserMessage render = {};
  NumpyRandom* random = nullptr;  // goes on to draw the arrival times
};

// "FLAG: message" that names the flag as the culprit, for the whole benchmark client.
std::unexpected<Error> flag_error(std::string flag, const std::string& message);

// Names of all datasets, for the flag's choices.
std::vector<std::string> dataset_names();
// Errors name the flag or the file and line.
Result<std::vector<SampleRequest>> sample_dataset(const DatasetOptions& options,
                                                  const DatasetContext& context);

// One sampler each; sample_dataset picks by name.
Result<std::vector<SampleRequest>> sample_random(const DatasetOptions& options,
                                                 const DatasetContext& context);
Result<std::vector<SampleRequest>> sample_sharegpt(const DatasetOptions& options,
                                                   const DatasetContext& context);
Result<std::vector<SampleRequest>> sample_hf(const DatasetOptions& options,
                                             const DatasetContext& context);
Result<std::vector<SampleRequest>> sample_burstgpt(const DatasetOptions& options,
                                                   const DatasetContext& context);
Result<std::vector<SampleRequest>> sample_sonnet(const DatasetOptions& options,
                                                 const DatasetContext& context);

}  // namespace atom
