#include "atom/entrypoints/parsers/call_stream.h"

#include <algorithm>
#include <utility>

namespace atom::parsers {

void CallStream::begin(std::string_view prefix, const std::vector<std::string>* names) {
  prefix_ = prefix;
  reader_.emplace(CallReader::Options{.names = names});
  given_ = false;
}

void CallStream::begin_arguments(std::string_view prefix, std::string name, std::string id) {
  prefix_ = prefix;
  id_ = std::move(id);
  reader_.emplace(CallReader::Options{.name = std::move(name)});
  given_ = false;
}

void CallStream::skip_spaces(std::string_view& text) {
  const size_t count =
      static_cast<size_t>(std::find_if_not(text.begin(), text.end(), is_json_space) - text.begin());
  prefix_.append(text, 0, count);
  text.remove_prefix(count);
}

CallStream::Status CallStream::push(std::string_view& text, ParsedText& out) {
  const CallReader::Status read = reader_->push(text);
  // Also on failure: whether a call is given out must not depend on how the text is cut.
  if (reader_->begun() && reader_->size() > hold_) give_out(out);
  return read == CallReader::Status::kReading ? Status::kReading : end(out);
}

void CallStream::give_out(ParsedText& out) {
  if (!given_) {
    trimmer_.cut();
    out.begin_call(index_, reader_->name(), std::exchange(id_, {}));
    given_ = true;
  }
  out.add_arguments(index_, reader_->take_arguments());
  reader_->forget_raw();
}

CallStream::Status CallStream::end(ParsedText& out) {
  if (reader_->complete()) give_out(out);
  if (!given_) {
    give_up(out);
    return Status::kNoCall;
  }
  const bool complete = reader_->complete();
  reader_.reset();
  prefix_.clear();
  ++index_;
  return complete ? Status::kCall : Status::kNoCall;
}

void CallStream::give_up(ParsedText& out) {
  content(prefix_, out);
  content(reader_->raw(), out);
  prefix_.clear();
  id_.clear();
  reader_.reset();
}

void CallStream::finish(ParsedText& out) {
  if (reader_) end(out);
}

}  // namespace atom::parsers
