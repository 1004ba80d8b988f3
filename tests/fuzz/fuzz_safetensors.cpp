// Safetensors headers and indexes: what is accepted tiles the file exactly. The first byte says how
// the rest is read: 'h' a header whose length and data are made to fit, 'i' an index, else a file.
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "atom/model_loader/safetensors.h"
#include "atom/model_loader/safetensors_index.h"
#include "tests/fuzz/check.h"

namespace {

using atom::fuzz::is_clean_message;

void check_file(std::span<const std::byte> file) {
  const auto tensors = atom::parse_safetensors(file);
  if (!tensors) {
    FUZZ_CHECK(is_clean_message(tensors.error().message));
    return;
  }
  int64_t end = 0;
  for (const atom::SafetensorsTensor& tensor : *tensors) {
    FUZZ_CHECK(tensor.begin >= 8 && tensor.begin <= tensor.end);
    FUZZ_CHECK(end == 0 || tensor.begin == end);
    end = tensor.end;
    const atom::DTypeInfo info = atom::dtype_info(tensor.dtype);
    int64_t bytes = info.block_bytes;
    for (const int64_t size : tensor.shape) {
      FUZZ_CHECK(size >= 0 && !__builtin_mul_overflow(bytes, size, &bytes));
    }
    FUZZ_CHECK(bytes == tensor.end - tensor.begin);
  }
  FUZZ_CHECK(tensors->empty() || end == static_cast<int64_t>(file.size()));
}

void check_index(std::string_view text) {
  const auto index = atom::parse_safetensors_index(text);
  if (!index) {
    FUZZ_CHECK(is_clean_message(index.error().message));
    return;
  }
  FUZZ_CHECK(!index->shards.empty() && index->shards.size() <= index->shard_of.size());
  for (const std::string& shard : index->shards) {
    FUZZ_CHECK(shard.find('/') == std::string::npos && shard.find('\0') == std::string::npos);
    FUZZ_CHECK(!shard.empty() && shard != "." && shard != "..");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] == 'i') {
    check_index(rest);
    return 0;
  }
  std::vector<std::byte> file;
  if (data[0] == 'h') {  // the last byte is the number of data bytes
    const uint64_t length = rest.size() - 1;
    file.resize(8 + length + static_cast<unsigned char>(rest.back()));
    std::memcpy(file.data(), &length, 8);
    std::memcpy(file.data() + 8, rest.data(), length);
  } else {
    file.resize(rest.size());
    std::memcpy(file.data(), rest.data(), rest.size());
  }
  check_file(file);
  return 0;
}
