// Reads a tokenizer.json in one pass: model.vocab and model.merges go straight into arenas (they
// are nearly the whole file), everything else becomes one small json::value. Syntax only;
// tokenizer_json.cpp knows what the keys mean.
#pragma once

#include <boost/json/value.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "atom/core/error.h"

namespace atom {

// Strings one after the other in one buffer.
struct StringArena {
  std::string chars;
  std::vector<size_t> ends;

  size_t size() const { return ends.size(); }
  std::string_view operator[](size_t i) const {
    const size_t begin = i == 0 ? 0 : ends[i - 1];
    return std::string_view(chars).substr(begin, ends[i] - begin);
  }
};

struct TokenizerDocument {
  boost::json::value rest;  // model.vocab and model.merges are null here
  bool has_vocab = false;
  bool has_merges = false;
  StringArena vocab_tokens;
  std::vector<int64_t> vocab_ids;
  StringArena merge_parts;  // left, right, left, right, ...
};

// Errors: syntax with the byte offset, nesting, model.vocab that is not {string: integer},
// model.merges that is not a list of "left right" or ["left", "right"].
Result<TokenizerDocument> read_tokenizer_document(std::string_view text);

}  // namespace atom
