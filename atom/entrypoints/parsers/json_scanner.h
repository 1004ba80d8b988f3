// JsonScanner: checks one JSON object that arrives byte by byte and says where its parts begin and
// end. It builds no values and keeps no text; RFC 8259, except that control characters may stand in
// strings as they are (models write them; the reader escapes them). One object per JSON text.
#pragma once

#include <cstdint>
#include <string>

namespace atom::parsers {

// What a byte did.
enum class JsonEvent : uint8_t {
  kNone,
  kKeyStart,     // the quote that opens a key
  kKeyEnd,       // ... and the one that closes it
  kStringStart,  // the same for a string value
  kStringEnd,
  kScalarStart,  // first byte of a number, true, false or null
  kOpen,         // { or [
  kClose,        // } or ]; the object is complete when depth() is 0
  kFailed,       // the byte cannot stand here; it and all before stay as they are
};

class JsonScanner {
 public:
  JsonEvent push(char c);
  int depth() const { return static_cast<int>(open_.size()); }
  bool opened_object() const { return !open_.empty() && open_.back() == '{'; }
  bool in_string() const { return state_ >= State::kString && state_ <= State::kHex4; }

 private:
  enum class State : uint8_t {
    kStart,         // {
    kValue,         // a value
    kValueOrClose,  // after [
    kKeyOrClose,    // after {
    kKey,           // after , in an object
    kColon,
    kAfterValue,  // , or a bracket
    kString,
    kEscape,
    kHex1,
    kHex2,
    kHex3,
    kHex4,
    kMinus,
    kZero,
    kInteger,
    kPoint,
    kFraction,
    kExponent,
    kExponentSign,
    kExponentDigits,
    kLiteral,
    kDone,
  };
  JsonEvent string_byte(char c);
  JsonEvent begin_value(char c);
  JsonEvent structure_byte(char c);
  bool number_byte(char c);  // false: the number ended before `c`, or is wrong
  bool number_may_end() const;
  JsonEvent close(char c);

  State state_ = State::kStart;
  bool is_key_ = false;
  const char* literal_ = nullptr;  // what is left of true, false or null
  std::string open_;               // the brackets around
};

}  // namespace atom::parsers
