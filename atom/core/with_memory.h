// with_memory: runs a step that must not be lost for want of a little memory (handing over an
// answer, ending a request), again and again until there is some. Only for steps that leave
// everything as it was when they fail, and not where an error can be answered instead.
#pragma once

#include <chrono>
#include <new>
#include <thread>

namespace atom {

template <class Step>
void with_memory(Step step) {
  while (true) {
    try {
      step();
      return;
    } catch (const std::bad_alloc&) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
}

}  // namespace atom
