// Log lines as they arrive on stderr: one line each whatever is in them, valid JSON when asked, and
// a writer that never makes its caller wait.
#include "atom/core/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>

#include "atom/core/json.h"
#include "boost/json.hpp"

namespace atom {
namespace {

// Stands in for stderr while it lives.
class StderrPipe {
 public:
  explicit StderrPipe(int size = 0) : saved_(dup(STDERR_FILENO)) {
    EXPECT_EQ(pipe(ends_), 0);
    if (size > 0) fcntl(ends_[1], F_SETPIPE_SZ, size);
    dup2(ends_[1], STDERR_FILENO);
    ::close(ends_[1]);
  }
  ~StderrPipe() {
    restore();
    ::close(ends_[0]);
  }
  void restore() {
    if (saved_ >= 0) {
      dup2(saved_, STDERR_FILENO);
      ::close(saved_);
    }
    saved_ = -1;
  }
  std::string read_all() {  // until every writer is gone
    restore();
    std::string out;
    char buffer[4096];
    for (ssize_t n = 0; (n = ::read(ends_[0], buffer, sizeof(buffer))) > 0;)
      out.append(buffer, static_cast<size_t>(n));
    return out;
  }

 private:
  int ends_[2] = {-1, -1};
  int saved_ = -1;
};

const LogField kFields[] = {{"text", "two words\n\"quoted\" \\ \xff\x1b[31m \xc3\xa9"},
                            {"plain", "a/b.c-1"},
                            {"empty", ""},
                            {"count", int64_t{-7}},
                            {"elapsed", 1.5}};

TEST(Log, TextLinesStayOneLine) {
  StderrPipe pipe;
  log_info("a\nb {}", "c\x1b[2J");
  log_event(LogLevel::kInfo, "request", kFields);
  const std::string out = pipe.read_all();
  EXPECT_NE(out.find("a\\x0ab c\\x1b[2J\n"), std::string::npos) << out;
  EXPECT_NE(
      out.find("request text=\"two words\\u000a\\\"quoted\\\" \\\\ \\ufffd\\u001b[31m \xc3\xa9\" "
               "plain=a/b.c-1 empty=\"\" count=-7 elapsed=1.500\n"),
      std::string::npos)
      << out;
}

TEST(Log, JsonLinesParse) {
  StderrPipe pipe;
  set_log_format(LogFormat::kJson);
  log_warning("say \"{}\"", "\xf0\x9f\x98\x80\xf0\x9f\t");
  log_event(LogLevel::kError, "request", kFields);
  set_log_format(LogFormat::kText);
  const std::string out = pipe.read_all();
  const size_t end = out.find('\n');
  const auto first = parse_json(out.substr(0, end));
  const auto second = parse_json(out.substr(end + 1));
  ASSERT_TRUE(first && second) << out;
  EXPECT_EQ(first->as_object().at("level").as_string(), "warning");
  EXPECT_EQ(first->as_object().at("message").as_string(),
            "say \"\xf0\x9f\x98\x80\xef\xbf\xbd\xef\xbf\xbd\t\"");
  EXPECT_EQ(second->as_object().at("count").to_number<int64_t>(), -7);
  EXPECT_EQ(second->as_object().at("elapsed").to_number<double>(), 1.5);
}

TEST(Log, TheWriterKeepsOrderAndFlushes) {
  StderrPipe pipe(1 << 20);
  {
    const LogWriter writer;
    for (int i = 0; i < 1000; ++i) log_info("line {}", i);
  }
  const std::string out = pipe.read_all();
  size_t at = 0;
  for (int i = 0; i < 1000; ++i) {
    at = out.find(str_format("line {}\n", i), at);
    ASSERT_NE(at, std::string::npos) << i;
  }
}

TEST(Log, AFullPipeStopsNobodyAndLossIsCounted) {
  StderrPipe pipe(4096);
  const int64_t before = num_dropped_log_lines();
  const auto start = std::chrono::steady_clock::now();
  {
    const LogWriter writer;
    const std::string text(1000, 'x');
    for (int i = 0; i < 3000; ++i) log_info("{}", text);  // 3 MB; pipe and queue hold one
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
    EXPECT_GT(num_dropped_log_lines(), before + 500);
  }  // nobody reads: the end waits a second, not for ever
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  EXPECT_NE(pipe.read_all().find("xxxx"), std::string::npos);
}

}  // namespace
}  // namespace atom
