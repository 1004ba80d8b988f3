// The program `atom`. Commands are in entrypoints/cli.
#include <csignal>
#include <string>
#include <vector>

#include "atom/entrypoints/cli/command.h"
#include "atom/model_loader/mapped_file.h"

int main(int argc, char** argv) {
  // A reader that goes away is a write error, not the end of the process.
  std::signal(SIGPIPE, SIG_IGN);
  atom::install_fault_message();
  return atom::cli::run_program(std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
}
