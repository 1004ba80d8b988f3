// For tests of the HTTP layer and the routes together over loopback sockets: a mock engine that
// produces tokens as fast as it is asked to, and a client that sends what it is given. Not for what
// answers say: chat_fixture.h is.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <thread>

#include "atom/core/format.h"
#include "atom/entrypoints/http/http_server.h"
#include "atom/entrypoints/openai/api_server.h"

namespace atom::server_testing {

// Every byte is a token.
class ByteTokenizer final : public Tokenizer {
 public:
  static inline std::atomic<bool> hold{false};  // encode() waits
  static inline std::atomic<int> num_encoded{0};
  std::vector<int32_t> encode(std::string_view text, bool) const override {
    ++num_encoded;
    while (hold) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string decode(std::span<const int32_t> ids, bool) const override {
    return {ids.begin(), ids.end()};
  }
  std::string token_bytes(int32_t id) const override {
    return std::string(1, static_cast<char>(id));
  }
  std::string_view id_to_token(int32_t) const override { return "t"; }
  std::optional<int32_t> token_to_id(std::string_view) const override { return {}; }
  bool is_special(int32_t) const override { return false; }
  int64_t vocab_size() const override { return 256; }
  std::string_view bos_token() const override { return {}; }
  std::string_view eos_token() const override { return {}; }
  std::string_view pad_token() const override { return {}; }
  std::string_view unk_token() const override { return {}; }
};

// One thread gives each request a token of text a round, until its max_tokens or an abort.
class MockEngine final : public openai::EngineClient {
 public:
  MockEngine() : thread_([this] { run(); }) {}
  ~MockEngine() override {
    stop_ = true;
    thread_.join();
  }
  Result<RequestId> add_request(GenerationRequest request, OutputCallback callback) override {
    if (request.prompt_token_ids[0] == '!')
      return make_error(ErrorCode::kInvalidArgument, "refused by the engine");
    const std::lock_guard lock(mutex_);
    active_[++last_id_] = {.request = std::move(request), .callback = std::move(callback)};
    return last_id_;
  }
  void abort(RequestId id) override {
    const std::lock_guard lock(mutex_);
    const auto found = active_.find(id);
    if (found == active_.end()) return;
    made_by_aborted = found->second.made;
    active_.erase(found);
    ++aborts;
  }
  bool compiles_grammars() const override { return true; }
  Result<std::shared_ptr<const CompiledGrammar>> compile_grammar(const GrammarSpec&,
                                                                 double*) override {
    ++num_compilations;
    while (hold_grammars) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return make_error(ErrorCode::kInvalidArgument, "not a grammar");
  }
  EngineStats stats() const override { return {.condition = condition.load()}; }
  const std::shared_ptr<const Tokenizer>& tokenizer() const override { return tokenizer_; }
  const ChatTemplate* chat_template() const override { return nullptr; }
  std::string_view chat_template_source() const override { return "{{ 'of the model' }}"; }
  int64_t max_model_len() const override { return 1 << 20; }
  int64_t vocab_size() const override { return 256; }

  std::atomic<int> aborts{0};
  std::atomic<int> num_compilations{0};
  std::atomic<bool> hold_grammars{false};
  std::atomic<int64_t> made_by_aborted{0};  // tokens of the last one
  std::atomic<EngineCondition> condition{EngineCondition::kOk};
  std::string piece = "x";  // text of one token
  float logprob = -1;       // of every token
  std::atomic<bool> fail_next{false};

 private:
  struct Active {
    GenerationRequest request;
    OutputCallback callback;
    int64_t made = 0;
  };
  void run() {
    while (!stop_) {
      std::vector<std::pair<OutputCallback, RequestOutput>> events;
      {
        const std::lock_guard lock(mutex_);
        for (auto it = active_.begin(); it != active_.end();) {
          Active& a = it->second;
          const bool last = ++a.made >= a.request.sampling.max_tokens;
          RequestOutput out{
              .request_id = it->first, .finished = last, .num_generated_tokens = a.made};
          for (int32_t i = 0; i < a.request.sampling.n; ++i) {
            out.choices.push_back({.index = i, .text = piece, .token_ids = {'x'}});
            if (a.request.sampling.logprobs)
              out.choices.back().logprobs = {{.logprob = logprob, .top = {{'y', logprob}}}};
            if (last) out.choices.back().finish_reason = FinishReason::kLength;
          }
          if (a.made == 2 && fail_next.exchange(false)) {
            out.error = Error{.code = ErrorCode::kInternal, .message = "secret /path"};
          }
          events.emplace_back(a.callback, std::move(out));
          it = last ? active_.erase(it) : std::next(it);
        }
      }
      for (auto& [callback, out] : events) callback(std::move(out));
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }

  std::shared_ptr<const Tokenizer> tokenizer_ = std::make_shared<ByteTokenizer>();
  std::mutex mutex_;
  std::map<RequestId, Active> active_;
  RequestId last_id_ = 0;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

class Client {
 public:
  explicit Client(int port, int receive_buffer = 0) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer > 0)
      setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
    timeval timeout{.tv_sec = 20, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  ~Client() { close(); }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  void send(const std::string& bytes) {
    EXPECT_EQ(::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  void post(const std::string& path, const std::string& body, const std::string& fields = "") {
    send("POST " + path + " HTTP/1.1\r\nHost: a\r\n" + fields +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
  }
  // Reads up to and with `mark`; what was read so far when the server closed.
  std::string until(const std::string& mark) {
    while (buffer_.find(mark) == std::string::npos) {
      char bytes[65536];
      const ssize_t n = recv(fd_, bytes, sizeof(bytes), 0);
      if (n <= 0) return std::exchange(buffer_, {});
      buffer_.append(bytes, static_cast<size_t>(n));
    }
    const size_t end = buffer_.find(mark) + mark.size();
    std::string out = buffer_.substr(0, end);
    buffer_.erase(0, end);
    return out;
  }

 private:
  int fd_;
  std::string buffer_;
};

class ServerTest : public testing::Test {
 protected:
  void start(http::HttpOptions options = {}, openai::ApiOptions api_options = {}) {
    api_options.served_model_names = {"mock"};
    api_ = std::make_unique<openai::ApiServer>(engine_, nullptr, std::move(api_options));
    options.io_threads = 2;
    server_ = std::make_unique<http::HttpServer>(
        std::move(options),
        [this](http::Request&& r, std::shared_ptr<http::ResponseWriter> w) {
          api_->handle(std::move(r), std::move(w));
        },
        openai::ApiServer::refuse);
    ASSERT_TRUE(server_->bind());
    ASSERT_TRUE(server_->listen());
  }
  void TearDown() override {
    if (server_) server_->stop();
  }
  template <class Condition>
  bool eventually(Condition condition) {  // a minute: the machine may be busy
    for (int i = 0; i < 12000 && !condition(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return condition();
  }
  int port() const { return server_->port(); }

  MockEngine engine_;
  std::unique_ptr<openai::ApiServer> api_;
  std::unique_ptr<http::HttpServer> server_;
};

}  // namespace atom::server_testing
