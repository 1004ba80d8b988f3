#include "atom/benchmark/http_load_client.h"

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <charconv>
#include <optional>
#include <unordered_set>

#include "atom/benchmark/arrival_clock.h"
#include "atom/core/printable.h"

namespace atom {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

struct Address {
  std::string host;
  std::string port = "80";
  std::string prefix;
};

Result<Address> parse_url(const std::string& url) {
  const auto bad = [&](std::string_view why) {
    return std::unexpected(
        Error{.code = ErrorCode::kInvalidArgument,
              .message = str_format("--base-url: {}: {}", printable(url, 120), why),
              .param = "--base-url"});
  };
  std::string_view rest = url;
  if (rest.starts_with("https://"))
    return bad("TLS is not spoken here; measure behind the proxy that ends it");
  if (!rest.starts_with("http://")) return bad("must begin with http://");
  rest.remove_prefix(7);
  Address address;
  const size_t slash = std::min(rest.find('/'), rest.size());
  address.prefix = rest.substr(slash);
  while (address.prefix.ends_with('/')) address.prefix.pop_back();
  std::string_view authority = rest.substr(0, slash);
  const size_t colon = authority.rfind(':');
  if (colon != std::string_view::npos && authority.find(']', colon) == std::string_view::npos) {
    address.port = authority.substr(colon + 1);
    authority = authority.substr(0, colon);
    int port = 0;
    const char* end = address.port.data() + address.port.size();
    const auto parsed = std::from_chars(address.port.data(), end, port);
    if (parsed.ec != std::errc() || parsed.ptr != end || port < 1 || port > 65535)
      return bad("the port must be 1 to 65535");
  }
  if (authority.starts_with('[') && authority.ends_with(']'))
    authority = authority.substr(1, authority.size() - 2);
  address.host = authority;
  if (address.host.empty()) return bad("has no host");
  for (const char c : url) {
    if (static_cast<unsigned char>(c) <= ' ' || c == 0x7f) return bad("has a space in it");
  }
  return address;
}

std::string describe(const error_code& error) {
  if (error == asio::error::eof) return "the server closed the connection";
  if (error.category() == boost::system::system_category()) return error.message();
  return "the answer is not HTTP/1.1: " + error.message();
}

constexpr size_t kReadSize = size_t{64} << 10;

}  // namespace

struct HttpLoadClient::Impl {
  // One request and its connection.
  struct Exchange : std::enable_shared_from_this<Exchange> {
    Exchange(Impl& owner, std::string bytes, OnData data, OnEnd end)
        : impl(owner),
          socket(owner.io),
          request(std::move(bytes)),
          on_data(std::move(data)),
          on_end(std::move(end)) {}

    void start() {
      parser.emplace();
      parser->body_limit(boost::none);
      parser->header_limit(64 << 10);
      parser->eager(true);
      pending.clear();
      received = false;
      if (!impl.idle.empty()) {
        socket = std::move(impl.idle.back());
        clock.emplace(socket.native_handle());
        impl.idle.pop_back();
        reused = true;
        write();
        return;
      }
      reused = false;
      asio::async_connect(
          socket, impl.endpoints,
          [self = shared_from_this()](const error_code& error, const tcp::endpoint&) {
            if (self->ended) return;
            if (error) return self->fail(error);
            error_code ignored;
            self->socket.set_option(tcp::no_delay(true), ignored);
            self->socket.non_blocking(true, ignored);
            self->clock.emplace(self->socket.native_handle());
            self->write();
          });
    }

    void write() {
      asio::async_write(socket, asio::buffer(request),
                        [self = shared_from_this()](const error_code& error, size_t) {
                          if (self->ended) return;
                          if (error) return self->fail(error);
                          self->wait();
                        });
    }

    void wait() {
      socket.async_wait(tcp::socket::wait_read,
                        [self = shared_from_this()](const error_code& error) {
                          if (self->ended) return;
                          if (error) return self->fail(error);
                          self->read();
                        });
    }

    void read() {
      error_code error;
      std::error_code failed;
      const auto [size, arrived] = clock->read(impl.read_buffer, failed);
      if (failed) error.assign(failed.value(), boost::system::system_category());
      if (size == 0 && !failed) error = asio::error::eof;
      if (error == asio::error::would_block || error == asio::error::try_again) return wait();
      if (error == asio::error::eof) {
        error_code at_end;
        parser->put_eof(at_end);
        if (!at_end && parser->is_done()) return finish({});
      }
      if (error) return fail(error);
      received = true;
      take({impl.read_buffer.data(), size}, arrived, error);
      if (ended) return;  // a callback cancelled everything
      if (error) return fail(error);
      if (parser->is_done()) return finish({});
      wait();
    }

    // What the parser cannot use yet waits in `pending` for what comes next.
    void take(std::string_view bytes, Clock::time_point arrived, error_code& error) {
      if (pending.empty()) {
        bytes.remove_prefix(parse(bytes, arrived, error));
        pending = bytes;
      } else {
        pending += bytes;
        pending.erase(0, parse(pending, arrived, error));
      }
    }

    // Gives what is complete to the parser, and its body to on_data. Returns how much that was.
    size_t parse(std::string_view bytes, Clock::time_point arrived, error_code& error) {
      size_t at = 0;
      while (at < bytes.size() && !parser->is_done()) {
        auto& body = parser->get().body();
        body.data = impl.body_buffer.data();
        body.size = impl.body_buffer.size();
        body.more = true;
        error = {};
        at += parser->put(asio::buffer(bytes.data() + at, bytes.size() - at), error);
        const size_t got = impl.body_buffer.size() - body.size;
        if (got > 0) on_data({impl.body_buffer.data(), got}, arrived);
        if (ended) return at;
        if (error == http::error::need_buffer) error = {};
        if (error == http::error::need_more) {
          error = {};
          break;
        }
        if (error) return at;
      }
      return at;
    }

    void fail(const error_code& error) {
      error_code ignored;
      socket.close(ignored);
      if (reused && !received) return start();  // an idle connection that had ended meanwhile
      finish(describe(error));
    }

    void finish(std::string error) {
      if (ended) return;
      ended = true;
      HttpOutcome outcome{.error = std::move(error)};
      if (parser && parser->is_header_done()) {
        outcome.status = static_cast<int>(parser->get().result_int());
        outcome.reason = std::string(parser->get().reason());
      }
      if (outcome.error.empty() && parser->get().keep_alive() && pending.empty())
        impl.idle.push_back(std::move(socket));
      const auto self = shared_from_this();
      impl.running.erase(self);
      OnEnd end = std::move(on_end);
      end(outcome);
    }

    Impl& impl;
    tcp::socket socket;
    std::optional<ArrivalClock> clock;  // of `socket`, once it is open
    std::string request;
    OnData on_data;
    OnEnd on_end;
    std::optional<http::response_parser<http::buffer_body>> parser;
    std::string pending;
    bool reused = false;
    bool received = false;
    bool ended = false;
  };

  asio::io_context io{1};
  Address address;
  tcp::resolver::results_type endpoints;
  std::vector<tcp::socket> idle;
  std::unordered_set<std::shared_ptr<Exchange>> running;
  int64_t generation = 0;  // timers of an earlier one do nothing
  int64_t timers = 0;
  std::vector<char> read_buffer = std::vector<char>(kReadSize);
  std::vector<char> body_buffer = std::vector<char>(kReadSize);
};

HttpLoadClient::HttpLoadClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpLoadClient::~HttpLoadClient() { cancel("the client ends"); }

Status HttpLoadClient::check_url(const std::string& base_url) {
  ATOM_RETURN_IF_ERROR(parse_url(base_url));
  return {};
}

Result<std::unique_ptr<HttpLoadClient>> HttpLoadClient::create(const std::string& base_url) {
  ATOM_ASSIGN_OR_RETURN(Address address, parse_url(base_url));
  auto impl = std::make_unique<Impl>();
  error_code error;
  tcp::resolver resolver(impl->io);
  impl->endpoints = resolver.resolve(address.host, address.port, error);
  if (error) {
    return make_error(ErrorCode::kUnavailable, "{}: the name cannot be resolved: {}",
                      printable(address.host), error.message());
  }
  impl->address = std::move(address);
  return std::unique_ptr<HttpLoadClient>(new HttpLoadClient(std::move(impl)));
}

void HttpLoadClient::send(HttpPost request, OnData on_data, OnEnd on_end) {
  const Address& to = impl_->address;
  std::string bytes = str_format("{} {}{} HTTP/1.1\r\nHost: {}:{}\r\n", request.method, to.prefix,
                                 request.path, to.host, to.port);
  for (const auto& [name, value] : request.headers) bytes += name + ": " + value + "\r\n";
  bytes += str_format("Content-Length: {}\r\n\r\n", request.body.size());
  bytes += request.body;
  auto exchange = std::make_shared<Impl::Exchange>(*impl_, std::move(bytes), std::move(on_data),
                                                   std::move(on_end));
  impl_->running.insert(exchange);
  exchange->start();
}

void HttpLoadClient::after(std::chrono::nanoseconds delay, std::function<void()> action) {
  ++impl_->timers;
  at_most(delay, [this, action = std::move(action)] {
    --impl_->timers;
    action();
  });
}

void HttpLoadClient::at_most(std::chrono::nanoseconds limit, std::function<void()> action) {
  auto timer = std::make_shared<asio::steady_timer>(impl_->io, limit);
  timer->async_wait([this, timer, action = std::move(action),
                     generation = impl_->generation](const error_code& error) {
    if (!error && generation == impl_->generation) action();
  });
}

void HttpLoadClient::cancel(const std::string& reason) {
  ++impl_->generation;
  impl_->timers = 0;
  const auto running = std::move(impl_->running);
  impl_->running.clear();
  for (const auto& exchange : running) {
    error_code ignored;
    exchange->socket.close(ignored);
    exchange->finish(reason);
  }
}

void HttpLoadClient::run(const std::function<void()>& tick) {
  auto next_tick = Clock::now();
  while (!impl_->running.empty() || impl_->timers > 0) {
    impl_->io.restart();
    impl_->io.run_one_for(std::chrono::milliseconds(200));
    impl_->io.poll();
    if (tick && Clock::now() >= next_tick) {
      tick();
      next_tick = Clock::now() + std::chrono::milliseconds(200);
    }
  }
}

}  // namespace atom
