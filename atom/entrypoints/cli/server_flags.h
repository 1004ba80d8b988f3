// The flags of `atom serve` that are not the engine's: one row for every field of ServerConfig.
// Values and conflicts are checked by check_server_config. To add one: a field there, a row here, a
// line in docs/limits.md when it bounds something.
#pragma once

#include "atom/core/error.h"
#include "atom/entrypoints/cli/flag_set.h"
#include "atom/entrypoints/serve.h"

namespace atom::cli {

void add_server_flags(FlagSet& flags, ServerConfig& config);
// After parsing: splits list values, takes ATOM_API_KEY where no key was given.
Status finish_server_config(const FlagSet& flags, ServerConfig& config);

}  // namespace atom::cli
