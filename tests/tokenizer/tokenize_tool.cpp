// Development tool: the tokenizer of a model directory or a .gguf file on lines of JSON strings;
// what the differential test and the benchmark drive. Not part of the product (that is `atom
// tokenize`).
//   tokenize_tool DIR encode|encode_special|decode|decode_skip|stream|stream_skip   < lines > lines
//   tokenize_tool DIR bench FILE SECONDS     encodes FILE again and again, prints bytes per CPU
//   second (best round) tokenize_tool DIR load                   prints CPU seconds to load
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iostream>
#include <span>
#include <string>
#include <vector>

#include "atom/model_loader/gguf.h"
#include "atom/model_loader/gguf_arch.h"
#include "atom/tokenizer/tokenize_lines.h"

namespace {

std::string read_all(const char* file) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  std::string text(in ? static_cast<size_t>(in.tellg()) : 0, '\0');
  in.seekg(0).read(text.data(), static_cast<std::streamsize>(text.size()));
  return text;
}

double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

// Encodes documents of about 2000 bytes each, cut at line ends, as the benchmark script does.
int bench(const atom::Tokenizer& tokenizer, const char* file, double seconds) {
  const std::string text = read_all(file);
  std::vector<std::string_view> documents;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end =
        std::min(text.find('\n', std::min(begin + 2000, text.size())), text.size() - 1) + 1;
    documents.push_back(std::string_view(text).substr(begin, end - begin));
    begin = end;
  }
  size_t tokens = 0;
  double best = 1e9;
  const double start = cpu_seconds();
  do {
    tokens = 0;
    const double round = cpu_seconds();
    for (const std::string_view d : documents) tokens += tokenizer.encode(d, false).size();
    best = std::min(best, cpu_seconds() - round);
  } while (cpu_seconds() - start < seconds);
  std::printf("{\"bytes_per_second\": %.0f, \"tokens\": %zu}\n",
              static_cast<double>(text.size()) / best, tokens);
  return 0;
}

atom::Result<std::shared_ptr<const atom::Tokenizer>> load(const std::string& path) {
  if (!path.ends_with(".gguf")) return atom::Tokenizer::from_directory(path);
  const std::string bytes = read_all(path.c_str());
  ATOM_ASSIGN_OR_RETURN(const atom::GgufFile gguf,
                        atom::parse_gguf(std::as_bytes(std::span(bytes))));
  ATOM_ASSIGN_OR_RETURN(const atom::GgufVocab vocab, atom::read_gguf_vocab(gguf));
  return atom::Tokenizer::from_gguf(vocab);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const double start = cpu_seconds();
  auto tokenizer = load(argv[1]);
  if (!tokenizer) {
    std::fprintf(stderr, "error: %s\n", tokenizer.error().message.c_str());
    return 1;
  }
  const std::string mode = argv[2];
  if (mode == "load") {
    std::printf("%.4f\n", cpu_seconds() - start);
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
