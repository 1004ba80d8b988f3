// Downloads one file of the hub into the cache: resumes what is there, retries what the network
// breaks, checks size and digest, and only then gives the file its name. Holds the blob's lock
// meanwhile.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "atom/core/error.h"
#include "atom/model_loader/http_client.h"

namespace atom {

// A line on the terminal for all files of one model; silent when stderr is none.
class DownloadProgress {
 public:
  DownloadProgress();
  void begin(int64_t total_bytes);  // the count starts here; before it nothing is shown
  void start_file(std::string name);
  void advance(int64_t bytes);  // negative when a file starts anew
  void clear();

 private:
  void draw();

  bool terminal_ = false;
  std::string file_;
  int64_t done_ = 0, total_ = 0, fresh_ = 0;
  int64_t started_ns_ = 0, drawn_ns_ = 0;
};

struct BlobRequest {
  std::string url;
  std::string bearer_token;
  std::string name;  // for messages: "config.json"
  std::string
      etag;  // SHA-256 of the content or SHA-1 of the git object; anything else is not checked
  int64_t size = 0;
  std::filesystem::path path;  // final name; PATH.incomplete meanwhile
  std::filesystem::path lock;
};

Status download_blob(HttpClient& http, const BlobRequest& blob, DownloadProgress& progress);

// Waits before the try after the `failures`-th failure in a row (1, 2, ...): as long as the server
// asks in its Retry-After header (seconds, at most 60), else doubling from 250 ms.
void wait_before_retry(int failures, const std::string& retry_after = {});
inline constexpr int kMaxTries = 5;  // in a row without a byte gained
bool is_retryable_status(int status);

}  // namespace atom
