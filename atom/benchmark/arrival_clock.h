// ArrivalClock: reads a socket and tells when what was read had arrived, not when it was looked at:
// the kernel notes the time of each packet. So a reader that is late because it is busy with other
// streams, or has no CPU, does not make the server look slow. Linux; where the kernel notes
// nothing, the time of the read.
#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <system_error>

namespace atom {

// Of one connected socket, which is not owned and does not block.
class ArrivalClock {
 public:
  using Clock = std::chrono::steady_clock;
  struct Read {
    size_t size = 0;              // bytes
    Clock::time_point arrived{};  // of the last of them
  };

  explicit ArrivalClock(int socket);
  // Nothing and no error: the end. error: operation_would_block where nothing is there yet.
  Read read(std::span<char> buffer, std::error_code& error);

 private:
  int socket_;
  Clock::time_point last_read_;  // what is read next arrived after it
};

}  // namespace atom
