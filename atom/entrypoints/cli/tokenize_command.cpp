// `atom tokenize`: text lines to id lists, or back. Only the tokenizer of the model is read.
#include <cerrno>
#include <iostream>

#include "atom/config.h"
#include "atom/entrypoints/cli/command.h"
#include "atom/model_loader/checkpoint.h"
#include "atom/model_loader/hub.h"
#include "atom/tokenizer/tokenize_lines.h"

namespace atom::cli {
namespace {

Status tokenize(const EngineArgs& args, const TokenizeLinesOptions& options) {
  ATOM_ASSIGN_OR_RETURN(const EngineConfig config, make_engine_config(args));
  ATOM_ASSIGN_OR_RETURN(const std::filesystem::path path, resolve_model(config.model, kHubText));
  std::shared_ptr<const Tokenizer> tokenizer;
  if (std::filesystem::is_directory(path)) {
    ATOM_ASSIGN_OR_RETURN(tokenizer, Tokenizer::from_directory(path));
  } else {
    ATOM_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::open(path));
    ATOM_ASSIGN_OR_RETURN(tokenizer, checkpoint->load_tokenizer());
  }
  std::ios::sync_with_stdio(false);
  errno = 0;
  ATOM_RETURN_IF_ERROR(run_tokenize_lines(tokenizer, std::cin, std::cout, options));
  std::cout.flush();
  return {};
}

}  // namespace

int tokenize_command(const Arguments& arguments) {
  EngineArgs args;
  TokenizeLinesOptions options;
  FlagSet flags(
      "atom tokenize --model MODEL [FLAGS] < LINES",
      "One line of text in, one JSON list of token ids out. With --decode one list of ids in, "
      "its text out. Equal id for id to the `tokenizers` library.");
  flags.group("Tokenizer");
  flags.add({.name = "--model",
             .metavar = "MODEL",
             .help = "directory with tokenizer.json or tiktoken.model, .gguf file, or hub name"},
            &args.model);
  flags.add_switch({.name = "--decode", .help = "ids to text"}, &options.decode);
  flags.add_switch(
      {.name = "--add-special-tokens", .help = "encode: add what the model's post-processor adds"},
      &options.add_special_tokens);
  flags.add_switch({.name = "--skip-special-tokens", .help = "decode: leave special tokens out"},
                   &options.skip_special_tokens);
  flags.add_switch(
      {.name = "--stream", .help = "decode token by token, as the server does (same text)"},
      &options.stream);
  flags.add_switch(
      {.name = "--json",
       .help = "text lines are JSON strings, in and out, so that they can hold newlines"},
      &options.json_text);
  flags.positional("--model");
  int status = kExitOk;
  if (!parse_or_exit(flags, arguments, status)) return status;
  const Status done = tokenize(args, options);
  if (!done) return report_error(done.error());
  return std::cout ? kExitOk : report_unwritten();
}

}  // namespace atom::cli
