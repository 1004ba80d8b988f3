// The engine flags of spec section 2, the same for every command that loads a model: one row each.
// Ranges and conflicts are checked by make_engine_config. To add one: a field in EngineArgs, a row
// here, a check there, a line in docs/limits.md when it bounds something.
#pragma once

#include "atom/config.h"
#include "atom/entrypoints/cli/flag_set.h"

namespace atom::cli {

void add_engine_flags(FlagSet& flags, EngineArgs& args);

}  // namespace atom::cli
