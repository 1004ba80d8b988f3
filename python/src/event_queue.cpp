#include "python/src/event_queue.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

namespace atom::python {
namespace {

void signal_descriptor(int descriptor) {
  const uint64_t one = 1;
  (void)!::write(descriptor, &one, sizeof(one));
}

}  // namespace

EventQueue::~EventQueue() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void EventQueue::push(RequestOutput&& output) {
  const std::lock_guard lock(mutex_);
  outputs_.push_back(std::move(output));
  if (outputs_.size() > 1) return;  // the taker has been told
  arrived_.notify_one();
  if (descriptor_ >= 0) signal_descriptor(descriptor_);
}

std::vector<RequestOutput> EventQueue::take(std::chrono::milliseconds wait) {
  std::unique_lock lock(mutex_);
  arrived_.wait_for(lock, wait, [this] { return !outputs_.empty(); });
  if (descriptor_ >= 0) {
    uint64_t count = 0;
    (void)!::read(descriptor_, &count, sizeof(count));
  }
  return std::exchange(outputs_, {});
}

int EventQueue::descriptor() {
  const std::lock_guard lock(mutex_);
  if (descriptor_ < 0) {
    descriptor_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (descriptor_ >= 0 && !outputs_.empty()) signal_descriptor(descriptor_);
  }
  return descriptor_;
}

}  // namespace atom::python
