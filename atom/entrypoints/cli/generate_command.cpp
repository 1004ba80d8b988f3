// `atom generate`: completes one prompt. Text goes to stdout as it comes, speed to stderr; --json
// prints one object per choice instead, with the keys of the Python API.
#include <unistd.h>

#include <boost/json.hpp>
#include <cstdio>

#include "atom/core/json_text.h"
#include "atom/entrypoints/cli/command.h"
#include "atom/entrypoints/cli/engine_flags.h"
#include "atom/entrypoints/cli/generation.h"
#include "atom/entrypoints/cli/sampling_flags.h"
#include "atom/entrypoints/cli/terminal.h"

namespace atom::cli {
namespace {

constexpr size_t kMaxPromptBytes = 32U << 20;

struct Options {
  EngineArgs engine;
  SamplingFlags sampling;
  std::optional<std::string> prompt;
  int n = 1;
  std::optional<int64_t> logprobs;
  bool json = false;
  bool verbose = false;
};

FlagSet make_flags(Options& options) {
  FlagSet flags(
      "atom generate [MODEL] [--prompt TEXT | < FILE] [FLAGS]",
      "Continues a prompt, without a chat template. The text goes to stdout as it comes, the "
      "speed of prompt and answer to stderr.");
  flags.group("Prompt and output");
  flags.add({.name = "--prompt",
             .metavar = "TEXT",
             .help = "the prompt",
             .default_text = "read from stdin"},
            &options.prompt);
  flags.add(
      {.name = "--n", .metavar = "N", .help = "answers to the one prompt", .min = 1, .max = 128},
      &options.n);
  flags.add_switch({.name = "--json", .help = "one JSON object a line for each answer, at the end"},
                   &options.json);
  flags.add(
      {.name = "--logprobs",
       .metavar = "K",
       .help = "with --json: log-probabilities of each token and its K likeliest rivals, 0 to 20",
       .min = 0,
       .max = 20},
      &options.logprobs);
  flags.add_switch({.name = "--verbose", .help = "log the start-up phases and the memory plan"},
                   &options.verbose);
  add_sampling_flags(flags, options.sampling);
  add_engine_flags(flags, options.engine);
  flags.positional("--model");
  return flags;
}

Result<std::string> read_prompt(const Options& options) {
  if (options.prompt) return *options.prompt;
  if (is_terminal(STDIN_FILENO)) std::fputs("Prompt, ended by Ctrl-D:\n", stderr);
  ATOM_ASSIGN_OR_RETURN(std::string text, read_stdin(kMaxPromptBytes));
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

boost::json::array logprobs_json(const Tokenizer& tokenizer, const Answer& answer) {
  boost::json::array out;
  for (size_t i = 0; i < answer.logprobs.size(); ++i) {
    boost::json::array top;
    for (const auto& [id, logprob] : answer.logprobs[i].top) {
      top.push_back(
          {{"token_id", id}, {"token", tokenizer.decode({&id, 1}, false)}, {"logprob", logprob}});
    }
    out.push_back({{"token_id", answer.token_ids[i]},
                   {"logprob", answer.logprobs[i].logprob},
                   {"rank", answer.logprobs[i].rank},
                   {"top_logprobs", std::move(top)}});
  }
  return out;
}

bool print_json(const LLMEngine& engine, const Generation& generation, bool with_logprobs) {
  const RequestTiming& timing = generation.timing;
  std::string out;
  for (const Answer& answer : generation.answers) {
    const auto count = static_cast<int64_t>(answer.token_ids.size());
    boost::json::object object = {
        {"text", answer.text},
        {"token_ids", boost::json::array(answer.token_ids.begin(), answer.token_ids.end())},
        {"latency", timing.latency},
        {"finish_reason", std::string(finish_reason_name(answer.finish_reason))},
        {"num_tokens_input", generation.num_prompt_tokens},
        {"num_tokens_output", count},
        {"ttft", timing.ttft},
        {"tpot",
         count > 1 ? (timing.latency - timing.ttft) / static_cast<double>(count - 1) : 0.0}};
    if (with_logprobs) object["logprobs"] = logprobs_json(*engine.tokenizer(), answer);
    out += json_text(object) + "\n";
  }
  return write_out(out);
}

bool print_further_answers(const Generation& generation) {
  if (generation.answers.size() == 1) return true;
  for (size_t i = 1; i < generation.answers.size(); ++i) {
    const std::string head = str_format("\n--- answer {} ---\n", i + 1);
    const std::string& text = generation.answers[i].text;
    if (!write_out(head + (is_terminal(STDOUT_FILENO) ? harmless(text) : text) + "\n"))
      return false;
  }
  return true;
}

Result<int> run(const Options& options, bool seed_given) {
  // A wrong value is refused before stdin is read.
  ATOM_ASSIGN_OR_RETURN(const EngineConfig config, make_engine_config(options.engine));
  ATOM_ASSIGN_OR_RETURN(const std::string prompt, read_prompt(options));
  ATOM_ASSIGN_OR_RETURN(const auto engine, start_engine(config, options.verbose));
  catch_interrupts();

  GenerationRequest request;
  request.prompt_token_ids = engine->tokenizer()->encode(prompt, true);
  if (request.prompt_token_ids.empty()) {
    return make_error(ErrorCode::kInvalidArgument, "the prompt is empty");
  }
  request.sampling = make_sampling_params(options.sampling, engine->generation_defaults(), 1.0F);
  request.sampling.n = options.n;
  if (seed_given) request.sampling.seed = options.engine.seed;
  if (options.logprobs) request.sampling.logprobs = static_cast<int32_t>(*options.logprobs);

  bool reader_gone = false;
  const bool terminal = is_terminal(STDOUT_FILENO);
  const TextSink sink = [&](std::string_view text) {
    if (options.json) return true;
    reader_gone = !write_out(terminal ? harmless(text) : std::string(text));
    return !reader_gone;
  };
  ATOM_ASSIGN_OR_RETURN(const Generation generation,
                        run_generation(*engine, std::move(request), sink));
  if (reader_gone) return kExitFailure;
  const bool written = options.json ? print_json(*engine, generation, options.logprobs.has_value())
                                    : write_out("\n") && print_further_answers(generation);
  if (!written) return kExitFailure;
  std::fprintf(stderr, "%s\n", describe_speed(generation).c_str());
  return generation.stopped ? kExitInterrupted : kExitOk;
}

}  // namespace

int generate_command(const Arguments& arguments) {
  return run_with_flags(arguments, make_flags, run);
}

}  // namespace atom::cli
