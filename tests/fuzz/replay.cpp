// Runs a fuzz target without libFuzzer: every file of the corpus folders, then seeded mutations of
// them. Usage: fuzz_NAME MUTATIONS FOLDER... (a folder that is not there is empty; the first must
// hold something).
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

void read_corpus(const std::filesystem::path& folder, std::vector<Bytes>& corpus) {
  std::vector<std::filesystem::path> paths;
  std::error_code absent;
  for (const auto& entry : std::filesystem::directory_iterator(folder, absent))
    paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
}

// One of: flip a bit, set an interesting byte, cut the end, drop, repeat or import a piece.
void mutate(Bytes& bytes, const Bytes& other, std::mt19937_64& random) {
  const auto below = [&random](size_t limit) {
    return limit == 0 ? 0 : static_cast<size_t>(random() % limit);
  };
  constexpr uint8_t kInteresting[] = {0x00, 0x01, 0x7f, 0x80, 0xff, '\n',
                                      '{',  '}',  '"',  '-',  '9',  ' '};
  const size_t at = below(bytes.size());
  const auto here = bytes.begin() + static_cast<std::ptrdiff_t>(at);
  const auto length =
      static_cast<std::ptrdiff_t>(below(std::min<size_t>(bytes.size() - at, 64) + 1));
  switch (random() % 6) {
    case 0:
      if (!bytes.empty()) *here = static_cast<uint8_t>(*here ^ (1U << below(8)));
      return;
    case 1:
      if (!bytes.empty()) *here = kInteresting[below(std::size(kInteresting))];
      return;
    case 2:
      bytes.resize(at);
      return;
    case 3:
      bytes.erase(here, here + length);
      return;
    case 4: {
      const Bytes piece(here, here + length);
      bytes.insert(here, piece.begin(), piece.end());
      return;
    }
    default: {
      const size_t from = below(other.size());
      const size_t count = std::min<size_t>(other.size() - from, below(64));
      bytes.insert(here, other.begin() + static_cast<std::ptrdiff_t>(from),
                   other.begin() + static_cast<std::ptrdiff_t>(from + count));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const long mutations = std::strtol(argv[1], nullptr, 10);
  std::vector<Bytes> corpus = {{}};
  read_corpus(argv[2], corpus);
  if (corpus.size() < 2 || mutations <= 0) return 2;
  for (int i = 3; i < argc; ++i) read_corpus(argv[i], corpus);
  for (const Bytes& input : corpus) LLVMFuzzerTestOneInput(input.data(), input.size());
  for (long i = 0; i < mutations; ++i) {
    std::mt19937_64 random(static_cast<uint64_t>(i));
    Bytes input = corpus[random() % corpus.size()];
    const Bytes& other = corpus[random() % corpus.size()];
    for (auto steps = random() % 6 + 1; steps > 0; --steps) mutate(input, other, random);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%zu inputs and %ld mutations\n", corpus.size(), mutations);
  return 0;
}
