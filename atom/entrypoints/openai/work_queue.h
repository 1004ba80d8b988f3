// WorkQueue: a few threads that run what must not hold up an I/O thread: templates, tokenising,
// parsing of large bodies. Tasks run in order of arrival; what a task throws is logged and ends
// that task only.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace atom::openai {

class WorkQueue {
 public:
  explicit WorkQueue(int num_threads);
  ~WorkQueue();  // finishes the running tasks, drops the others
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  void push(std::function<void()> task);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace atom::openai
