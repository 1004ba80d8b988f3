#include "atom/tokenizer/json_reader.h"

#include <boost/json.hpp>
#include <boost/json/basic_parser_impl.hpp>

namespace atom {
namespace json = boost::json;
namespace {

class Handler {
 public:
  static constexpr std::size_t max_object_size = std::size_t(-1);
  static constexpr std::size_t max_array_size = std::size_t(-1);
  static constexpr std::size_t max_key_size = std::size_t(-1);
  static constexpr std::size_t max_string_size = std::size_t(-1);

  TokenizerDocument doc;
  std::string problem;  // set when a callback returned false

  bool on_document_begin(json::error_code&) { return true; }
  bool on_document_end(json::error_code&) { return true; }

  bool on_object_begin(json::error_code& ec) {
    if (mode_ == Mode::kVocab)
      return refuse(ec, "model.vocab holds an object where an id is expected");
    if (mode_ == Mode::kMerges) return refuse(ec, "model.merges holds an object");
    if (next_ == Mode::kVocab) {
      mode_ = Mode::kVocab;
      next_ = Mode::kRest;
      doc.has_vocab = true;
      return true;
    }
    if (next_ == Mode::kMerges) return refuse(ec, "model.merges is not a list");
    ++depth_;
    return true;
  }
  bool on_object_end(std::size_t n, json::error_code&) {
    if (mode_ == Mode::kVocab) {
      mode_ = Mode::kRest;
      stack_.push_null();
      return true;
    }
    --depth_;
    if (depth_ == 1) in_model_ = false;
    stack_.push_object(n);
    return true;
  }
  bool on_array_begin(json::error_code& ec) {
    if (mode_ == Mode::kVocab)
      return refuse(ec, "model.vocab holds a list where an id is expected");
    if (mode_ == Mode::kMerges) {
      if (in_pair_) return refuse(ec, "model.merges holds a list in a list");
      in_pair_ = true;
      pair_start_ = doc.merge_parts.size();
      return true;
    }
    if (next_ == Mode::kVocab) return refuse(ec, "model.vocab is not an object of token to id");
    if (next_ == Mode::kMerges) {
      mode_ = Mode::kMerges;
      next_ = Mode::kRest;
      doc.has_merges = true;
      return true;
    }
    ++depth_;
    return true;
  }
  bool on_array_end(std::size_t n, json::error_code& ec) {
    if (mode_ == Mode::kMerges) {
      if (!in_pair_) {
        mode_ = Mode::kRest;
        stack_.push_null();
        return true;
      }
      in_pair_ = false;
      return doc.merge_parts.size() - pair_start_ == 2 || refuse(ec, bad_merge());
    }
    --depth_;
    stack_.push_array(n);
    return true;
  }

  bool on_key_part(json::string_view part, std::size_t, json::error_code&) {
    if (mode_ == Mode::kVocab) {
      doc.vocab_tokens.chars.append(part);
    } else {
      key_.append(part);
      stack_.push_chars(part);
    }
    return true;
  }
  bool on_key(json::string_view part, std::size_t, json::error_code& ec) {
    if (mode_ == Mode::kVocab) {
      doc.vocab_tokens.chars.append(part);
      doc.vocab_tokens.ends.push_back(doc.vocab_tokens.chars.size());
      return true;
    }
    key_.append(part);
    stack_.push_key(part);
    if (depth_ == 1) in_model_ = key_ == "model";
    if (depth_ == 2 && in_model_) {
      next_ = key_ == "vocab" ? Mode::kVocab : key_ == "merges" ? Mode::kMerges : Mode::kRest;
      if ((next_ == Mode::kVocab && doc.has_vocab) || (next_ == Mode::kMerges && doc.has_merges)) {
        return refuse(ec, "model." + key_ + " is given twice");
      }
    }
    key_.clear();
    return true;
  }
  bool on_string_part(json::string_view part, std::size_t, json::error_code&) {
    if (mode_ == Mode::kMerges) {
      doc.merge_parts.chars.append(part);
    } else if (mode_ == Mode::kRest) {
      stack_.push_chars(part);
    }
    return true;
  }
  bool on_string(json::string_view part, std::size_t, json::error_code& ec) {
    if (mode_ == Mode::kRest) {
      next_ = Mode::kRest;
      stack_.push_string(part);
      return true;
    }
    if (mode_ == Mode::kVocab)
      return refuse(ec, "model.vocab holds a string where an id is expected");
    StringArena& parts = doc.merge_parts;
    parts.chars.append(part);
    if (!in_pair_) {
      const size_t begin = parts.size() == 0 ? 0 : parts.ends.back();
      const size_t space = parts.chars.find(' ', begin);
      if (space == std::string::npos || parts.chars.find(' ', space + 1) != std::string::npos) {
        return refuse(ec, bad_merge());
      }
      parts.chars.erase(space, 1);
      parts.ends.push_back(space);
    }
    parts.ends.push_back(parts.chars.size());
    return true;
  }

  bool on_number_part(json::string_view, json::error_code&) { return true; }
  bool on_int64(int64_t v, json::string_view, json::error_code& ec) {
    if (mode_ == Mode::kVocab) {
      doc.vocab_ids.push_back(v);
      return true;
    }
    return scalar(ec) && (stack_.push_int64(v), true);
  }
  bool on_uint64(uint64_t v, json::string_view, json::error_code& ec) {
    return scalar(ec) && (stack_.push_uint64(v), true);
  }
  bool on_double(double v, json::string_view, json::error_code& ec) {
    return scalar(ec) && (stack_.push_double(v), true);
  }
  bool on_bool(bool v, json::error_code& ec) { return scalar(ec) && (stack_.push_bool(v), true); }
  bool on_null(json::error_code& ec) { return scalar(ec) && (stack_.push_null(), true); }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }

  json::value release() { return stack_.release(); }
  void reset() { stack_.reset(); }

 private:
  enum class Mode { kRest, kVocab, kMerges };

  bool refuse(json::error_code& ec, std::string why) {
    problem = std::move(why);
    ec = json::error::syntax;
    return false;
  }
  std::string bad_merge() const {
    return str_format("model.merges entry {} is not \"left right\" or [\"left\", \"right\"]",
                      doc.merge_parts.size() / 2);
  }
  // A value that is neither string, list nor object.
  bool scalar(json::error_code& ec) {
    if (mode_ == Mode::kVocab) {
      return refuse(ec, str_format("the id of token \"{}\" in model.vocab is not an integer",
                                   doc.vocab_tokens[doc.vocab_tokens.size() - 1].substr(0, 100)));
    }
    if (mode_ == Mode::kMerges) return refuse(ec, bad_merge());
    next_ = Mode::kRest;
    return true;
  }

  json::value_stack stack_;
  std::string key_;
  int depth_ = 0;  // of containers in the mode kRest
  bool in_model_ = false;
  Mode mode_ = Mode::kRest;
  Mode next_ = Mode::kRest;  // what the value of the last key is
  bool in_pair_ = false;
  size_t pair_start_ = 0;
};

constexpr std::size_t kMaxDepth = 64;

}  // namespace

Result<TokenizerDocument> read_tokenizer_document(std::string_view text) {
  json::parse_options options;
  options.max_depth = kMaxDepth;
  json::basic_parser<Handler> parser(options);
  parser.handler().reset();
  json::error_code error;
  const std::size_t used = parser.write_some(false, text.data(), text.size(), error);
  if (!parser.handler().problem.empty()) {
    return make_error(ErrorCode::kInvalidArgument, "{} (byte {})", parser.handler().problem, used);
  }
  if (error == json::error::too_deep) {
    return make_error(ErrorCode::kInvalidArgument,
                      "invalid JSON at byte {}: nesting deeper than {}", used, kMaxDepth);
  }
  if (error) {
    return make_error(ErrorCode::kInvalidArgument, "invalid JSON at byte {}: {}", used,
                      error.message());
  }
  if (used < text.size()) {
    return make_error(ErrorCode::kInvalidArgument, "invalid JSON at byte {}: trailing characters",
                      used);
  }
  parser.handler().doc.rest = parser.handler().release();
  return std::move(parser.handler().doc);
}

}  // namespace atom
