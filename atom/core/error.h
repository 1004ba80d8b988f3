// Errors as values: everything that a user, a file or a peer can cause is a Result, never an
// exception. A broken invariant of our own is ATOM_CHECK (check.h).
#pragma once

#include <expected>
#include <string>
#include <utility>

#include "atom/core/format.h"

namespace atom {

enum class ErrorCode {
  kInvalidArgument,    // the caller's value is wrong (HTTP 400, exit status 2 for flags)
  kNotFound,           // a file, model, field or route is not there (404)
  kUnsupported,        // understood, but not offered (400)
  kResourceExhausted,  // a limit or memory (503)
  kUnavailable,        // shutting down, peer gone, network (503)
  kDataLoss,           // a file is damaged
  kInternal,           // a step failed (500)
};

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;  // one line, names what was wrong and where
  std::string param;    // dotted request field or flag, empty when none
};

template <class T>
using Result = std::expected<T, Error>;
using Status = std::expected<void, Error>;

// return make_error(ErrorCode::kNotFound, "{}: no such file", path);
template <class... Args>
[[nodiscard]] std::unexpected<Error> make_error(ErrorCode code, fmt::format_string<Args...> text,
                                                Args&&... args) {
  return std::unexpected(
      Error{.code = code, .message = str_format(text, std::forward<Args>(args)...), .param = {}});
}

}  // namespace atom

// Evaluates a Result; on error returns it from the enclosing function.
#define ATOM_RETURN_IF_ERROR(expr)                             \
  do {                                                         \
    if (auto atom_status_ = (expr); !atom_status_) {           \
      return std::unexpected(std::move(atom_status_.error())); \
    }                                                          \
  } while (0)
#define ATOM_CONCAT_INNER(a, b) a##b
#define ATOM_CONCAT(a, b) ATOM_CONCAT_INNER(a, b)
#define ATOM_ASSIGN_OR_RETURN(lhs, expr) \
  ATOM_ASSIGN_OR_RETURN_IMPL(ATOM_CONCAT(atom_result_, __LINE__), lhs, expr)
#define ATOM_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr)  \
  auto tmp = (expr);                                \
  if (!tmp) {                                       \
    return std::unexpected(std::move(tmp.error())); \
  }                                                 \
  lhs = std::move(*tmp)
