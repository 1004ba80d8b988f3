// WorkQueue: many producers, one consumer that takes everything at once and sleeps when there is
// nothing. close() wakes the consumer for good. Bounded by its users: every item belongs to a
// counted live request.
#pragma once

#include <condition_variable>
#include <mutex>
#include <utility>
#include <vector>

namespace atom {

template <class T>
class WorkQueue {
 public:
  // Out of memory: throws, and `item` is as it was.
  void push(T&& item) {
    {
      const std::lock_guard lock(mutex_);
      items_.push_back(std::move(item));
    }
    ready_.notify_one();
  }

  // Until as many release() as hold(), what is pushed waits, to be taken together.
  void hold() {
    const std::lock_guard lock(mutex_);
    ++held_;
  }
  void release() {
    {
      const std::lock_guard lock(mutex_);
      --held_;
    }
    ready_.notify_one();
  }

  // Swaps everything queued into `items` (which is cleared first). With `wait`, sleeps until there
  // is something or the queue is closed. False when it is closed and empty.
  bool take(std::vector<T>& items, bool wait) {
    items.clear();
    std::unique_lock lock(mutex_);
    if (wait) {
      ready_.wait(lock, [&] { return closed_ || (held_ == 0 && !items_.empty()); });
    }
    if (closed_ || held_ == 0) {
      std::swap(items, items_);
    }
    return !closed_ || !items.empty();
  }

  void close() {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    ready_.notify_one();
  }

 private:
  std::mutex mutex_;
  std::condition_variable ready_;
  std::vector<T> items_;
  int held_ = 0;
  bool closed_ = false;
};

}  // namespace atom
