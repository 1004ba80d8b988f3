// EventQueue: the outputs of requests on their way from the engine's output thread to whoever runs
// Python. The engine's threads never take the interpreter's lock: they push here, and step() or an
// event loop takes. No Python object is in it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "atom/request_output.h"

namespace atom::python {

class EventQueue {
 public:
  EventQueue() = default;
  ~EventQueue();
  EventQueue(const EventQueue&) = delete;
  EventQueue& operator=(const EventQueue&) = delete;

  void push(RequestOutput&& output);
  // All that waits; blocks until there is something, `wait` at most.
  std::vector<RequestOutput> take(std::chrono::milliseconds wait);
  // An eventfd, made by the first call, that is readable while something waits; -1 when the system
  // has no more descriptors.
  int descriptor();

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<RequestOutput> outputs_;
  int descriptor_ = -1;
};

}  // namespace atom::python
