// One client connection: reads and frames requests, one answer at a time in the order of the
// requests, writes without ever blocking, and notices when the client is gone or too slow.
#include "atom/entrypoints/http/connection.h"

#include <netinet/tcp.h>

#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <new>
#include <utility>

#include "atom/core/log.h"
#include "atom/core/with_memory.h"

namespace atom::http {
namespace {

constexpr size_t kReadBytes = 64 << 10;
constexpr size_t kMaxPipelined = 64 << 10;  // unread requests held while an answer is in progress
constexpr size_t kIdleCapacity = 4 << 10;   // buffers larger than this are given back when idle
constexpr std::chrono::milliseconds kLingerTime{2000};
// A reader must take this much (or all there is) in each write time-out: a byte now and then is no
// progress.
constexpr size_t kMinProgress = 16 << 10;
// What the kernel takes beyond what it has sent. Without it, its buffer grows to megabytes: a whole
// answer would count as taken by a client that reads nothing. It asks for more when half is left.
constexpr int kKernelUnsent = 2 * kMinProgress;
constexpr std::chrono::milliseconds kTick{250};

}  // namespace

void IoLoop::adopt(tcp::socket socket) {
  auto connection = std::make_shared<Connection>(std::move(socket), shared_from_this());
  connection->slot = connections_.size();
  connections_.push_back(connection);
  connection->start();
  if (!ticking_) start_tick();
}

void IoLoop::remove(Connection& connection) {
  const size_t slot = connection.slot;
  if (slot >= connections_.size() || connections_[slot].get() != &connection) return;
  connections_[slot].swap(connections_.back());
  connections_[slot]->slot = slot;
  connections_.pop_back();
}

void IoLoop::close_all() {
  while (!connections_.empty()) {
    const std::shared_ptr<Connection> connection = connections_.back();
    connection->close();
  }
  tick_.cancel();
}

void IoLoop::finish() {
  {
    const std::lock_guard lock(dirty_mutex_);
    finished_ = true;
  }
  context_.restart();
  context_.poll();
  close_all();
  context_.restart();
  context_.poll();
  dirty_.clear();
}

// When memory runs out in the middle of one connection's work, that connection ends, and the loop
// goes on with the others.
template <class Work>
void IoLoop::guard(Connection& connection, Work work) {
  try {
    return work();
  } catch (const std::exception&) {
  }
  with_memory([&] { connection.close(); });
  with_memory([] { log_error("a connection is closed: its answer ran out of memory"); });
}

void IoLoop::start_tick() {
  tick_.expires_after(kTick);
  tick_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
    self->ticking_ = false;
    if (error || self->connections_.empty()) return;
    const Clock::time_point now = Clock::now();
    for (size_t i = self->connections_.size(); i-- > 0;) {  // a closed one is replaced by the last
      const std::shared_ptr<Connection> connection = self->connections_[i];
      guard(*connection, [&] { connection->check_deadline(now); });
    }
    self->start_tick();
  });
  ticking_ = true;
}

void IoLoop::mark_dirty(std::shared_ptr<Exchange> exchange) {
  bool wake = false;
  {
    const std::lock_guard lock(dirty_mutex_);
    if (finished_) return;
    dirty_.push_back(std::move(exchange));
    wake = !std::exchange(posted_, true);
  }
  if (!wake) return;
  try {
    asio::post(context_, [self = shared_from_this()] { self->drain_dirty(); });
  } catch (...) {  // out of memory: the next one posts
    const std::lock_guard lock(dirty_mutex_);
    posted_ = false;
    throw;
  }
}

void IoLoop::drain_dirty() {
  {
    const std::lock_guard lock(dirty_mutex_);
    draining_.swap(dirty_);
    posted_ = false;
  }
  for (const std::shared_ptr<Exchange>& exchange : draining_) {
    if (const std::shared_ptr<Connection> connection = exchange->connection()) {
      guard(*connection, [&] { connection->on_news(*exchange); });
    }
  }
  draining_.clear();
}

Connection::Connection(tcp::socket socket, std::shared_ptr<IoLoop> loop)
    : socket_(std::move(socket)), loop_(std::move(loop)), parser_(loop_->shared().options.parser) {
  loop_->shared().open_connections.fetch_add(1, std::memory_order_relaxed);
}

Connection::~Connection() {
  loop_->shared().open_connections.fetch_sub(1, std::memory_order_relaxed);
}

void Connection::start() {
  boost::system::error_code error;
  socket_.non_blocking(true, error);
  socket_.set_option(tcp::no_delay(true), error);
  ::setsockopt(socket_.native_handle(), IPPROTO_TCP, TCP_NOTSENT_LOWAT, &kKernelUnsent,
               sizeof(kKernelUnsent));
  const tcp::endpoint peer = socket_.remote_endpoint(error);
  if (!error) client_ = peer.address().to_string();
  // A connection that never says anything gets as long as one that has fallen silent.
  set_deadline(loop_->shared().options.keep_alive_timeout);
  wait_readable();
}

void Connection::close() {
  if (closed_) return;
  closed_ = true;
  const std::shared_ptr<Connection> self = shared_from_this();
  boost::system::error_code ignored;
  socket_.close(ignored);
  loop_->shared().body_bytes.fetch_sub(accounted_body_, std::memory_order_relaxed);
  accounted_body_ = 0;
  loop_->remove(*this);
  if (exchange_) {
    loop_->shared().active_exchanges.fetch_sub(1, std::memory_order_relaxed);
    if (!exchange_->ended()) loop_->shared().disconnects.fetch_add(1, std::memory_order_relaxed);
    const std::shared_ptr<Exchange> exchange = std::move(exchange_);
    exchange->gone();
  }
}

void Connection::client_gone() { close(); }

// For a reader that takes nothing: the kernel would go on keeping what it did not take.
void Connection::drop() {
  boost::system::error_code ignored;
  socket_.set_option(asio::socket_base::linger(true, 0), ignored);
  close();
}

void Connection::check_deadline(Clock::time_point now) {
  if (now < deadline_) return;
  if (phase_ == Phase::kHeader) return refuse(408, "the request header did not arrive in time");
  if (phase_ == Phase::kBody) return refuse(408, "the request body did not arrive in time");
  if (phase_ == Phase::kAnswer) return drop();
  close();  // idle or lingering
}

void Connection::wait_readable() {
  if (reading_ || closed_) return;
  reading_ = true;
  socket_.async_wait(tcp::socket::wait_read,
                     [self = shared_from_this()](const boost::system::error_code& error) {
                       self->reading_ = false;
                       if (self->closed_) return;
                       if (error) return self->close();
                       self->on_readable();
                     });
}

void Connection::on_readable() {
  thread_local std::string buffer(kReadBytes, '\0');
  boost::system::error_code error;
  const size_t n = socket_.read_some(asio::buffer(buffer), error);
  if (error == asio::error::would_block || error == asio::error::try_again) return wait_readable();
  if (error == asio::error::eof) {
    eof_ = true;
  } else if (error) {
    return close();
  }
  if (phase_ == Phase::kLinger) return eof_ ? close() : wait_readable();
  in_.append(buffer.data(), n);
  advance();
  if (closed_) return;
  if (!eof_) {
    if (!exchange_ || in_.size() - in_pos_ < kMaxPipelined) wait_readable();
    return;
  }
  // A client that has ended its side is gone, unless all it still waits for is bytes already made.
  if (!exchange_ || !exchange_->ended()) return client_gone();
  close_after_ = true;
}

// Takes requests from the input until one is being answered or more bytes are needed.
void Connection::advance() {
  const HttpOptions& options = loop_->shared().options;
  while (!exchange_ && !closed_ && phase_ != Phase::kLinger && in_pos_ < in_.size()) {
    if (phase_ == Phase::kIdle) {
      phase_ = Phase::kHeader;
      set_deadline(options.header_timeout);
    }
    const size_t used = parser_.feed(std::string_view(in_).substr(in_pos_));
    in_pos_ += used;
    if (parser_.state() == RequestParser::State::kFailed) {
      return refuse(parser_.error().status, parser_.error().message);
    }
    if (!account_body()) {
      return refuse(503, "the server holds too many request bodies at the moment");
    }
    if (parser_.state() == RequestParser::State::kDone) {
      begin_exchange(parser_.take());
      break;
    }
    if (parser_.state() == RequestParser::State::kBody && phase_ == Phase::kHeader) {
      phase_ = Phase::kBody;
      set_deadline(options.body_timeout);
      if (parser_.expects_continue() && in_pos_ == in_.size()) {
        out_ += "HTTP/1.1 100 Continue\r\n\r\n";
        flush();
      }
    }
    if (used == 0) break;
  }
  if (in_pos_ == in_.size()) {
    in_.clear();
    in_pos_ = 0;
    if (in_.capacity() > kReadBytes) in_ = {};
  } else if (in_pos_ > kReadBytes) {
    in_.erase(0, in_pos_);
    in_pos_ = 0;
  }
}

// Counts this connection's body bytes into the budget of the whole server.
bool Connection::account_body() {
  const int64_t grown = parser_.body_size() - accounted_body_;
  if (grown <= 0) return true;
  std::atomic<int64_t>& total = loop_->shared().body_bytes;
  accounted_body_ += grown;
  return total.fetch_add(grown, std::memory_order_relaxed) + grown <=
         loop_->shared().options.max_total_body_bytes;
}

void Connection::begin_exchange(Request request) {
  Shared& shared = loop_->shared();
  phase_ = Phase::kAnswer;
  deadline_ = Clock::time_point::max();
  answer_complete_ = false;
  exchange_ = std::make_shared<Exchange>(
      loop_, weak_from_this(),
      Exchange::Traits{.http11 = request.minor_version == 1,
                       .head_only = request.method == "HEAD",
                       .keep_alive = request.keep_alive,
                       .max_backlog = shared.options.max_stream_backlog});
  shared.active_exchanges.fetch_add(1, std::memory_order_relaxed);
  const std::shared_ptr<Exchange> exchange = exchange_;
  request.client = client_;
  // The body may outlive this connection, in the queue of those that answer.
  if (const int64_t bytes = std::exchange(accounted_body_, 0); bytes > 0) {
    request.body_lease =
        std::shared_ptr<const void>(nullptr, [owner = loop_->shared_owner(), bytes](const void*) {
          owner->body_bytes.fetch_sub(bytes, std::memory_order_relaxed);
        });
  }
  try {
    shared.handler(std::move(request), exchange);
  } catch (const std::bad_alloc&) {
    exchange->send(shared.refuse(503, "out of memory for this request"));
  } catch (const std::exception& e) {
    log_error("a request handler failed: {}", e.what());
    exchange->send(shared.refuse(500, "internal error"));
  }
}

// An answer of the HTTP layer itself; the connection ends with it.
void Connection::refuse(int status, const std::string& message) {
  if (closed_) return;
  Response response = loop_->shared().refuse(status, message);
  response.close = true;
  if (!exchange_) {
    exchange_ =
        std::make_shared<Exchange>(loop_, weak_from_this(), Exchange::Traits{.keep_alive = false});
    loop_->shared().active_exchanges.fetch_add(1, std::memory_order_relaxed);
  }
  phase_ = Phase::kAnswer;
  deadline_ = Clock::time_point::max();
  exchange_->send(std::move(response));
}

void Connection::on_news(Exchange& exchange) {
  if (closed_ || &exchange != exchange_.get()) return;
  const bool was_empty = out_.empty();
  const Exchange::News news = exchange.collect(out_);
  if (was_empty) out_pos_ = 0;
  if (news.overflow) {
    log_debug("a stream is dropped: its reader is too slow");
    return drop();
  }
  if (news.ended) answer_complete_ = true;
  if (news.close) close_after_ = true;
  if (!writing_) return flush();
  // The socket takes nothing at the moment: what is unsent grows.
  if (out_pos_ > kReadBytes && out_pos_ > out_.size() / 2) {
    out_.erase(0, out_pos_);
    out_pos_ = 0;
  }
  exchange.set_backlog(static_cast<int64_t>(out_.size() - out_pos_));
}

void Connection::flush() {
  while (out_pos_ < out_.size()) {
    boost::system::error_code error;
    const size_t n =
        socket_.write_some(asio::buffer(out_.data() + out_pos_, out_.size() - out_pos_), error);
    if (error == asio::error::would_block || error == asio::error::try_again) break;
    if (error) return client_gone();
    out_pos_ += n;
    taken_ += n;
  }
  if (out_pos_ == out_.size()) {
    out_.clear();
    out_pos_ = 0;
    if (exchange_) exchange_->set_backlog(0);
    if (phase_ == Phase::kAnswer) deadline_ = Clock::time_point::max();
    if (answer_complete_) answer_done();
    return;
  }
  if (exchange_) exchange_->set_backlog(static_cast<int64_t>(out_.size() - out_pos_));
  if (phase_ == Phase::kAnswer &&
      (taken_ >= kMinProgress || deadline_ == Clock::time_point::max())) {
    taken_ = 0;
    set_deadline(loop_->shared().options.write_timeout);
  }
  writing_ = true;
  socket_.async_wait(tcp::socket::wait_write,
                     [self = shared_from_this()](const boost::system::error_code& error) {
                       self->writing_ = false;
                       if (self->closed_) return;
                       if (error) return self->close();
                       self->flush();
                     });
}

void Connection::answer_done() {
  Shared& shared = loop_->shared();
  answer_complete_ = false;
  exchange_.reset();
  shared.active_exchanges.fetch_sub(1, std::memory_order_relaxed);
  if (eof_) return close();
  if (close_after_) return linger();
  phase_ = Phase::kIdle;
  set_deadline(shared.options.keep_alive_timeout);
  if (out_.capacity() > kIdleCapacity) out_ = {};
  advance();
  if (!closed_) wait_readable();
}

// Says that nothing follows and reads away what the client still sends: closing with unread input
// would reset the connection and destroy the answer on its way.
void Connection::linger() {
  phase_ = Phase::kLinger;
  boost::system::error_code error;
  socket_.shutdown(tcp::socket::shutdown_send, error);
  if (error) return close();
  in_ = {};
  in_pos_ = 0;
  set_deadline(kLingerTime);
  wait_readable();
}

}  // namespace atom::http
