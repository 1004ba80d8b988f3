// What a checkpoint is, without loading it: architecture, format, sizes, totals per element type.
// Text for people or one JSON object for programs; the memory plan is the engine's to add.
#pragma once

#include <string>

#include "atom/model_loader/checkpoint.h"

namespace atom {

// Ends with a newline. Sizes in the JSON are bytes; absent ids are null.
std::string inspect_checkpoint(const Checkpoint& checkpoint, bool json);

}  // namespace atom
