// Development tool: the tokenizer of a model directory on lines of JSON strings; what the differential test
// and the benchmark drive. Not part of the product (that is `atom tokenize`).
//   tokenize_tool DIR encode|encode_special|decode|decode_skip|stream|stream_skip   < lines > lines
//   tokenize_tool DIR bench FILE SECONDS     encodes FILE again and again, prints bytes per second
//   tokenize_tool DIR load                   prints seconds to load
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "atom/tokenizer/tokenize_lines.h"

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

int bench(const atom::Tokenizer& tokenizer, const char* file, double seconds) {
  std::ifstream in(file, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  size_t tokens = tokenizer.encode(text, false).size();
  size_t rounds = 0;
  const auto start = Clock::now();
  double best = 1e9;
  do {
    const auto round = Clock::now();
    tokens = tokenizer.encode(text, false).size();
    best = std::min(best, seconds_since(round));
    ++rounds;
  } while (seconds_since(start) < seconds);
  std::printf("{\"bytes_per_second\": %.0f, \"best\": %.0f, \"tokens\": %zu}\n",
              static_cast<double>(text.size() * rounds) / seconds_since(start),
              static_cast<double>(text.size()) / best, tokens);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const auto start = Clock::now();
  auto tokenizer = atom::Tokenizer::from_directory(argv[1]);
  if (!tokenizer) {
    std::fprintf(stderr, "error: %s\n", tokenizer.error().message.c_str());
    return 1;
  }
  const std::string mode = argv[2];
  if (mode == "load") {
    std::printf("%.4f\n", seconds_since(start));
    return 0;
  }
  if (mode == "bench" && argc == 5) return bench(**tokenizer, argv[3], std::atof(argv[4]));
  std::ios::sync_with_stdio(false);
  atom::TokenizeLinesOptions options{.json_text = true};
  options.decode = mode.starts_with("decode") || mode.starts_with("stream");
  options.stream = mode.starts_with("stream");
  options.add_special_tokens = mode == "encode_special";
  options.skip_special_tokens = mode.ends_with("_skip");
  const auto done = atom::run_tokenize_lines(*tokenizer, std::cin, std::cout, options);
  if (!done) std::fprintf(stderr, "error: %s\n", done.error().message.c_str());
  return done ? 0 : 1;
}
