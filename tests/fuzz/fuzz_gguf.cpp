// GGUF files: opened and described, or refused in one line; no crash, no allocation a small file
// cannot need.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "atom/model_loader/checkpoint.h"
#include "atom/model_loader/inspect.h"

namespace {

const std::filesystem::path& input_file() {
  static const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("atom_fuzz_" + std::to_string(getpid()) + ".gguf");
  return path;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::ofstream(input_file(), std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  const auto checkpoint = atom::Checkpoint::open(input_file());
  if (checkpoint) {
    (void)(*checkpoint)->load_tokenizer();
    (void)(*checkpoint)->chat_template();
    if (atom::inspect_checkpoint(**checkpoint, true).empty()) std::abort();
  } else if (checkpoint.error().message.empty() ||
             checkpoint.error().message.find('\n') != std::string::npos) {
    std::abort();
  }
  std::filesystem::remove(input_file());
  return 0;
}
