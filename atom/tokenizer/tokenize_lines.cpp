#include "atom/tokenizer/tokenize_lines.h"

#include <boost/json.hpp>
#include <istream>
#include <ostream>
#include <string>
#include <vector>

#include "atom/core/json.h"

namespace atom {
namespace json = boost::json;
namespace {

void append_ids(const std::vector<int32_t>& ids, std::string& out) {
  out += '[';
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) out += ',';
    out += std::to_string(ids[i]);
  }
  out += ']';
}

Result<std::vector<int32_t>> parse_ids(std::string_view line) {
  ATOM_ASSIGN_OR_RETURN(const json::value value, parse_json(line));
  if (!value.is_array()) return make_error(ErrorCode::kInvalidArgument, "not a JSON list of ids");
  std::vector<int32_t> ids;
  ids.reserve(value.get_array().size());
  for (const json::value& id : value.get_array()) {
    if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() > INT32_MAX) {
      return make_error(ErrorCode::kInvalidArgument, "not a JSON list of ids (0 to {})", INT32_MAX);
    }
    ids.push_back(static_cast<int32_t>(id.get_int64()));
  }
  return ids;
}

std::string decode(const std::shared_ptr<const Tokenizer>& tokenizer,
                   const std::vector<int32_t>& ids, const TokenizeLinesOptions& options) {
  if (!options.stream) return tokenizer->decode(ids, options.skip_special_tokens);
  IncrementalDetokenizer detokenizer(tokenizer, options.skip_special_tokens);
  std::string text;
  for (const int32_t id : ids) text += detokenizer.push(id);
  return text + detokenizer.flush();
}

Status one_line(const std::shared_ptr<const Tokenizer>& tokenizer,
                const TokenizeLinesOptions& options, std::string_view line, std::string& out) {
  if (options.decode) {
    ATOM_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, parse_ids(line));
    const std::string text = decode(tokenizer, ids, options);
    out += options.json_text ? json::serialize(json::string(text)) : text;
    return {};
  }
  if (!options.json_text) {
    append_ids(tokenizer->encode(line, options.add_special_tokens), out);
    return {};
  }
  ATOM_ASSIGN_OR_RETURN(const json::value value, parse_json(line));
  if (!value.is_string()) return make_error(ErrorCode::kInvalidArgument, "not a JSON string");
  append_ids(tokenizer->encode(std::string_view(value.get_string()), options.add_special_tokens),
             out);
  return {};
}

}  // namespace

Status run_tokenize_lines(const std::shared_ptr<const Tokenizer>& tokenizer, std::istream& in,
                          std::ostream& out, const TokenizeLinesOptions& options) {
  std::string line, text;
  for (size_t number = 1; out && std::getline(in, line); ++number) {
    text.clear();
    if (auto done = one_line(tokenizer, options, line, text); !done) {
      out.flush();
      return make_error(done.error().code, "line {}: {}", number, done.error().message);
    }
    text += '\n';
    out.write(text.data(), static_cast<std::streamsize>(text.size()));
  }
  out.flush();
  return {};
}

}  // namespace atom
