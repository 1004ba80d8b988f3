// The inside of HttpServer: event loop, connection and exchange. Included by http/*.cpp only.
// Threads: a Connection and everything of IoLoop but mark_dirty() belong to the loop's thread. An
// Exchange is shared with the threads that produce the answer; its mutex guards what they hand
// over.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <mutex>
#include <vector>

#include "atom/entrypoints/http/http_server.h"

namespace atom::http {

namespace asio = boost::asio;
using tcp = asio::ip::tcp;
using Clock = std::chrono::steady_clock;

class Connection;
class Exchange;
class IoLoop;

// What all loops of a server share.
struct Shared {
  HttpOptions options;
  Handler handler;
  HttpServer::Refuse refuse;
  std::atomic<int64_t> open_connections{0};
  std::atomic<int64_t> active_exchanges{0};
  std::atomic<int64_t> disconnects{0};
  std::atomic<int64_t> body_bytes{0};
};

// One io_context and the connections on it. Exchanges keep it alive.
class IoLoop : public std::enable_shared_from_this<IoLoop> {
 public:
  explicit IoLoop(std::shared_ptr<Shared> shared) : shared_(std::move(shared)), tick_(context_) {}

  asio::io_context& context() { return context_; }
  Shared& shared() { return *shared_; }
  const std::shared_ptr<Shared>& shared_owner() const { return shared_; }

  void adopt(tcp::socket socket);
  void remove(Connection& connection);
  void close_all();
  // After the thread has ended: lets go of what was still queued.
  void finish();

  // Any thread: this exchange has news for its connection. One wake-up covers all that are marked
  // before the loop gets to run.
  void mark_dirty(std::shared_ptr<Exchange> exchange);

 private:
  template <class Work>
  static void guard(Connection& connection, Work work);
  void drain_dirty();
  void start_tick();

  std::shared_ptr<Shared> shared_;
  asio::io_context context_{1};
  asio::steady_timer tick_;  // checks deadlines; runs only while there are connections
  bool ticking_ = false;
  std::vector<std::shared_ptr<Connection>> connections_;
  std::mutex dirty_mutex_;
  bool finished_ = false;  // under dirty_mutex_
  bool posted_ = false;    // under dirty_mutex_: drain_dirty() is going to run
  std::vector<std::shared_ptr<Exchange>> dirty_;
  std::vector<std::shared_ptr<Exchange>> draining_;
};

// One request and its answer.
class Exchange final : public ResponseWriter, public std::enable_shared_from_this<Exchange> {
 public:
  struct Traits {
    bool http11 = true;
    bool head_only = false;  // HEAD: no body
    bool keep_alive = true;
    int64_t max_backlog = 0;
  };
  Exchange(std::shared_ptr<IoLoop> loop, std::weak_ptr<Connection> connection, Traits traits)
      : loop_(std::move(loop)), connection_(std::move(connection)), traits_(traits) {}

  void send(Response response) override;
  void begin_stream(Response head) override;
  bool write(std::string_view bytes) override;
  void end() override;
  bool has_client() override;
  void on_disconnect(std::function<void()> callback) override;

  // Loop thread only.
  struct News {
    bool ended = false;
    bool overflow = false;  // the reader is too slow
    bool close = false;
  };
  News collect(std::string& out);    // appends what there is to send
  void set_backlog(int64_t unsent);  // bytes the socket would not take; 0: it is writable
  void gone();                       // the client is
  bool ended();
  std::shared_ptr<Connection> connection() { return connection_.lock(); }

 private:
  enum class State { kWaiting, kStreaming, kEnded, kGone };

  void append_head(const Response& response, bool stream);
  void notify_locked();

  std::shared_ptr<IoLoop> loop_;
  std::weak_ptr<Connection> connection_;
  Traits traits_;
  std::mutex mutex_;
  State state_ = State::kWaiting;
  std::string pending_;
  int64_t backlog_ = 0;
  bool dirty_ = false;
  bool overflow_ = false;
  bool close_ = false;
  bool chunked_ = false;
  std::function<void()> on_disconnect_;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, std::shared_ptr<IoLoop> loop);
  ~Connection();

  void start();
  void close();  // at once; an answer in progress is given up
  void check_deadline(Clock::time_point now);
  void on_news(Exchange& exchange);

  size_t slot = 0;  // index in the loop's list

 private:
  enum class Phase { kIdle, kHeader, kBody, kAnswer, kLinger };

  void wait_readable();
  void on_readable();
  void advance();
  bool account_body();
  void begin_exchange(Request request);
  void refuse(int status, const std::string& message);
  void client_gone();
  void drop();
  void flush();
  void answer_done();
  void linger();
  void set_deadline(std::chrono::milliseconds after) { deadline_ = Clock::now() + after; }

  tcp::socket socket_;
  std::shared_ptr<IoLoop> loop_;
  std::string client_;  // its address
  RequestParser parser_;
  std::string in_;
  size_t in_pos_ = 0;
  std::string out_;
  size_t out_pos_ = 0;
  size_t taken_ = 0;  // bytes the client took since its deadline was last set
  std::shared_ptr<Exchange> exchange_;
  Phase phase_ = Phase::kIdle;
  Clock::time_point deadline_ = Clock::time_point::max();
  int64_t accounted_body_ = 0;
  bool reading_ = false;
  bool writing_ = false;
  bool eof_ = false;
  bool continued_ = false;
  bool close_after_ = false;
  bool answer_complete_ = false;
  bool closed_ = false;
};

}  // namespace atom::http
