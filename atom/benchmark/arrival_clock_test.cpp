// The time of arrival, on a connection of loopback.
#include "atom/benchmark/arrival_clock.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string>
#include <thread>

namespace atom {
namespace {

using std::chrono::milliseconds;

class Connection : public ::testing::Test {
 protected:
  void SetUp() override {
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    socklen_t size = sizeof(address);
    ASSERT_EQ(bind(listener, any, size), 0);
    ASSERT_EQ(getsockname(listener, any, &size), 0);
    ASSERT_EQ(listen(listener, 1), 0);
    ours_ = socket(AF_INET, SOCK_STREAM, 0);
    ASSERT_EQ(connect(ours_, any, size), 0);
    theirs_ = accept(listener, nullptr, nullptr);
    ASSERT_GE(theirs_, 0);
    ASSERT_EQ(fcntl(ours_, F_SETFL, O_NONBLOCK), 0);
    close(listener);
  }
  void TearDown() override {
    close(ours_);
    if (theirs_ >= 0) close(theirs_);
  }
  void say(const std::string& text) {
    ASSERT_EQ(send(theirs_, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  }

  int ours_ = -1;
  int theirs_ = -1;
  std::array<char, 64> buffer_{};
  std::error_code error_;
};

TEST_F(Connection, LateReadersAreToldWhenItArrived) {
  ArrivalClock clock(ours_);
  EXPECT_EQ(clock.read(buffer_, error_).size, 0);
  EXPECT_EQ(error_, std::errc::operation_would_block);
  say("warm");  // the first packets of a machine may be without a time
  while (clock.read(buffer_, error_).size == 0) std::this_thread::sleep_for(milliseconds(1));
  auto earlier = ArrivalClock::Clock::now();
  for (int i = 0; i < 3; ++i) {
    say("token");
    const auto sent = ArrivalClock::Clock::now();
    std::this_thread::sleep_for(milliseconds(60));
    const ArrivalClock::Read read = clock.read(buffer_, error_);
    EXPECT_FALSE(error_);
    EXPECT_EQ(read.size, 5);
    EXPECT_GE(read.arrived, earlier);
    EXPECT_LT(read.arrived, sent + milliseconds(50)) << "the kernel notes no times";
    earlier = ArrivalClock::Clock::now();
  }
}

TEST_F(Connection, TheEndIsNothing) {
  ArrivalClock clock(ours_);
  close(theirs_);
  theirs_ = -1;
  do {
    EXPECT_EQ(clock.read(buffer_, error_).size, 0);
  } while (error_ == std::errc::operation_would_block);
  EXPECT_FALSE(error_);
}

}  // namespace
}  // namespace atom
