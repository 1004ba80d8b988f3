// The answer side of a request: bytes cross here from the producing threads to the loop of the
// connection.
#include <algorithm>
#include <charconv>
#include <ctime>

#include "atom/core/format.h"
#include "atom/entrypoints/http/connection.h"

namespace atom::http {
namespace {

// IMF-fixdate, formatted at most once a second per thread.
std::string_view http_date() {
  thread_local std::time_t last = 0;
  thread_local std::string text;
  const std::time_t now = std::time(nullptr);
  if (now != last) {
    std::tm parts{};
    gmtime_r(&now, &parts);
    char buffer[64];
    const size_t n = std::strftime(buffer, sizeof(buffer), "%a, %d %b %Y %H:%M:%S GMT", &parts);
    text.assign(buffer, n);
    last = now;
  }
  return text;
}

bool safe_field(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) == 0x7f;
  });
}

}  // namespace

void Exchange::append_head(const Response& response, bool stream) {
  std::string& out = pending_;
  out += "HTTP/1.1 ";
  out += std::to_string(response.status);
  out += ' ';
  out += reason_phrase(response.status);
  out += "\r\nServer: atom\r\nDate: ";
  out += http_date();
  if (!response.content_type.empty() && response.status != 204) {
    out += "\r\nContent-Type: ";
    out += response.content_type;
  }
  for (const auto& [name, value] : response.headers) {
    if (!safe_field(value)) continue;  // never split a header with what a client sent
    out += "\r\n";
    out += name;
    out += ": ";
    out += value;
  }
  close_ = response.close || !traits_.keep_alive || (stream && !traits_.http11);
  if (stream) {
    chunked_ = traits_.http11;
    if (chunked_) out += "\r\nTransfer-Encoding: chunked";
  } else if (response.status != 204) {
    out += "\r\nContent-Length: ";
    out += std::to_string(response.body.size());
  }
  if (close_) {
    out += "\r\nConnection: close";
  } else if (!traits_.http11) {
    out += "\r\nConnection: keep-alive";
  }
  out += "\r\n\r\n";
}

void Exchange::notify_locked() {
  if (dirty_) return;
  loop_->mark_dirty(shared_from_this());
  dirty_ = true;
}

void Exchange::send(Response response) {
  std::function<void()> dropped;
  const std::lock_guard lock(mutex_);
  if (state_ != State::kWaiting) return;
  append_head(response, false);
  if (!traits_.head_only && response.status != 204) {
    if (response.body.size() > 4096) pending_.reserve(pending_.size() + response.body.size());
    pending_ += response.body;
  }
  state_ = State::kEnded;
  dropped = std::move(on_disconnect_);
  on_disconnect_ = nullptr;
  notify_locked();
}

void Exchange::begin_stream(Response head) {
  const std::lock_guard lock(mutex_);
  if (state_ != State::kWaiting) return;
  append_head(head, true);
  state_ = State::kStreaming;
  // The head leaves with the first bytes, so that a quiet start costs no packet of its own.
}

bool Exchange::write(std::string_view bytes) {
  const std::lock_guard lock(mutex_);
  if (state_ != State::kStreaming || overflow_) return false;
  if (bytes.empty()) return true;
  if (backlog_ > 0 && backlog_ + static_cast<int64_t>(pending_.size()) > traits_.max_backlog) {
    overflow_ = true;
    notify_locked();
    return false;
  }
  if (chunked_) {
    char size[24];
    const auto result = std::to_chars(size, size + sizeof(size), bytes.size(), 16);
    pending_.append(size, result.ptr);
    pending_ += "\r\n";
  }
  pending_ += bytes;
  if (chunked_) pending_ += "\r\n";
  notify_locked();
  return true;
}

void Exchange::end() {
  std::function<void()> dropped;
  const std::lock_guard lock(mutex_);
  if (state_ != State::kStreaming) return;
  if (chunked_) pending_ += "0\r\n\r\n";
  state_ = State::kEnded;
  dropped = std::move(on_disconnect_);
  on_disconnect_ = nullptr;
  notify_locked();
}

bool Exchange::has_client() {
  const std::lock_guard lock(mutex_);
  return state_ != State::kGone;
}

void Exchange::on_disconnect(std::function<void()> callback) {
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::kEnded) return;
    if (state_ != State::kGone) {
      on_disconnect_ = std::move(callback);
      return;
    }
  }
  callback();
}

Exchange::News Exchange::collect(std::string& out) {
  const std::lock_guard lock(mutex_);
  dirty_ = false;
  if (out.empty()) {
    out.swap(pending_);  // the two buffers take turns
  } else {
    out += pending_;
  }
  pending_.clear();
  return {.ended = state_ == State::kEnded, .overflow = overflow_, .close = close_};
}

void Exchange::set_backlog(int64_t unsent) {
  const std::lock_guard lock(mutex_);
  backlog_ = unsent;
}

bool Exchange::ended() {
  const std::lock_guard lock(mutex_);
  return state_ == State::kEnded;
}

void Exchange::gone() {
  std::function<void()> callback;
  {
    const std::lock_guard lock(mutex_);
    callback = std::move(on_disconnect_);
    on_disconnect_ = nullptr;
    if (state_ != State::kEnded) state_ = State::kGone;
    pending_ = {};
  }
  if (callback) callback();
}

}  // namespace atom::http
