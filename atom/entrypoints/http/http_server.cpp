// Accepting, spreading over the loops, and the life of the I/O threads.
#include "atom/entrypoints/http/http_server.h"

#include <sys/resource.h>
#include <sys/socket.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/post.hpp>
#include <optional>
#include <thread>

#include "atom/core/log.h"
#include "atom/core/with_memory.h"
#include "atom/entrypoints/http/connection.h"

namespace atom::http {
namespace {

constexpr std::chrono::milliseconds kAcceptPause{100};
constexpr std::string_view kTooManyConnections =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    "Content-Length: 94\r\nConnection: close\r\n\r\n"
    "{\"error\":{\"message\":\"too many "
    "connections\",\"type\":\"overloaded_error\",\"param\":null,\"code\":503}}";

// Every connection is a file: take as many as the system lets this process have.
void raise_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

}  // namespace

struct HttpServer::Impl {
  std::shared_ptr<Shared> shared = std::make_shared<Shared>();
  std::vector<std::shared_ptr<IoLoop>> loops;
  std::vector<asio::executor_work_guard<asio::io_context::executor_type>> work;
  std::vector<std::thread> threads;
  std::optional<tcp::acceptor> acceptor;
  std::optional<asio::steady_timer> accept_pause;
  size_t next_loop = 0;
  int bound_port = 0;

  void accept_next();
  void give(const std::shared_ptr<IoLoop>& loop, tcp::socket socket);
  void pause_accept();
};

HttpServer::HttpServer(HttpOptions options, Handler handler, Refuse refuse)
    : impl_(std::make_unique<Impl>()) {
  impl_->shared->options = std::move(options);
  impl_->shared->handler = std::move(handler);
  impl_->shared->refuse = std::move(refuse);
  const int count = std::max(1, impl_->shared->options.io_threads);
  for (int i = 0; i < count; ++i) impl_->loops.push_back(std::make_shared<IoLoop>(impl_->shared));
}

HttpServer::~HttpServer() { stop(); }

Status HttpServer::bind() {
  raise_file_limit();
  const HttpOptions& options = impl_->shared->options;
  boost::system::error_code error;
  tcp::resolver resolver(impl_->loops[0]->context());
  const auto found =
      resolver.resolve(options.host, std::to_string(options.port),
                       tcp::resolver::passive | tcp::resolver::address_configured, error);
  const auto numeric = error ? resolver.resolve(options.host, std::to_string(options.port),
                                                tcp::resolver::passive, error)
                             : found;
  if (error || numeric.empty()) {
    return make_error(ErrorCode::kInvalidArgument, "--host: cannot resolve {}: {}", options.host,
                      error.message());
  }
  const tcp::endpoint endpoint = numeric.begin()->endpoint();
  tcp::acceptor& acceptor = impl_->acceptor.emplace(impl_->loops[0]->context());
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error && endpoint.address().is_v6()) {
    boost::system::error_code ignored;
    acceptor.set_option(asio::ip::v6_only(false), ignored);
  }
  if (!error) acceptor.bind(endpoint, error);
  if (error) {
    impl_->acceptor.reset();
    return make_error(ErrorCode::kUnavailable, "cannot bind {} port {}: {}", options.host,
                      options.port, error.message());
  }
  impl_->bound_port = acceptor.local_endpoint(error).port();
  return {};
}

Status HttpServer::listen() {
  boost::system::error_code error;
  impl_->acceptor->listen(SOMAXCONN, error);
  if (error) {
    return make_error(ErrorCode::kUnavailable, "cannot listen on port {}: {}", impl_->bound_port,
                      error.message());
  }
  for (const std::shared_ptr<IoLoop>& loop : impl_->loops) {
    impl_->work.emplace_back(loop->context().get_executor());
    impl_->threads.emplace_back([loop] {
      while (true) {
        try {
          loop->context().run();
          return;
        } catch (const std::exception& e) {  // out of memory in a handler: the loop goes on
          log_error("I/O thread: {}", e.what());
        }
      }
    });
  }
  asio::post(impl_->loops[0]->context(), [impl = impl_.get()] { impl->accept_next(); });
  return {};
}

void HttpServer::Impl::accept_next() {
  const std::shared_ptr<IoLoop> loop = loops[next_loop++ % loops.size()];
  acceptor->async_accept(
      loop->context(), [this, loop](const boost::system::error_code& error, tcp::socket socket) {
        if (error == asio::error::operation_aborted) return;
        if (error) return pause_accept();  // out of files or memory: try again a little later
        if (shared->open_connections.load(std::memory_order_relaxed) >=
            shared->options.max_connections) {
          (void)::send(socket.native_handle(), kTooManyConnections.data(),
                       kTooManyConnections.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        } else {
          give(loop, std::move(socket));
        }
        with_memory([this] { accept_next(); });
      });
}

// To the loop that serves it. Without the memory for that, this connection ends and the next one is
// accepted.
void HttpServer::Impl::give(const std::shared_ptr<IoLoop>& loop, tcp::socket socket) {
  try {
    if (loop == loops[0]) return loop->adopt(std::move(socket));
    asio::post(loop->context(),
               [loop, moved = std::move(socket)]() mutable { loop->adopt(std::move(moved)); });
  } catch (const std::bad_alloc&) {
  }
}

void HttpServer::Impl::pause_accept() {
  accept_pause.emplace(loops[0]->context(), kAcceptPause);
  accept_pause->async_wait([this](const boost::system::error_code& error) {
    if (!error) with_memory([this] { accept_next(); });
  });
}

int HttpServer::port() const { return impl_->bound_port; }

void HttpServer::wait_until_quiet(std::chrono::milliseconds deadline) {
  const Clock::time_point end = Clock::now() + deadline;
  while (impl_->shared->active_exchanges.load() > 0 && Clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

void HttpServer::stop() {
  if (impl_->threads.empty()) {
    impl_->acceptor.reset();
    return;
  }
  asio::post(impl_->loops[0]->context(), [impl = impl_.get()] {
    boost::system::error_code ignored;
    impl->acceptor->close(ignored);
    if (impl->accept_pause) impl->accept_pause->cancel();
  });
  for (const std::shared_ptr<IoLoop>& loop : impl_->loops) {
    asio::post(loop->context(), [loop] {
      loop->close_all();
      loop->context().stop();
    });
  }
  for (std::thread& thread : impl_->threads) thread.join();
  for (const std::shared_ptr<IoLoop>& loop : impl_->loops) loop->finish();
  impl_->threads.clear();
  impl_->work.clear();
}

HttpStats HttpServer::stats() const {
  const Shared& shared = *impl_->shared;
  return {.open_connections = shared.open_connections.load(),
          .active_exchanges = shared.active_exchanges.load(),
          .disconnects = shared.disconnects.load()};
}

}  // namespace atom::http
