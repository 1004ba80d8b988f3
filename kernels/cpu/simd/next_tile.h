// What a linear kernel that is bound by memory fetches ahead.
#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/vec.h"

namespace atom::cpu::ATOM_ISA {

// Where the tile at `panel` begins, or what is read once there are no more panels.
ATOM_INLINE const uint8_t* next_tile(const LinearArgs& args, int64_t panel, int64_t panel_bytes) {
  const bool last = panel * kPanelRows >= args.rows;
  return last && args.next != nullptr ? args.next : args.weight + panel * panel_bytes;
}

}  // namespace atom::cpu::ATOM_ISA
