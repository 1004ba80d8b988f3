#include "atom/model_loader/checkpoint.h"

#include <algorithm>
#include <string>

#include "atom/model_loader/gguf_checkpoint.h"
#include "atom/model_loader/safetensors_checkpoint.h"
#include "atom/model_loader/text.h"

namespace atom {
namespace {

namespace fs = std::filesystem;

bool is_pickle(const fs::path& path) {
  const std::string ext = path.extension();
  return ext == ".bin" || ext == ".pt" || ext == ".pth" || ext == ".pkl" || ext == ".ckpt";
}

struct Listing {
  bool has_config = false;
  std::vector<fs::path> safetensors, gguf, pickle;
};

Result<Listing> list_directory(const fs::path& dir) {
  Listing listing;
  std::error_code error;
  fs::directory_iterator it(dir, error);
  for (int count = 0; !error && it != fs::directory_iterator(); it.increment(error)) {
    if (++count > 100'000) {
      return make_error(ErrorCode::kInvalidArgument,
                        "{}: more than 100000 entries, not a model directory", printable(dir));
    }
    const fs::path path = it->path();
    if (path.filename() == "config.json") listing.has_config = true;
    if (path.extension() == ".safetensors") listing.safetensors.push_back(path);
    if (path.extension() == ".gguf") listing.gguf.push_back(path);
    if (is_pickle(path)) listing.pickle.push_back(path);
  }
  if (error)
    return make_error(ErrorCode::kInvalidArgument, "{}: {}", printable(dir), error.message());
  std::sort(listing.safetensors.begin(), listing.safetensors.end());
  std::sort(listing.gguf.begin(), listing.gguf.end());
  std::sort(listing.pickle.begin(), listing.pickle.end());
  return listing;
}

std::unexpected<Error> pickle_error(const fs::path& path) {
  return make_error(
      ErrorCode::kUnsupported,
      "{}: pickle formats are not loaded (found {}, expected .safetensors or .gguf files)",
      printable(path), printable(path.extension()));
}

Result<std::unique_ptr<Checkpoint>> open_directory(const fs::path& dir, CheckpointWeights weights) {
  ATOM_ASSIGN_OR_RETURN(const Listing listing, list_directory(dir));
  if (weights == CheckpointWeights::kIgnored && listing.has_config) {
    return open_safetensors_directory(dir, {});
  }
  if (!listing.safetensors.empty()) return open_safetensors_directory(dir, listing.safetensors);
  if (listing.gguf.size() == 1) return open_gguf_file(listing.gguf.front());
  if (listing.gguf.size() > 1) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{}: several GGUF files, name one of them (found {} and {} more)",
                      printable(dir), printable(listing.gguf[0].filename()),
                      listing.gguf.size() - 1);
  }
  if (!listing.pickle.empty()) return pickle_error(listing.pickle.front());
  return make_error(
      ErrorCode::kNotFound,
      "{}: no model here (expected config.json with *.safetensors, or one .gguf file)",
      printable(dir));
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> Checkpoint::open(const fs::path& path,
                                                     CheckpointWeights weights) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found)
    return make_error(ErrorCode::kNotFound, "{}: no such file or directory", printable(path));
  if (error)
    return make_error(ErrorCode::kInvalidArgument, "{}: {}", printable(path), error.message());
  if (fs::is_directory(status)) return open_directory(path, weights);
  if (is_pickle(path)) return pickle_error(path);
  if (path.extension() == ".safetensors") {
    return make_error(ErrorCode::kInvalidArgument,
                      "{}: one weight file is not a model, name its directory", printable(path));
  }
  return open_gguf_file(path);
}

}  // namespace atom
