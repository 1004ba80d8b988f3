// RequestParser: every message gives the same result however its bytes are cut.
#include "atom/entrypoints/http/request_parser.h"

#include <gtest/gtest.h>

#include <random>

namespace atom::http {
namespace {

struct Outcome {
  RequestParser::State state;
  int status = 0;
  std::string path, body;
  size_t rest = 0;  // bytes left for the next request
  bool operator==(const Outcome&) const = default;
};

// Feeds `wire` in pieces as a connection does: what was not taken is offered again with more.
template <class NextSize>
Outcome parse(const std::string& wire, NextSize next_size, const ParserLimits& limits = {}) {
  RequestParser parser(limits);
  std::string held;
  for (size_t at = 0; at < wire.size();) {
    const size_t n = std::min(next_size(), wire.size() - at);
    held.append(wire, at, n);
    at += n;
    while (!held.empty()) {
      const size_t used = parser.feed(held);
      held.erase(0, used);
      if (parser.state() == RequestParser::State::kFailed)
        return {parser.state(), parser.error().status, "", "", 0};
      if (parser.state() == RequestParser::State::kDone) {
        Request request = parser.take();
        return {RequestParser::State::kDone, 0, request.path, request.body,
                held.size() + wire.size() - at};
      }
      if (used == 0) break;
    }
  }
  return {parser.state()};
}

Outcome parse_whole(const std::string& wire, const ParserLimits& limits = {}) {
  return parse(
      wire, [] { return size_t{1} << 30; }, limits);
}

const std::string kHead = "POST /v1/completions HTTP/1.1\r\nHost: a\r\n";

TEST(RequestParser, AcceptsWhatIsWellFormed) {
  EXPECT_EQ(parse_whole("GET /a%2Fb?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"),
            (Outcome{RequestParser::State::kDone, 0, "/a/b", "", 0}));
  EXPECT_EQ(parse_whole("\r\nGET http://h/x HTTP/1.1\r\nHost: a\r\n\r\nGET"),
            (Outcome{RequestParser::State::kDone, 0, "/x", "", 3}));
  EXPECT_EQ(parse_whole(kHead + "Content-Length: 3\r\n\r\nabcdef"),
            (Outcome{RequestParser::State::kDone, 0, "/v1/completions", "abc", 3}));
  EXPECT_EQ(parse_whole(kHead +
                        "Transfer-Encoding: "
                        "Chunked\r\n\r\n2;a=b\r\nab\r\n01\r\nc\r\n0\r\nContent-Length: 9\r\n\r\nX"),
            (Outcome{RequestParser::State::kDone, 0, "/v1/completions", "abc", 1}));
  EXPECT_EQ(parse_whole("GET / HTTP/1.0\r\n\r\n").state, RequestParser::State::kDone);
}

TEST(RequestParser, SameResultForEverySplit) {
  const std::vector<std::string> wires = {
      kHead + "Content-Length: 5\r\n\r\nhello",
      kHead +
          "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;x\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
      kHead + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
      kHead + "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
      kHead + "X: a\r\n b\r\n\r\n",
      kHead + "X: a\n\r\n",
      "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
  };
  std::mt19937 random(3);
  for (const std::string& wire : wires) {
    const Outcome whole = parse_whole(wire);
    ASSERT_NE(whole.state, RequestParser::State::kHeader) << wire;
    EXPECT_EQ(parse(wire, [] { return size_t{1}; }), whole) << wire;
    for (int round = 0; round < 200; ++round) {
      EXPECT_EQ(parse(wire, [&] { return size_t{1} + random() % 7; }), whole) << wire;
    }
  }
}

TEST(RequestParser, ConnectionLinesAddUp) {
  const auto keeps = [](const std::string& version, const std::string& fields) {
    RequestParser parser({});
    parser.feed("GET / HTTP/" + version + "\r\nHost: a\r\n" + fields + "\r\n");
    return parser.state() == RequestParser::State::kDone && parser.take().keep_alive;
  };
  EXPECT_TRUE(keeps("1.1", ""));
  EXPECT_FALSE(keeps("1.1", "Connection: Close\r\nConnection: upgrade\r\n"));
  EXPECT_FALSE(keeps("1.1", "Connection: te, close\r\n"));
  EXPECT_FALSE(keeps("1.0", ""));
  EXPECT_TRUE(keeps("1.0", "Connection: keep-alive\r\nConnection: te\r\n"));
  EXPECT_FALSE(keeps("1.0", "Connection: keep-alive, close\r\n"));
}

TEST(RequestParser, RefusesWhatCanBeReadInTwoWays) {
  for (const std::string fields :
       {"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n", "Transfer-Encoding: chunked, chunked\r\n",
        "Content-Length: 1, 1\r\n", "Content-Length: -0\r\n", "Content-Length:\r\n",
        "Content-Length: 1 1\r\n", "Host: b\r\n", "X : 1\r\n", ": 1\r\n", "X\r\n", "\tX: 1\r\n"}) {
    EXPECT_EQ(parse_whole(kHead + fields + "\r\n").status, 400) << fields;
  }
  EXPECT_EQ(parse_whole("GET / HTTP/1.1\r\n\r\n").status, 400);
  EXPECT_EQ(parse_whole("GET  / HTTP/1.1\r\nHost: a\r\n\r\n").status, 400);
  EXPECT_EQ(parse_whole(kHead + "Expect: x\r\nContent-Length: 1\r\n\r\n").status, 417);
}

TEST(RequestParser, Limits) {
  const ParserLimits limits{.max_header_bytes = 200,
                            .max_header_fields = 3,
                            .max_line_bytes = 60,
                            .max_body_bytes = 4,
                            .max_chunks = 2};
  EXPECT_EQ(parse_whole(kHead + "Content-Length: 4\r\n\r\nabcd", limits).body, "abcd");
  EXPECT_EQ(parse_whole(kHead + "Content-Length: 5\r\n\r\n", limits).status, 413);
  EXPECT_EQ(
      parse_whole(kHead + "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", limits).body,
      "abcd");
  EXPECT_EQ(
      parse_whole(kHead + "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n1\r\n", limits).status,
      413);
  EXPECT_EQ(
      parse_whole(kHead + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\na\r\n1\r\n", limits)
          .status,
      413);
  EXPECT_EQ(parse_whole(kHead + "A: 1\r\nB: 1\r\n\r\n", limits).state, RequestParser::State::kDone);
  EXPECT_EQ(parse_whole(kHead + "A: 1\r\nB: 1\r\nC: 1\r\n\r\n", limits).status, 431);
  EXPECT_EQ(parse_whole("GET /" + std::string(60, 'a'), limits).status, 414);
  EXPECT_EQ(parse_whole(kHead + "A: " + std::string(60, 'a'), limits).status, 431);
  EXPECT_EQ(parse_whole(kHead + std::string(3, 'A') + ": " + std::string(50, 'a') + "\r\n" +
                            "B: " + std::string(50, 'b') + "\r\nC: " + std::string(50, 'c'),
                        limits)
                .status,
            431);
}

// Random damage to a good request never breaks the parser's own promises.
TEST(RequestParser, SurvivesRandomBytes) {
  std::mt19937 random(11);
  const std::string good =
      kHead + "Transfer-Encoding: chunked\r\nX: y\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
  for (int round = 0; round < 20000; ++round) {
    std::string wire = good;
    for (unsigned i = 0; i < 1 + random() % 4; ++i)
      wire[random() % wire.size()] = static_cast<char>(random());
    const Outcome whole = parse_whole(wire);
    EXPECT_EQ(whole.state == RequestParser::State::kFailed, whole.status >= 400) << wire;
    EXPECT_EQ(parse(wire, [] { return size_t{3}; }).state, whole.state) << wire;
  }
}

}  // namespace
}  // namespace atom::http
