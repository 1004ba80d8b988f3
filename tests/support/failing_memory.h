// Memory that runs out on command: failing_memory.cpp replaces operator new of a test program.
// Not in a library: it is a source file of the programs that want it, before every other new.
#pragma once

#include <cstdint>

namespace atom::testing_support {

// The allocation after the next `count` fails, and those after it until `failures` have; then
// there is memory again. All threads count, but those that are exempt.
void let_memory_run_out(int64_t count, int64_t failures = 1);
void give_memory_back();
// Has an allocation failed since let_memory_run_out()?
bool memory_ran_out();

// This thread's allocations neither count nor fail.
extern constinit thread_local bool exempt_from_failing_memory;

}  // namespace atom::testing_support
