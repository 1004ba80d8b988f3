// The whole server on a device that breaks: what clients, /health and the exit status say. The
// device is the fake one (tests/support), so no GPU is needed. Run in the root of the tree.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <string>
#include <thread>

#include "atom/entrypoints/serve.h"
#include "atom/model_engine/gpu_model_runner.h"
#include "atom/model_engine/llm_engine.h"
#include "tests/support/fake_device.h"

namespace atom {
namespace {

using namespace std::chrono_literals;
using testing_support::fake_backend;

constexpr const char* kModel = "tests/golden/models/llama-gqa-bf16";

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

int free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = loopback(0);
  socklen_t size = sizeof(address);
  EXPECT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  ::close(fd);
  return ntohs(address.sin_port);
}

// The whole answer, head and body; "" where nobody listens.
std::string ask(int port, const std::string& request) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  const timeval limit{.tv_sec = 30, .tv_usec = 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  const sockaddr_in address = loopback(port);
  std::string answer;
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 &&
      ::send(fd, request.data(), request.size(), MSG_NOSIGNAL) == std::ssize(request)) {
    char buffer[4096];
    for (ssize_t n; (n = ::recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
      answer.append(buffer, static_cast<size_t>(n));
    }
  }
  ::close(fd);
  return answer;
}

std::string health(int port) {
  return ask(port, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
}

std::string complete(int port) {
  const std::string body = R"({"model":"m","prompt":[3,4,5],"max_tokens":8,"ignore_eos":true})";
  return ask(port,
             "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
             "Content-Type: application/json\r\nContent-Length: " +
                 std::to_string(body.size()) + "\r\n\r\n" + body);
}

int status_of(const std::string& answer) {
  return answer.size() > 12 ? std::atoi(answer.c_str() + 9) : 0;
}

Result<std::unique_ptr<LLMEngine>> make_engine(const EngineConfig& config) {
  ATOM_ASSIGN_OR_RETURN(const GpuDevice gpu, use_gpu(fake_backend(), DeviceType::kCuda, 0));
  ATOM_ASSIGN_OR_RETURN(std::shared_ptr<const Checkpoint> checkpoint,
                        Checkpoint::open(config.model.model));
  EngineParts parts{.model = checkpoint->config(), .scheduler = config.scheduler};
  ATOM_ASSIGN_OR_RETURN(parts.tokenizer, checkpoint->load_tokenizer());
  MemoryPlan plan;
  ATOM_ASSIGN_OR_RETURN(parts.executor, make_gpu_model_runner(config, gpu, checkpoint, plan));
  parts.scheduler.max_model_len = plan.max_model_len;
  return LLMEngine::create_with(std::move(parts));
}

TEST(GpuServer, ABrokenDeviceFailsRequestsShowsInHealthAndEndsTheProcess) {
  testing_support::reset_fake_device();
  auto config = make_engine_config({.model = kModel,
                                    .enforce_eager = true,
                                    .max_num_batched_tokens = 256,
                                    .max_num_seqs = 8,
                                    .device = "cpu"});
  ASSERT_TRUE(config) << config.error().message;
  const int port = free_port();
  const ServerConfig server{.host = "127.0.0.1",
                            .port = port,
                            .served_model_names = {"m"},
                            .access_log = false,
                            .shutdown_timeout = 1};
  auto exit_status =
      std::async(std::launch::async, [&] { return run_server(*config, server, make_engine); });
  for (int i = 0; i < 600 && status_of(health(port)) != 200; ++i) {
    std::this_thread::sleep_for(50ms);
  }
  ASSERT_EQ(status_of(health(port)), 200);
  ASSERT_EQ(status_of(complete(port)), 200);

  testing_support::break_fake_device_after(20);  // in the middle of an answer
  for (int i = 0; i < 3; ++i) {
    const std::string answer = complete(port);
    EXPECT_EQ(status_of(answer), i < 2 ? 500 : 503) << answer;
  }
  EXPECT_EQ(status_of(complete(port)), 503);
  const std::string sick = health(port);
  EXPECT_EQ(status_of(sick), 503);
  EXPECT_NE(sick.find("engine_dead"), std::string::npos) << sick;
  ASSERT_EQ(exit_status.wait_for(30s), std::future_status::ready) << "the server does not end";
  EXPECT_EQ(exit_status.get(), 1);
  testing_support::reset_fake_device();
}

}  // namespace
}  // namespace atom
