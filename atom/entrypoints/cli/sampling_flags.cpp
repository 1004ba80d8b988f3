#include "atom/entrypoints/cli/sampling_flags.h"

namespace atom::cli {
namespace {

void add_distribution_flags(FlagSet& flags, SamplingFlags& sampling) {
  flags.add({.name = "--temperature",
             .metavar = "T",
             .help = "0: always the likeliest token; up to 100",
             .default_text = "the model's own",
             .min = 0,
             .max = 100},
            &sampling.temperature);
  flags.add({.name = "--top-p",
             .metavar = "P",
             .help = "keep the likeliest tokens up to this sum of probability",
             .default_text = "the model's own, else 1",
             .min = 1e-6,
             .max = 1},
            &sampling.top_p);
  flags.add({.name = "--top-k",
             .metavar = "K",
             .help = "keep the K likeliest tokens; 0 or -1: all",
             .default_text = "the model's own, else all",
             .min = -1,
             .max = 2147483647},
            &sampling.top_k);
  flags.add({.name = "--min-p",
             .metavar = "P",
             .help = "drop tokens below P x the likeliest one",
             .min = 0,
             .max = 1},
            &sampling.min_p);
  flags.add({.name = "--presence-penalty",
             .metavar = "X",
             .help = "off the logit of every token generated before, -2 to 2",
             .min = -2,
             .max = 2},
            &sampling.presence_penalty);
  flags.add({.name = "--frequency-penalty",
             .metavar = "X",
             .help = "the same, times how often it was generated, -2 to 2",
             .min = -2,
             .max = 2},
            &sampling.frequency_penalty);
  flags.add({.name = "--repetition-penalty",
             .metavar = "X",
             .help = "divides the logits of tokens seen in prompt and answer, above 0 up to 10",
             .min = 0.01,
             .max = 10},
            &sampling.repetition_penalty);
}

void add_length_flags(FlagSet& flags, SamplingFlags& sampling) {
  flags.add({.name = "--max-tokens",
             .metavar = "N",
             .help = "longest answer in tokens; never more than the context leaves",
             .min = 1},
            &sampling.max_tokens);
  flags.add({.name = "--min-tokens", .metavar = "N", .help = "shortest answer in tokens", .min = 0},
            &sampling.min_tokens);
  flags.add({.name = "--stop", .metavar = "TEXT", .help = "end at this text; may be repeated"},
            &sampling.stop);
  flags.add({.name = "--stop-token-ids",
             .metavar = "LIST",
             .help = "end at these token ids, as 1,2",
             .default_text = "none",
             .min = 0},
            &sampling.stop_token_ids);
  flags.add_switch({.name = "--ignore-eos", .help = "go on after the model's end token"},
                   &sampling.ignore_eos);
}

}  // namespace

void add_sampling_flags(FlagSet& flags, SamplingFlags& sampling) {
  flags.group("Sampling (--seed makes it repeatable)");
  add_distribution_flags(flags, sampling);
  add_length_flags(flags, sampling);
}

SamplingParams make_sampling_params(const SamplingFlags& flags, const GenerationDefaults& model,
                                    float default_temperature) {
  SamplingParams params;
  params.temperature = flags.temperature ? static_cast<float>(*flags.temperature)
                                         : model.temperature.value_or(default_temperature);
  params.top_p = flags.top_p ? static_cast<float>(*flags.top_p) : model.top_p.value_or(1.0F);
  params.top_k = flags.top_k ? static_cast<int32_t>(*flags.top_k) : model.top_k.value_or(-1);
  params.min_p = static_cast<float>(flags.min_p);
  params.presence_penalty = static_cast<float>(flags.presence_penalty);
  params.frequency_penalty = static_cast<float>(flags.frequency_penalty);
  params.repetition_penalty = static_cast<float>(flags.repetition_penalty);
  params.max_tokens = flags.max_tokens;
  params.min_tokens = flags.min_tokens;
  params.ignore_eos = flags.ignore_eos;
  params.stop_strings = flags.stop;
  params.stop_token_ids.assign(flags.stop_token_ids.begin(), flags.stop_token_ids.end());
  return params;
}

}  // namespace atom::cli
