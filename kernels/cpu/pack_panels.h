// Packs stored rows into the panels of panel_layout.h. Plain C++: it is bound by memory, not
// arithmetic.
#pragma once

#include "kernels/cpu/kernels.h"

namespace atom::cpu {

void pack_panels(const PackArgs& args, Range panels);

}  // namespace atom::cpu
