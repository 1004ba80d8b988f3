#include "atom/benchmark/arrival_clock.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <optional>

namespace atom {
namespace {

std::chrono::nanoseconds nanoseconds(const timespec& time) {
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

// How long ago, by the clock of the day, which is the kernel's.
std::optional<std::chrono::nanoseconds> age(msghdr& message) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_TIMESTAMPNS) continue;
    timespec arrived{}, now{};
    std::memcpy(&arrived, CMSG_DATA(part), sizeof(arrived));
    clock_gettime(CLOCK_REALTIME, &now);
    return nanoseconds(now) - nanoseconds(arrived);
  }
  return std::nullopt;
}

}  // namespace

ArrivalClock::ArrivalClock(int socket) : socket_(socket), last_read_(Clock::now()) {
  const int on = 1;
  setsockopt(socket_, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on));  // else: the time of the read
}

ArrivalClock::Read ArrivalClock::read(std::span<char> buffer, std::error_code& error) {
  iovec data{.iov_base = buffer.data(), .iov_len = buffer.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(timespec))];
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t size = recvmsg(socket_, &message, 0);
  error = {};
  if (size < 0) error.assign(errno, std::generic_category());
  if (size <= 0) return {};
  const Clock::time_point now = Clock::now();
  // The clock of the day may have been set meanwhile: an age that cannot be is not believed.
  const auto waited =
      std::clamp(age(message).value_or(std::chrono::nanoseconds(0)), std::chrono::nanoseconds(0),
                 std::chrono::duration_cast<std::chrono::nanoseconds>(now - last_read_));
  last_read_ = now;
  return {.size = static_cast<size_t>(size), .arrived = now - waited};
}

}  // namespace atom
