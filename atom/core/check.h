// ATOM_CHECK(a == b) << "context": stops the process with file, line and values when our own
// invariant is broken. Never for user input (error.h). Active in release builds.
#pragma once

#include <sstream>

namespace atom::detail {

class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  [[noreturn]] ~CheckFailure();
  template <class T>
  CheckFailure& operator<<(const T& value) {
    stream_ << value;
    return *this;
  }

 private:
  std::ostringstream stream_;
};

}  // namespace atom::detail

#define ATOM_CHECK(condition) \
  if (condition) [[likely]] { \
  } else                      \
    ::atom::detail::CheckFailure(__FILE__, __LINE__, #condition)
