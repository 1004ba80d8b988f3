// Load on the real HTTP server with a mock model (mock_server, started by itself, on loopback):
// what the server adds to a model that costs nothing. Server and client share this machine's cores.
//   server_benchmark [requests|tokens|idle|streams|aborts|memory]…    (all, when none is named)
// Results and commands: docs/reliability.md. Not a test of answers: tests/clients is; yet every
// answer must have status 200 and every stream its last event and its count of tokens.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

[[noreturn]] void die(const std::string& message) {
  std::fprintf(stderr, "server_benchmark: %s\n", message.c_str());
  std::exit(1);
}

int connect_to(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    if (fd >= 0) close(fd);
    return -1;
  }
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  return fd;
}

// A mock_server of its own for each measurement.
class Server {
 public:
  Server(const std::string& directory, int64_t step_us, int64_t max_num_seqs) {
    const int probe = socket(AF_INET, SOCK_STREAM, 0);  // asks the system for a free port
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    if (bind(probe, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        getsockname(probe, reinterpret_cast<sockaddr*>(&address), &size) != 0)
      die("no free port");
    close(probe);
    port_ = ntohs(address.sin_port);
    pid_ = fork();
    if (pid_ == 0) {
      const std::string program = directory + "/mock_server";
      execl(program.c_str(), "mock_server", std::to_string(port_).c_str(),
            std::to_string(step_us).c_str(), std::to_string(max_num_seqs).c_str(), nullptr);
      _exit(127);
    }
    for (int i = 0; i < 500; ++i) {
      const int fd = connect_to(port_);
      if (fd >= 0) {
        close(fd);
        return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    die("mock_server does not listen");
  }
  ~Server() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  int port() const { return port_; }
  // A number of /proc/PID/status: "VmRSS" (KiB) or "Threads".
  int64_t status(const std::string& name) const {
    std::ifstream file("/proc/" + std::to_string(pid_) + "/status");
    for (std::string line; std::getline(file, line);) {
      if (line.starts_with(name + ":")) return std::atoll(line.c_str() + name.size() + 1);
    }
    return -1;
  }
  double cpu_seconds() const {
    std::ifstream file("/proc/" + std::to_string(pid_) + "/stat");
    std::string field;
    double ticks = 0;
    for (int i = 0; i < 15 && file >> field; ++i) {
      if (i == 13 || i == 14) ticks += std::atof(field.c_str());
    }
    return ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
  }
  // One sample of /metrics; -1 when it is not there.
  double metric(const std::string& name) const {
    const int fd = connect_to(port_);
    const std::string request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    std::string page;
    char buffer[65536];
    if (fd < 0 || write(fd, request.data(), request.size()) < 0) return -1;
    for (ssize_t n = 0; (n = read(fd, buffer, sizeof(buffer))) > 0;)
      page.append(buffer, static_cast<size_t>(n));
    close(fd);
    const size_t at = page.find("\n" + name);
    return at == std::string::npos ? -1 : std::atof(page.c_str() + page.find(' ', at + 2));
  }

 private:
  int port_ = 0;
  pid_t pid_ = 0;
};

std::string completion(int64_t max_tokens, bool stream) {
  std::string body = R"({"model":"mock","prompt":"Hello","ignore_eos":true,"max_tokens":)" +
                     std::to_string(max_tokens);
  if (stream) body += R"(,"stream":true,"stream_options":{"include_usage":true})";
  body += "}";
  return "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
         "Content-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}

// One keep-alive connection in a closed loop. Answers end with their last bytes: of a stream the
// empty chunk, else Content-Length.
struct Client {
  int fd = -1;
  std::string in;       // of the answer that has not ended
  size_t expected = 0;  // bytes of a whole answer once its head is there; 0: chunked or unknown
  bool chunked = false;
  bool has_head = false;
  Clock::time_point last_event{};
};

class Load {
 public:
  Load(int port, size_t connections, std::string request)
      : request_(std::move(request)), clients_(connections), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    for (Client& client : clients_) {
      client.fd = connect_to(port);
      if (client.fd < 0) die("cannot connect: " + std::string(std::strerror(errno)));
      fcntl(client.fd, F_SETFL, O_NONBLOCK);
      epoll_event event{.events = EPOLLIN, .data = {.ptr = &client}};
      epoll_ctl(epoll_, EPOLL_CTL_ADD, client.fd, &event);
    }
  }
  ~Load() {
    close_all();
    close(epoll_);
  }
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

  void close_all() {
    for (Client& client : clients_) {
      if (client.fd >= 0) close(client.fd);
      client.fd = -1;
    }
  }
  void start() {
    for (Client& client : clients_) send(client);
  }
  // Serves events until `until` says so; asked after every round.
  void run(const std::function<bool()>& until, bool repeat = true) {
    epoll_event events[512];
    while (!until()) {
      const int count = epoll_wait(epoll_, events, 512, 100);
      const auto now = Clock::now();
      for (int i = 0; i < count; ++i)
        receive(*static_cast<Client*>(events[i].data.ptr), now, repeat);
    }
  }

  int64_t answers = 0;
  int64_t bytes = 0;
  int64_t events = 0;  // of streams; one that two reads share is not counted
  std::function<void(Client&, std::string_view, Clock::time_point)> on_bytes;  // of a stream

 private:
  void send(Client& client) {
    if (::send(client.fd, request_.data(), request_.size(), MSG_NOSIGNAL) !=
        static_cast<ssize_t>(request_.size()))
      die("cannot send a request");
  }

  void count_events(std::string_view got) {
    for (size_t at = 0; (at = got.find("data: {", at)) != std::string_view::npos; ++at) ++events;
  }

  void receive(Client& client, Clock::time_point now, bool repeat) {
    thread_local std::vector<char> buffer(1 << 18);
    const ssize_t n = ::read(client.fd, buffer.data(), buffer.size());
    if (n <= 0) {
      if (n < 0 && errno == EAGAIN) return;
      die("the server closed a connection: " + client.in.substr(0, 300));
    }
    bytes += n;
    count_events({buffer.data(), static_cast<size_t>(n)});
    const std::string_view got(buffer.data(), static_cast<size_t>(n));
    if (client.has_head && on_bytes) on_bytes(client, got, now);
    client.in.append(got);
    if (!client.has_head) read_head(client);
    if (!client.has_head) return;
    const bool ended =
        client.chunked ? client.in.ends_with("\r\n0\r\n\r\n") : client.in.size() >= client.expected;
    if (!ended) {
      // Of a stream the end is enough, and is kept for the checks.
      if (client.chunked && client.in.size() > 8192) client.in.erase(0, client.in.size() - 4096);
      return;
    }
    check_end(client);
    ++answers;
    client.in.clear();
    client.has_head = false;
    if (repeat) send(client);
  }

  static void read_head(Client& client) {
    const size_t end = client.in.find("\r\n\r\n");
    if (end == std::string::npos) return;
    if (!client.in.starts_with("HTTP/1.1 200")) die("refused: " + client.in.substr(0, 400));
    const size_t length = client.in.find("Content-Length: ");
    client.chunked = length == std::string::npos || length > end;
    client.expected =
        client.chunked ? 0 : end + 4 + static_cast<size_t>(std::atoll(&client.in[length + 16]));
    client.has_head = true;
  }

  void check_end(const Client& client) const {
    if (client.chunked && client.in.find("data: [DONE]") == std::string::npos)
      die("a stream ended without [DONE]");
    if (!expected_usage.empty() && client.in.find(expected_usage) == std::string::npos)
      die("an answer lacks " + expected_usage);
  }

 public:
  std::string expected_usage;  // must be in every answer

 private:
  std::string request_;
  std::vector<Client> clients_;
  int epoll_;
};

void requests(const std::string& dir) {
  std::printf("requests: 1 token each, whole answers, closed loop\n");
  for (const size_t connections : {1, 64, 256}) {
    const Server server(dir, 0, 512);
    Load load(server.port(), connections, completion(1, false));
    load.expected_usage = R"("completion_tokens":1,)";
    load.start();
    const double cpu = server.cpu_seconds();
    const auto start = Clock::now();
    load.run([&] { return seconds_since(start) > 5; });
    std::printf("  %4zu connections: %.0f requests/s, server %.1f us of CPU each\n", connections,
                static_cast<double>(load.answers) / seconds_since(start),
                (server.cpu_seconds() - cpu) * 1e6 / static_cast<double>(load.answers));
  }
}

// `step_us` 0: steps cost nothing, and readers that fall behind get many tokens in one event.
// Otherwise the model sets the pace, and nearly every token is an event of its own.
void tokens(const std::string& dir, size_t connections, int64_t step_us) {
  const Server server(dir, step_us, 512);
  Load load(server.port(), connections, completion(2000, true));
  load.expected_usage = R"("completion_tokens":2000,)";
  load.start();
  const double before = server.metric("vllm:generation_tokens_total");
  const double cpu = server.cpu_seconds();
  const auto start = Clock::now();
  load.run([&] { return seconds_since(start) > 6; });
  const double made = server.metric("vllm:generation_tokens_total") - before;
  const double wall = seconds_since(start);
  std::printf(
      "  %4zu streams, steps of %lld us: %.0f tokens/s in %.0f events/s, server %.2f us of CPU a "
      "token\n",
      connections, static_cast<long long>(step_us), made / wall,
      static_cast<double>(load.events) / wall, (server.cpu_seconds() - cpu) * 1e6 / made);
}

void tokens(const std::string& dir) {
  std::printf("tokens: streams of 2,000 tokens\n");
  for (const size_t connections : {64, 256, 512}) tokens(dir, connections, 0);
  for (const int64_t step_us : {20000, 5000, 2000}) tokens(dir, 512, step_us);
}

void idle(const std::string& dir) {
  const Server server(dir, 0, 512);
  const int64_t rss = server.status("VmRSS");
  const int64_t threads = server.status("Threads");
  Load load(server.port(), 10000, completion(1, false));
  load.start();  // each has been used once, as a client's pool would
  load.run([&] { return load.answers == 10000; }, false);
  const double cpu = server.cpu_seconds();
  std::this_thread::sleep_for(std::chrono::seconds(5));
  std::printf(
      "idle: 10,000 keep-alive connections: RSS %.1f -> %.1f MB, threads %lld -> %lld, %.2f s of "
      "CPU in 5 s\n",
      static_cast<double>(rss) / 1024, static_cast<double>(server.status("VmRSS")) / 1024,
      static_cast<long long>(threads), static_cast<long long>(server.status("Threads")),
      server.cpu_seconds() - cpu);
}

void streams(const std::string& dir) {
  constexpr double kStep = 0.05;
  const Server server(dir, static_cast<int64_t>(kStep * 1e6), 2048);
  Load load(server.port(), 2000, completion(240, true));
  load.expected_usage = R"("completion_tokens":240,)";
  std::vector<double> jitter;
  bool warm = false;
  load.on_bytes = [&](Client& client, std::string_view got, Clock::time_point now) {
    if (got.find("data: {") == std::string_view::npos) return;
    if (warm && client.last_event != Clock::time_point{})
      jitter.push_back(
          std::abs(std::chrono::duration<double>(now - client.last_event).count() - kStep));
    client.last_event = now;
  };
  load.start();
  const double cpu = server.cpu_seconds();
  const auto start = Clock::now();
  load.run(
      [&] {
        warm = seconds_since(start) > 2;  // from then on all run
        return load.answers == 2000;
      },
      false);
  std::ranges::sort(jitter);
  const auto at = [&](double q) {
    return jitter[static_cast<size_t>(q * static_cast<double>(jitter.size() - 1))] * 1e3;
  };
  std::printf(
      "streams: 2,000 at 20 tokens/s: jitter ms p50 %.2f p99 %.2f max %.2f over %zu gaps; %.1f s "
      "for 240 tokens (12 at best), server %.0f %% of a core\n",
      at(0.5), at(0.99), at(1), jitter.size(), seconds_since(start),
      100 * (server.cpu_seconds() - cpu) / seconds_since(start));
}

void aborts(const std::string& dir) {
  const Server server(dir, 100'000, 1024);
  Load load(server.port(), 1000, completion(5000, true));
  load.start();
  const auto start = Clock::now();
  load.run([&] {
    return seconds_since(start) > 1 && server.metric("vllm:num_requests_running") == 1000;
  });
  const char* steps = "vllm:iteration_tokens_total_count";
  const double before = server.metric(steps);
  load.close_all();
  const auto closed = Clock::now();
  while (server.metric("vllm:num_requests_running") > 0 && seconds_since(closed) < 10)
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  std::printf(
      "aborts: 1,000 clients leave at once: none runs after %.0f steps (%.0f ms, a step "
      "takes 100)\n",
      server.metric(steps) - before, seconds_since(closed) * 1e3);
}

void memory(const std::string& dir) {
  const Server server(dir, 0, 512);
  Load load(server.port(), 64, completion(4, false));
  load.start();
  std::printf("memory: RSS after n requests\n");
  int64_t warm = 0;
  for (const int64_t n : {50'000, 100'000, 250'000, 500'000, 750'000, 1'000'000}) {
    load.run([&] { return load.answers >= n; });
    const int64_t rss = server.status("VmRSS");
    if (n == 100'000) warm = rss;
    std::printf(
        "  %8lld: %.2f MB%s\n", static_cast<long long>(n), static_cast<double>(rss) / 1024,
        warm > 0
            ? (" (" +
               std::to_string(100.0 * static_cast<double>(rss - warm) / static_cast<double>(warm)) +
               " %)")
                  .c_str()
            : "");
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  const std::string program = argv[0];
  const size_t slash = program.rfind('/');
  const std::string dir = slash == std::string::npos ? "." : program.substr(0, slash);
  const struct {
    const char* name;
    void (*run)(const std::string&);
  } parts[] = {{"requests", requests}, {"tokens", tokens}, {"idle", idle},
               {"streams", streams},   {"aborts", aborts}, {"memory", memory}};
  for (int i = 1; i < argc; ++i) {
    if (std::ranges::none_of(parts,
                             [&](const auto& part) { return part.name == std::string(argv[i]); }))
      die("no such part: " + std::string(argv[i]));
  }
  for (const auto& part : parts) {
    const bool named = std::any_of(argv + 1, argv + argc,
                                   [&](const char* a) { return part.name == std::string(a); });
    if (argc == 1 || named) {
      part.run(dir);
      std::fflush(stdout);
    }
  }
  return 0;
}
