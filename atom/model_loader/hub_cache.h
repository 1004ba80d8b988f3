// The Hugging Face cache on disk, as huggingface_hub lays it out, so that both read each other's
// files:
//   CACHE/models--ORG--NAME/blobs/ETAG                        the bytes
//   CACHE/models--ORG--NAME/snapshots/COMMIT/FILE          -> ../../blobs/ETAG
//   CACHE/models--ORG--NAME/refs/REVISION                     text: COMMIT
//   CACHE/.locks/models--ORG--NAME/ETAG.lock                  flock while a blob is written
// A blob gets its name by rename once it is whole and verified; blobs/ETAG.incomplete is resumed.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "atom/core/error.h"
#include "atom/model_loader/hub.h"

namespace atom {

struct HubName {
  std::string id;  // "org/name" or "name"
  std::string revision = "main";
};

// "org/name[@revision]"; empty when `text` cannot be a hub name.
std::optional<HubName> parse_hub_name(std::string_view text);

bool is_commit_hash(std::string_view text);  // 40 hexadecimal digits

// What a snapshot directory lacks of what is needed: a file name, or empty when it is complete.
std::string missing_from_snapshot(const std::filesystem::path& snapshot, HubNeeds needs);

class HubCache {
 public:
  HubCache(const std::filesystem::path& cache_dir, const HubName& name);

  // The snapshot directory of the revision; empty when the cache does not know it.
  std::optional<std::filesystem::path> find_snapshot() const;

  std::filesystem::path snapshot_dir(std::string_view commit) const;
  std::filesystem::path blob(std::string_view etag) const;
  std::filesystem::path lock_file(std::string_view etag) const;

  Status create_directories() const;
  // snapshots/COMMIT/FILE -> blobs/ETAG, replacing what is there.
  Status link(std::string_view commit, std::string_view file, std::string_view etag) const;
  Status write_ref(std::string_view commit) const;

 private:
  std::filesystem::path root_, locks_;
  std::string revision_;
};

}  // namespace atom
