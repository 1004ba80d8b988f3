// The cheapest server that streams completions: every event carries the moment at which it was
// handed to its socket, so that a client can be asked how much later it noticed. And the barest
// reader of it, the baseline for clients. No engine, one thread; for
// benchmarks/client_agreement.py.
//   stamping_server PORT STEP_MICROSECONDS
//   stamping_server --read PORT STREAMS TOKENS   (prints percentiles of its delays as JSON)
// Stamps are CLOCK_MONOTONIC, that of C++'s steady_clock and of Python's perf_counter.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace {

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{1'000'000'000} * now.tv_sec + now.tv_nsec;
}

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

void send_at_once(int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

void watch(int epoll, int fd, void* what) {
  epoll_event event{.events = EPOLLIN, .data = {.ptr = what}};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) die("epoll_ctl");
}

// One chunk of the answer. The stamp has 20 digits, so that an event always has the same length.
constexpr std::string_view kBefore =
    R"(data: {"id":"cmpl-0000000000000000","object":"text_completion","created":1800000000,"model":"mock",)"
    R"("choices":[{"index":0,"text":")";
constexpr std::string_view kAfter = " \",\"logprobs\":null,\"finish_reason\":null}]}\n\n";
constexpr size_t kDigits = 20;

std::string chunk(std::string_view body) {
  char size[32];
  std::snprintf(size, sizeof(size), "%zx\r\n", body.size());
  return size + std::string(body) + "\r\n";
}

struct Connection {
  int fd = -1;
  std::string input;
  int64_t total = 0;  // tokens of the running answer
  int64_t left = 0;
  std::string unsent;  // the socket was full
};

class Server {
 public:
  Server(int port, int64_t step_us) {
    epoll_ = epoll_create1(0);
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    const int one = 1;
    setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    const sockaddr_in address = loopback(port);
    if (bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
        listen(listener_, 4096) != 0) {
      die("listen");
    }
    timer_ = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    const timespec step{.tv_sec = step_us / 1'000'000, .tv_nsec = step_us % 1'000'000 * 1000};
    const itimerspec every{.it_interval = step, .it_value = step};
    timerfd_settime(timer_, 0, &every, nullptr);
    watch(epoll_, listener_, &listener_);
    watch(epoll_, timer_, &timer_);
  }

  void run() {
    epoll_event events[256];
    while (true) {
      const int count = epoll_wait(epoll_, events, 256, -1);
      for (int i = 0; i < count; ++i) {
        void* what = events[i].data.ptr;
        if (what == &listener_) {
          accept_all();
        } else if (what == &timer_) {
          step();
        } else {
          receive(*static_cast<Connection*>(what));
        }
      }
    }
  }

 private:
  void accept_all() {
    for (int fd; (fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK)) >= 0;) {
      send_at_once(fd);
      connections_.push_back(std::make_unique<Connection>());
      connections_.back()->fd = fd;
      watch(epoll_, fd, connections_.back().get());
    }
  }

  void step() {
    uint64_t times = 0;
    if (read(timer_, &times, sizeof(times)) < 0) return;
    for (const auto& connection : connections_) {
      if (connection->left > 0 && connection->unsent.empty())
        answer(*connection);
      else if (!connection->unsent.empty())
        put(*connection, {});
    }
    std::erase_if(connections_, [](const auto& connection) { return connection->fd < 0; });
  }

  void answer(Connection& to) {
    char digits[kDigits + 1];
    std::snprintf(digits, sizeof(digits), "%020lld", static_cast<long long>(now_ns()));
    std::memcpy(event_.data() + stamp_at_, digits, kDigits);
    if (--to.left > 0) return put(to, event_);
    std::string last = event_;
    last += chunk("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":" +
                  std::to_string(to.total) + "}}\n\n");
    last += chunk("data: [DONE]\n\n") + "0\r\n\r\n";
    put(to, last);
  }

  void put(Connection& to, std::string_view bytes) {
    to.unsent += bytes;
    const ssize_t sent = send(to.fd, to.unsent.data(), to.unsent.size(), MSG_NOSIGNAL);
    if (sent > 0) to.unsent.erase(0, static_cast<size_t>(sent));
    if (sent < 0 && errno != EAGAIN) to.left = 0;
  }

  void receive(Connection& from) {
    char buffer[65536];
    const ssize_t got = recv(from.fd, buffer, sizeof(buffer), 0);
    if (got <= 0) {
      close(from.fd);
      from.fd = -1;
      from.left = 0;
      from.unsent.clear();
      return;
    }
    from.input.append(buffer, static_cast<size_t>(got));
    const size_t head = from.input.find("\r\n\r\n");
    if (head == std::string::npos) return;
    if (from.input.starts_with("GET")) {
      from.input.clear();
      return put(from, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    }
    if (from.input.size() < head + 4 + static_cast<size_t>(number("ontent-Length:", from.input)))
      return;
    from.total = from.left = std::max<int64_t>(number("\"max_tokens\":", from.input), 1);
    from.input.clear();
    put(from,
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
  }

  static int64_t number(std::string_view key, std::string_view text) {
    size_t at = text.find(key);
    if (at == std::string_view::npos) return 0;
    at = text.find_first_not_of(' ', at + key.size());
    int64_t value = 0;
    std::from_chars(text.data() + at, text.data() + text.size(), value);
    return value;
  }

  int epoll_ = -1;
  int listener_ = -1;
  int timer_ = -1;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::string event_ =
      chunk(std::string(kBefore) + std::string(kDigits, '0') + std::string(kAfter));
  size_t stamp_at_ = event_.find(kBefore) + kBefore.size();
};

double percentile(const std::vector<double>& sorted, double q) {
  return sorted[static_cast<size_t>(q / 100 * static_cast<double>(sorted.size() - 1))];
}

// Waits, reads, looks at the clock; nothing is parsed but the stamps, and these at the end.
int read_barely(int port, int64_t streams, int64_t tokens) {
  struct Read {
    int64_t at;
    std::string bytes;
  };
  const int epoll = epoll_create1(0);
  const std::string body = "{\"max_tokens\":" + std::to_string(tokens) + "}";
  const std::string request =
      "POST /v1/completions HTTP/1.1\r\nContent-Length: " + std::to_string(body.size()) +
      "\r\n\r\n" + body;
  std::vector<int> fds(static_cast<size_t>(streams));
  for (int& fd : fds) {
    fd = socket(AF_INET, SOCK_STREAM, 0);
    const sockaddr_in address = loopback(port);
    if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
      die("connect");
    send_at_once(fd);
    if (send(fd, request.data(), request.size(), 0) < 0) die("send");
    watch(epoll, fd, &fd);
  }
  std::vector<Read> reads;
  reads.reserve(static_cast<size_t>(streams * (tokens + 2)));
  epoll_event events[256];
  char buffer[65536];
  for (int64_t open = streams; open > 0;) {
    const int count = epoll_wait(epoll, events, 256, -1);
    for (int i = 0; i < count; ++i) {
      const ssize_t got = recv(*static_cast<int*>(events[i].data.ptr), buffer, sizeof(buffer), 0);
      if (got <= 0) die("recv");
      reads.push_back({now_ns(), std::string(buffer, static_cast<size_t>(got))});
      open -= reads.back().bytes.ends_with("0\r\n\r\n") ? 1 : 0;
    }
  }
  std::vector<double> delays;
  for (const Read& read : reads) {
    for (size_t at = 0; (at = read.bytes.find(kBefore, at)) != std::string::npos;) {
      at += kBefore.size();
      int64_t stamp = 0;
      std::from_chars(read.bytes.data() + at, read.bytes.data() + at + kDigits, stamp);
      delays.push_back(1e-6 * static_cast<double>(read.at - stamp));
    }
  }
  std::sort(delays.begin(), delays.end());
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
  std::printf(
      "{\"median\": %.4f, \"p90\": %.4f, \"p99\": %.4f, \"max\": %.4f, \"events\": %zu, \"cpu_s\": "
      "%.4f}\n",
      percentile(delays, 50), percentile(delays, 90), percentile(delays, 99), delays.back(),
      delays.size(), seconds(used.ru_utime) + seconds(used.ru_stime));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc == 5 && std::strcmp(argv[1], "--read") == 0)
    return read_barely(std::atoi(argv[2]), std::atoll(argv[3]), std::atoll(argv[4]));
  if (argc != 3) {
    std::fprintf(stderr,
                 "usage: stamping_server PORT STEP_MICROSECONDS | --read PORT STREAMS TOKENS\n");
    return 2;
  }
  Server(std::atoi(argv[1]), std::max<int64_t>(std::atoll(argv[2]), 1)).run();
}
