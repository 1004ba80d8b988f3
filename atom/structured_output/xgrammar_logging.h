// Stands in for the logging header of the xgrammar sources (included before every one of them, with
// that header's guard defined): an error is an exception thrown after its text is complete, instead
// of from a destructor; a warning goes to atom's collector instead of stderr, since it says that
// the grammar would be looser than what was asked for. Not for use elsewhere.
#pragma once

#ifndef XGRAMMAR_SUPPORT_LOGGING_H_
#define XGRAMMAR_SUPPORT_LOGGING_H_
#endif

#include <iomanip>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>

namespace xgrammar {

class LogFatalError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Where the first warning of this thread goes; nullptr: nobody asks. Warnings say what a grammar
// will not enforce.
inline thread_local std::string* first_warning = nullptr;

struct ThrowMessage {
  [[noreturn]] void operator&(std::ostream& stream) const {
    throw LogFatalError(static_cast<std::ostringstream&>(stream).str());
  }
};
struct TakeWarning {
  void operator&(std::ostream& stream) const {
    if (first_warning != nullptr && first_warning->empty()) {
      *first_warning = static_cast<std::ostringstream&>(stream).str();
    }
  }
};
struct DropMessage {
  void operator&(std::ostream&) const {}
};

}  // namespace xgrammar

#define XGRAMMAR_MESSAGE(action) ::xgrammar::action{} & std::ostringstream().flush()
#define XGRAMMAR_LOG_FATAL XGRAMMAR_MESSAGE(ThrowMessage)
#define XGRAMMAR_LOG_WARNING XGRAMMAR_MESSAGE(TakeWarning)
#define XGRAMMAR_LOG_INFO XGRAMMAR_MESSAGE(DropMessage)
#define XGRAMMAR_LOG_DEBUG XGRAMMAR_MESSAGE(DropMessage)
#define XGRAMMAR_LOG(level) XGRAMMAR_LOG_##level
#define XGRAMMAR_CHECK(x) \
  if (!(x)) XGRAMMAR_LOG_FATAL << "not true: " #x ": "
#define XGRAMMAR_ICHECK(x) \
  if (!(x)) XGRAMMAR_LOG_FATAL << "internal: not true: " #x ": "
#define XGRAMMAR_DCHECK(x) \
  while (false) XGRAMMAR_ICHECK(x)
