// Command lines, one argument a line: parsed and checked, never a crash; every refusal is one line.
#include <cstdlib>
#include <string>
#include <vector>

#include "atom/config.h"
#include "atom/core/log.h"
#include "atom/entrypoints/cli/engine_flags.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  atom::set_log_level(atom::LogLevel::kOff);
  std::vector<std::string> arguments(1);
  for (size_t i = 0; i < size; ++i) {
    if (data[i] == '\n') {
      arguments.emplace_back();
    } else {
      arguments.back() += static_cast<char>(data[i]);
    }
  }
  atom::EngineArgs args;
  atom::cli::FlagSet flags("", "");
  atom::cli::add_engine_flags(flags, args);
  flags.positional("--model");
  const atom::Status parsed = flags.parse(arguments);
  if (!parsed && (parsed.error().message.size() > 1000 ||
                  parsed.error().message.find('\n') != std::string::npos))
    std::abort();
  if (parsed) {
    const auto config = atom::make_engine_config(args);
    if (config && (config->cache.block_size < 8 || config->scheduler.max_num_seqs < 1 ||
                   config->num_threads < 1))
      std::abort();
  }
  return 0;
}
