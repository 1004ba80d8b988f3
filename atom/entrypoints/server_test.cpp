// The HTTP layer and the routes together over loopback sockets: streams, disconnects, slow readers,
// limits, health, shutdown.
#include <limits>

#include "atom/entrypoints/server_fixture.h"

namespace atom::server_testing {
namespace {

using openai::ApiServer;

constexpr char kEndless[] = R"({"prompt":"a","max_tokens":1000000,"stream":true})";
constexpr char kShort[] = R"({"prompt":"a","max_tokens":3,"stream":true})";

TEST_F(ServerTest, RefusesConnectionsUntilItListens) {
  http::HttpServer early({}, nullptr, ApiServer::refuse);
  ASSERT_TRUE(early.bind());
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(early.port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_NE(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ::close(fd);
  start();
  http::HttpServer second({.port = port()}, nullptr, ApiServer::refuse);
  EXPECT_FALSE(second.bind());
}

TEST_F(ServerTest, ManyStreamsOnFewThreads) {
  start();
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 200; ++i) clients.push_back(std::make_unique<Client>(port()));
  for (auto& client : clients)
    client->post("/v1/completions", R"({"prompt":"a","max_tokens":20,"n":2,"stream":true})");
  for (auto& client : clients) {
    const std::string answer = client->until("0\r\n\r\n");
    size_t events = 0;
    for (size_t at = 0; (at = answer.find("\"text\":\"x\"", at)) != std::string::npos; ++at)
      ++events;
    EXPECT_EQ(events, 40U);
    EXPECT_NE(answer.find("data: [DONE]"), std::string::npos);
  }
  EXPECT_TRUE(eventually([&] { return api_->api_metrics().in_flight.load() == 0; }));
  EXPECT_EQ(server_->stats().open_connections, 200);  // kept alive
}

TEST_F(ServerTest, DisconnectAbortsStreamAndWhole) {
  start();
  for (const char* body : {kEndless, R"({"prompt":"a","max_tokens":1000000})"}) {
    const int before = engine_.aborts;
    Client client(port());
    client.post("/v1/completions", body);
    ASSERT_TRUE(eventually([&] { return api_->api_metrics().in_flight.load() == 1; }));
    client.close();
    EXPECT_TRUE(eventually([&] { return engine_.aborts == before + 1; }));
    EXPECT_TRUE(eventually([&] { return api_->api_metrics().in_flight.load() == 0; }));
  }
  EXPECT_TRUE(eventually([&] { return server_->stats().disconnects == 2; }));
}

TEST_F(ServerTest, ASlowReaderIsDroppedAndOthersGoOn) {
  engine_.piece = std::string(4000, 'y');
  start({.max_stream_backlog = 65536, .write_timeout = std::chrono::minutes(10)});
  Client slow(port(), 4096);
  slow.post("/v1/completions", kEndless);
  Client good(port());
  good.post("/v1/completions", R"({"prompt":"a","max_tokens":50,"stream":true})");
  EXPECT_NE(good.until("0\r\n\r\n").find("[DONE]"), std::string::npos);
  EXPECT_TRUE(eventually([&] { return engine_.aborts == 1; }));  // its backlog was full
  // The rest is what the kernel took: its largest send buffer is 4 MiB.
  EXPECT_LT(engine_.made_by_aborted * 4000, 12 << 20);
}

TEST_F(ServerTest, AReaderThatTakesNothingMeetsTheWriteDeadline) {
  engine_.piece = std::string(100000, 'y');
  start({.max_stream_backlog = int64_t{1} << 40, .write_timeout = std::chrono::milliseconds(300)});
  Client slow(port(), 4096);
  slow.post("/v1/completions", kEndless);
  EXPECT_TRUE(eventually([&] { return engine_.aborts == 1; }));
}

TEST_F(ServerTest, DeadlinesAreAbsolute) {
  start({.keep_alive_timeout = std::chrono::milliseconds(600),
         .header_timeout = std::chrono::milliseconds(400),
         .body_timeout = std::chrono::milliseconds(400)});
  Client idle(port()), header(port()), body(port());
  header.send("GET /hea");
  body.send("POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{");
  EXPECT_NE(header.until("}}").find("408 Request Timeout"), std::string::npos);
  EXPECT_NE(body.until("}}").find("408 Request Timeout"), std::string::npos);
  EXPECT_EQ(idle.until("never"), "");
  EXPECT_TRUE(eventually([&] { return server_->stats().open_connections <= 2; }));
}

TEST_F(ServerTest, EngineErrorsReachTheClientWithoutTheirText) {
  start();
  Client client(port());
  engine_.fail_next = true;
  client.post("/v1/completions", kEndless);
  const std::string stream = client.until("0\r\n\r\n");
  EXPECT_NE(stream.find("data: {\"error\":{\"message\":\"internal error\""), std::string::npos);
  EXPECT_NE(stream.find("data: [DONE]"), std::string::npos);
  EXPECT_EQ(stream.find("secret"), std::string::npos);
  client.post("/v1/completions", R"({"prompt":"!"})");
  EXPECT_NE(client.until("}}").find("400 Bad Request"), std::string::npos);
  client.post("/v1/completions", kShort);
  EXPECT_NE(client.until("0\r\n\r\n").find("[DONE]"), std::string::npos);
}

TEST_F(ServerTest, LimitsAnswer503WithRetryAfter) {
  openai::ApiOptions options;
  options.max_in_flight = 2;
  start({.max_total_body_bytes = 1000}, options);
  Client busy(port()), late(port()), big(port());
  busy.post("/v1/completions", R"({"prompt":"a","max_tokens":1000000,"n":2,"stream":true})");
  busy.until("data: ");
  late.post("/v1/completions", kShort);
  const std::string refused = late.until("}}");
  EXPECT_NE(refused.find("503 "), std::string::npos);
  EXPECT_NE(refused.find("Retry-After: 1"), std::string::npos);
  big.post("/tokenize", std::string(2000, ' '));
  EXPECT_NE(big.until("}}").find("503 "), std::string::npos);
}

// A body counts while anyone holds it, also after its client has left; and nobody works for one
// who left while waiting.
TEST_F(ServerTest, BodiesOfClientsThatLeftStillCount) {
  openai::ApiOptions options;
  options.pool_threads = 1;
  start({.max_total_body_bytes = 5000}, options);
  const std::string body = R"({"prompt":"a","user":")" + std::string(2000, ' ') + "\"}";
  const int before = ByteTokenizer::num_encoded;
  ByteTokenizer::hold = true;
  {
    Client first(port()), second(port());
    first.post("/tokenize", body);
    second.post("/tokenize", body);
    ASSERT_TRUE(eventually([&] { return server_->stats().active_exchanges == 2; }));
    ASSERT_TRUE(eventually([&] { return ByteTokenizer::num_encoded == before + 1; }));
  }
  ASSERT_TRUE(eventually([&] { return server_->stats().disconnects == 2; }));
  Client third(port());
  third.post("/tokenize", body);
  const std::string answer = third.until("}}");
  ByteTokenizer::hold = false;
  EXPECT_NE(answer.find("503 "), std::string::npos);
  bool served = false;
  ASSERT_TRUE(eventually([&] {
    if (served) return true;
    Client next(port());
    next.post("/tokenize", body);
    return served = next.until("}").find("200 OK") != std::string::npos;
  }));
  EXPECT_EQ(ByteTokenizer::num_encoded, before + 2);  // the first and the last
}

TEST_F(ServerTest, TextsBeyondTheContextAreNotTokenised) {
  start();
  Client client(port());
  ByteTokenizer::num_encoded = 0;
  const std::string text(3 * ((1 << 20) + 1), 'a');  // the context holds 1 << 20 tokens of a byte
  client.post("/v1/completions", R"({"max_tokens":1,"prompt":["b",")" + text + R"("]})");
  const std::string answer = client.until("}}");
  EXPECT_NE(answer.find("HTTP/1.1 400"), std::string::npos) << answer;
  EXPECT_NE(answer.find("maximum context length is 1048576 tokens"), std::string::npos) << answer;
  EXPECT_NE(answer.find("context_length_exceeded"), std::string::npos) << answer;
  EXPECT_EQ(ByteTokenizer::num_encoded, 0);
  client.post("/v1/completions", R"({"max_tokens":1,"prompt":"b"})");
  EXPECT_NE(client.until("}}").find("200 OK"), std::string::npos);
  EXPECT_EQ(ByteTokenizer::num_encoded, 1);
}

TEST_F(ServerTest, AnswersThatMemoryCouldNotHoldAreRefused) {
  start({}, {.limits = {.max_answer_bytes = 100000}});
  Client client(port());
  const auto post = [&](const std::string& fields, const std::string& prompt = "a") {
    client.post("/v1/completions", R"({"prompt":")" + prompt + "\"," + fields + "}");
    return client.until("}}");
  };
  const auto names = [](const std::string& answer, const std::string& field) {
    return answer.find("HTTP/1.1 400") != std::string::npos &&
           answer.find("at most 100000 are allowed (--max-answer-bytes)") != std::string::npos &&
           answer.find(R"("param":")" + field + '"') != std::string::npos;
  };
  EXPECT_TRUE(names(post(R"("n":100,"max_tokens":100)"), "n"));
  EXPECT_TRUE(names(post(R"("max_tokens":100,"logprobs":20)"), "logprobs"));
  EXPECT_TRUE(names(post(R"("max_tokens":1000000)"), "max_tokens"));
  const std::string prompt(1000, 'a');
  EXPECT_TRUE(names(post(R"("n":10,"max_tokens":1,"echo":true)", prompt), "echo"));
  EXPECT_TRUE(names(post(R"("max_tokens":1,"prompt_logprobs":9)", prompt), "prompt_logprobs"));
  EXPECT_NE(post(R"("n":10,"max_tokens":100)").find("200 OK"), std::string::npos);
  EXPECT_EQ(engine_.aborts, 0);
}

TEST_F(ServerTest, AnAnswerThatOutgrowsItsBoundEnds) {
  engine_.piece = std::string(1000, 'x');
  start({}, {.limits = {.max_answer_bytes = 100000}});
  Client client(port());
  client.post("/v1/completions", R"({"prompt":"a","max_tokens":5000})");
  const std::string answer = client.until("}}");
  EXPECT_NE(answer.find("HTTP/1.1 400"), std::string::npos) << answer;
  EXPECT_NE(answer.find("grew beyond 100000 bytes"), std::string::npos) << answer;
  EXPECT_TRUE(eventually([&] { return engine_.aborts == 1; }));
  EXPECT_GT(engine_.made_by_aborted, 99);
  EXPECT_TRUE(eventually([&] { return api_->api_metrics().in_flight == 0; }));
  client.post("/v1/completions", R"({"prompt":"a","max_tokens":5000,"stream":true})");
  EXPECT_NE(client.until("[DONE]").find("length"), std::string::npos);  // keeps nothing
}

TEST_F(ServerTest, TooManyConnections) {
  start({.max_connections = 3});
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 3; ++i) clients.push_back(std::make_unique<Client>(port()));
  ASSERT_TRUE(eventually([&] { return server_->stats().open_connections == 3; }));
  EXPECT_NE(Client(port()).until("}}").find("503 "), std::string::npos);
  clients.pop_back();
  ASSERT_TRUE(eventually([&] { return server_->stats().open_connections == 2; }));
  Client next(port());
  next.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_NE(next.until("}").find("200 OK"), std::string::npos);
}

TEST_F(ServerTest, HealthTellsTheTruth) {
  start();
  Client client(port());
  const std::string get = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
  client.send(get);
  EXPECT_NE(client.until("}").find("200 OK"), std::string::npos);
  for (const auto& [condition, code] : {std::pair(EngineCondition::kStalled, "engine_stalled"),
                                        std::pair(EngineCondition::kDead, "engine_dead")}) {
    engine_.condition = condition;
    client.send(get);
    std::string answer = client.until("}}");
    EXPECT_NE(answer.find("503 "), std::string::npos);
    EXPECT_NE(answer.find(code), std::string::npos);
    client.post("/v1/completions", kShort);  // what could not be served is not taken
    answer = client.until("}}");
    EXPECT_NE(answer.find("503 "), std::string::npos);
    EXPECT_NE(answer.find("Retry-After: 1"), std::string::npos);
    EXPECT_NE(answer.find(code), std::string::npos);
  }
  engine_.condition = EngineCondition::kOk;
  client.post("/v1/completions", kShort);
  EXPECT_NE(client.until("0\r\n\r\n").find("[DONE]"), std::string::npos);
  api_->begin_drain();
  client.send(get);
  EXPECT_NE(client.until("}}").find("\"draining\""), std::string::npos);
}

// Requests whose grammar is being compiled, or waits for it, are told at once that the server goes;
// one address has 16 places.
TEST_F(ServerTest, ADrainAnswersTheRequestsThatWaitForTheirGrammar) {
  start();
  engine_.hold_grammars = true;
  const int before = ByteTokenizer::num_encoded;
  std::vector<std::unique_ptr<Client>> clients;
  const auto asking_for = [](int grammar) {
    return R"({"prompt":"a","structured_outputs":{"regex":")" +
           std::string(static_cast<size_t>(grammar + 1), 'a') + "\"}}";
  };
  for (int i = 0; i < 17; ++i) {  // sixteen grammars, and one more request for the last of them
    clients.push_back(std::make_unique<Client>(port()));
    clients.back()->post("/v1/completions", asking_for(std::min(i, 15)));
    ASSERT_TRUE(eventually([&] { return ByteTokenizer::num_encoded > before + i; }));
  }
  ASSERT_TRUE(eventually([&] { return engine_.num_compilations == 1; }));
  Client late(port());
  late.post("/v1/completions", asking_for(16));
  EXPECT_NE(late.until("}}").find("queue_full"), std::string::npos);
  api_->begin_drain();
  for (const auto& client : clients) {
    EXPECT_NE(client->until("}}").find("503 "), std::string::npos);
  }
  engine_.hold_grammars = false;
  EXPECT_EQ(engine_.num_compilations, 1);
}

// Answers that outlive their server are let go of quietly.
TEST_F(ServerTest, StopsWithStreamsOpen) {
  start();
  Client client(port());
  client.post("/v1/completions", kEndless);
  client.until("data: ");
  server_->stop();
  EXPECT_TRUE(eventually([&] { return engine_.aborts == 1; }));
}

// JSON has no infinities and no NaN: they are shown as -9999.
TEST_F(ServerTest, LogprobsAreJsonNumbers) {
  start();
  Client client(port());
  for (const float logprob :
       {-std::numeric_limits<float>::infinity(), -1e30F, std::numeric_limits<float>::quiet_NaN()}) {
    engine_.logprob = logprob;
    client.post("/v1/completions", R"({"prompt":"a","max_tokens":1,"logprobs":1})");
    const std::string whole = client.until("}}");
    EXPECT_NE(whole.find(R"("token_logprobs":[-9999])"), std::string::npos) << whole;
    EXPECT_NE(whole.find(R"("top_logprobs":[{"y":-9999,"x":-9999}])"), std::string::npos) << whole;
    client.post("/v1/completions", R"({"prompt":"a","max_tokens":1,"logprobs":1,"stream":true})");
    const std::string stream = client.until("0\r\n\r\n");
    EXPECT_NE(stream.find(R"("token_logprobs":[-9999])"), std::string::npos) << stream;
  }
}

TEST_F(ServerTest, KnowsItsModelByEveryName) {
  openai::ApiOptions options;
  options.model = "/models/mock.gguf/";
  start({}, options);
  Client client(port());
  for (const char* name : {"mock", "mock/", "/models/mock.gguf", "/models/mock.gguf/"}) {
    client.post("/v1/completions",
                str_format(R"({{"model":"{}","prompt":"a","max_tokens":1}})", name));
    EXPECT_NE(client.until("}}").find("200 OK"), std::string::npos) << name;
  }
  client.post("/v1/completions", R"({"model":"/models/mock","prompt":"a"})");
  EXPECT_NE(client.until("}}").find("404 Not Found"), std::string::npos);
  client.send("GET /v1/models/mock/ HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_NE(client.until("max_model_len").find(R"("id":"mock",)"), std::string::npos);
}

TEST_F(ServerTest, TokenizerInfoShowsTheTemplateInUse) {
  const std::string get = "GET /tokenizer_info HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
  start();
  Client plain(port());
  plain.send(get);
  EXPECT_NE(plain.until("never").find(R"("chat_template":"{{ 'of the model' }}")"),
            std::string::npos);
  server_->stop();
  openai::ApiOptions options;
  options.chat_template_source = "{{ 'given' }}";
  start({}, options);
  Client overridden(port());
  overridden.send(get);
  EXPECT_NE(overridden.until("never").find(R"("chat_template":"{{ 'given' }}")"),
            std::string::npos);
}

// A browser asks first; OpenAI's JavaScript client sends header fields of its own.
TEST_F(ServerTest, CorsAllowsWhatTheBrowserAsksFor) {
  openai::ApiOptions options;
  options.allowed_origins = {"http://ui.example"};
  start({}, options);
  const auto ask = [&](const std::string& origin) {
    Client client(port());
    client.send("OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: a\r\nOrigin: " + origin +
                "\r\nAccess-Control-Request-Headers: content-type,x-stainless-os\r\n"
                "Connection: close\r\n\r\n");
    return client.until("never");
  };
  const std::string good = ask("http://ui.example");
  EXPECT_NE(good.find("Access-Control-Allow-Headers: content-type,x-stainless-os\r\n"),
            std::string::npos);
  EXPECT_NE(good.find("Vary: Origin\r\n"), std::string::npos);
  const std::string bad = ask("http://other.example");
  EXPECT_EQ(bad.find("Access-Control-Allow"), std::string::npos);
  EXPECT_NE(bad.find("Vary: Origin\r\n"), std::string::npos);
}

// Every route but the open ones asks for the key.
TEST_F(ServerTest, TheRouteTableIsGuarded) {
  openai::ApiOptions options;
  options.api_key = "k";
  start({}, options);
  int guarded = 0;
  for (const ApiServer::Route& route : ApiServer::routes()) {
    Client client(port());
    client.send(std::string(route.method) + " " + std::string(route.path) +
                (route.is_prefix ? "x" : "") + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    const bool refused = client.until("never").find("401 ") != std::string::npos;
    EXPECT_EQ(refused, !route.open) << route.path;
    guarded += refused ? 1 : 0;
  }
  EXPECT_EQ(static_cast<size_t>(guarded), ApiServer::routes().size() - 4);
}

}  // namespace
}  // namespace atom::server_testing
