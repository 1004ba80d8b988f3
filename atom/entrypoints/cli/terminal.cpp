#include "atom/entrypoints/cli/terminal.h"

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "atom/config.h"

namespace atom::cli {
namespace {

volatile std::sig_atomic_t interrupt_count = 0;

void on_interrupt(int) {
  interrupt_count = interrupt_count + 1;
  if (interrupt_count > 2) _exit(130);
}

}  // namespace

bool is_terminal(int fd) { return isatty(fd) == 1; }

bool use_colour() { return is_terminal(STDOUT_FILENO) && environment_allows_colour(); }

std::string harmless(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool is_c1 =
        byte == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if (is_c1) {
      out += str_format("\\x{:02x}", static_cast<unsigned>(static_cast<unsigned char>(text[++i])));
    } else if ((byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f) {
      out += str_format("\\x{:02x}", static_cast<unsigned>(byte));
    } else {
      out += text[i];
    }
  }
  return out;
}

bool write_out(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(STDOUT_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      if (errno != EPIPE) std::fprintf(stderr, "atom: stdout: %s\n", std::strerror(errno));
      return false;
    }
    text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = on_interrupt;  // no SA_RESTART: a blocked read returns
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
}

bool interrupted() { return interrupt_count > 0; }
void clear_interrupt() { interrupt_count = 0; }

Result<std::string> read_stdin(size_t limit) {
  std::string text;
  char buffer[65536];
  while (true) {
    const ssize_t got = read(STDIN_FILENO, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR && !interrupted()) continue;
    if (got < 0 && errno == EINTR) return make_error(ErrorCode::kUnavailable, "interrupted");
    if (got < 0) return make_error(ErrorCode::kInternal, "stdin: {}", std::strerror(errno));
    if (got == 0) return text;
    text.append(buffer, static_cast<size_t>(got));
    if (text.size() > limit) {
      return make_error(ErrorCode::kResourceExhausted, "stdin: more than {} bytes", limit);
    }
  }
}

}  // namespace atom::cli
