// The sampling flags of generate and chat. What is not given comes from the model's
// generation_config.json, then from the command's own default.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "atom/entrypoints/cli/flag_set.h"
#include "atom/model_loader/checkpoint.h"
#include "atom/sampling_params.h"

namespace atom::cli {

struct SamplingFlags {
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int64_t> top_k;
  double min_p = 0;
  double presence_penalty = 0;
  double frequency_penalty = 0;
  double repetition_penalty = 1;
  int64_t max_tokens = 256;
  int64_t min_tokens = 0;
  bool ignore_eos = false;
  std::vector<std::string> stop;
  std::vector<int> stop_token_ids;
};

void add_sampling_flags(FlagSet& flags, SamplingFlags& sampling);

SamplingParams make_sampling_params(const SamplingFlags& flags, const GenerationDefaults& model,
                                    float default_temperature);

}  // namespace atom::cli
