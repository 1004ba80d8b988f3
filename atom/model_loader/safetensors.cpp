#include "atom/model_loader/safetensors.h"

#include <algorithm>
#include <boost/json.hpp>
#include <boost/json/basic_parser_impl.hpp>
#include <cstring>
#include <string_view>

#include "atom/model_loader/text.h"

namespace atom {
namespace json = boost::json;
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxRank = 8;
constexpr size_t kMaxNameBytes = 4096;
constexpr std::string_view kSupportedTypes =
    "F32, F16, BF16, F8_E4M3, F8_E8M0, I8, U8, I32, I64, BOOL";

struct TypeRow {
  std::string_view name;
  DType dtype;
};
constexpr TypeRow kTypes[] = {
    {"F32", DType::kF32},        {"F16", DType::kF16},        {"BF16", DType::kBF16},
    {"F8_E4M3", DType::kF8E4M3}, {"F8_E8M0", DType::kF8E8M0}, {"I8", DType::kI8},
    {"U8", DType::kU8},          {"I32", DType::kI32},        {"I64", DType::kI64},
    {"BOOL", DType::kBool},
};

std::string tensor_text(std::string_view name) { return "tensor \"" + printable(name) + "\""; }

// SAX handler: knows the three levels of the header and refuses at the first thing out of place, so
// that a hostile header never becomes a tree in memory. Offsets are still relative to the data
// here.
class HeaderHandler {
 public:
  static constexpr size_t max_object_size = size_t(-1);
  static constexpr size_t max_array_size = size_t(-1);
  static constexpr size_t max_key_size = size_t(-1);
  static constexpr size_t max_string_size = size_t(-1);

  std::vector<SafetensorsTensor> tensors;
  std::string problem;  // set when the handler itself refused

  bool on_document_begin(json::error_code&) { return true; }
  bool on_document_end(json::error_code&) { return true; }

  bool on_object_begin(json::error_code& ec) {
    if (level_ == Level::kTop) return enter(Level::kHeader);
    if (level_ != Level::kHeader) return fail(ec, where() + ": unexpected object");
    if (key_ == "__metadata__") {
      if (metadata_seen_) return fail(ec, "__metadata__: appears twice");
      metadata_seen_ = true;
      return enter(Level::kMetadata);
    }
    if (key_.size() > kMaxNameBytes)
      return fail(ec, tensor_text(key_) + ": name longer than 4096 bytes");
    tensors.push_back({.name = key_});
    seen_ = 0;
    return enter(Level::kTensor);
  }

  bool on_object_end(size_t, json::error_code& ec) {
    if (level_ == Level::kTensor && seen_ != kAllFields) {
      return fail(ec, tensor_text(tensors.back().name) +
                          ": incomplete (expected dtype, shape and data_offsets)");
    }
    return enter(level_ == Level::kHeader ? Level::kTop : Level::kHeader);
  }

  bool on_array_begin(json::error_code& ec) {
    if (level_ != Level::kTensor || field_ == Field::kDtype)
      return fail(ec, where() + ": unexpected array");
    offset_count_ = 0;
    return enter(Level::kArray);
  }

  bool on_array_end(size_t, json::error_code& ec) {
    if (field_ == Field::kOffsets && offset_count_ != 2) {
      return fail(
          ec, str_format("{}: data_offsets: found {} numbers, expected 2", where(), offset_count_));
    }
    return enter(Level::kTensor);
  }

  bool on_key_part(json::string_view part, size_t, json::error_code&) {
    start_string();
    key_.append(part.data(), part.size());
    return true;
  }

  bool on_key(json::string_view part, size_t, json::error_code& ec) {
    start_string();
    key_.append(part.data(), part.size());
    in_string_ = false;
    if (level_ != Level::kTensor) return true;
    field_ = key_ == "dtype"          ? Field::kDtype
             : key_ == "shape"        ? Field::kShape
             : key_ == "data_offsets" ? Field::kOffsets
                                      : Field::kNone;
    if (field_ == Field::kNone)
      return fail(ec, where() + ": unknown key \"" + printable(key_) + "\"");
    const unsigned bit = 1u << static_cast<unsigned>(field_);
    if ((seen_ & bit) != 0) return fail(ec, where() + ": key \"" + key_ + "\" appears twice");
    seen_ |= bit;
    return true;
  }

  bool on_string_part(json::string_view part, size_t, json::error_code&) {
    if (text_.size() <= 256) text_.append(part.data(), part.size());
    return true;
  }

  bool on_string(json::string_view part, size_t, json::error_code& ec) {
    const std::string text =
        std::exchange(text_, {}) + std::string(part.data(), std::min<size_t>(part.size(), 256));
    if (level_ == Level::kMetadata) return true;
    if (level_ != Level::kTensor || field_ != Field::kDtype)
      return fail(ec, where() + ": unexpected string");
    for (const TypeRow& row : kTypes) {
      if (row.name == text) {
        tensors.back().dtype = row.dtype;
        return true;
      }
    }
    return fail(ec, str_format("{}: dtype {} is not supported (supported: {})", where(),
                               printable(text, 40), kSupportedTypes));
  }

  bool on_number_part(json::string_view, json::error_code&) { return true; }
  bool on_int64(int64_t value, json::string_view, json::error_code& ec) {
    return on_integer(value, ec);
  }
  bool on_uint64(uint64_t value, json::string_view, json::error_code& ec) {
    return fail(ec,
                str_format("{}: {} is too large", where(), value));  // only called above INT64_MAX
  }
  bool on_double(double value, json::string_view, json::error_code& ec) {
    return fail(ec, str_format("{}: found {}, expected an integer", where(), value));
  }
  bool on_bool(bool, json::error_code& ec) { return fail(ec, where() + ": unexpected boolean"); }
  bool on_null(json::error_code& ec) { return fail(ec, where() + ": unexpected null"); }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }

 private:
  enum class Level { kTop, kHeader, kMetadata, kTensor, kArray };
  enum class Field { kDtype, kShape, kOffsets, kNone };
  static constexpr unsigned kAllFields = 7;

  bool enter(Level level) {
    level_ = level;
    return true;
  }

  bool fail(json::error_code& ec, std::string text) {
    problem = std::move(text);
    ec = json::error::syntax;
    return false;
  }

  void start_string() {
    if (!in_string_) key_.clear();
    in_string_ = true;
  }

  std::string where() const {
    if (level_ == Level::kMetadata) return "__metadata__";
    if (level_ == Level::kTop) return "header";
    if (level_ == Level::kHeader) return key_ == "__metadata__" ? key_ : tensor_text(key_);
    constexpr const char* kNames[] = {"dtype", "shape", "data_offsets"};
    const bool in_field = field_ != Field::kNone && seen_ != 0;
    return tensor_text(tensors.back().name) +
           (in_field ? str_format(": {}", kNames[static_cast<int>(field_)]) : "");
  }

  bool on_integer(int64_t value, json::error_code& ec) {
    if (level_ != Level::kArray) return fail(ec, where() + ": unexpected number");
    if (value < 0) return fail(ec, str_format("{}: negative (found {})", where(), value));
    SafetensorsTensor& tensor = tensors.back();
    if (field_ == Field::kShape) {
      if (tensor.shape.size() == kMaxRank) return fail(ec, where() + ": more than 8 dimensions");
      tensor.shape.push_back(value);
    } else {
      if (offset_count_ == 0) tensor.begin = value;
      if (offset_count_ == 1) tensor.end = value;
      ++offset_count_;
    }
    return true;
  }

  Level level_ = Level::kTop;
  Field field_ = Field::kNone;
  unsigned seen_ = 0;
  size_t offset_count_ = 0;
  bool in_string_ = false;
  bool metadata_seen_ = false;
  std::string key_;
  std::string text_;
};

Status parse_header(std::string_view text, HeaderHandler& handler, auto& parser) {
  json::error_code error;
  const size_t used = parser.write_some(false, text.data(), text.size(), error);
  handler.tensors = std::move(parser.handler().tensors);
  if (!parser.handler().problem.empty()) {
    return make_error(ErrorCode::kDataLoss, "{}", parser.handler().problem);
  }
  if (!error && used < text.size()) {
    return make_error(ErrorCode::kDataLoss, "header: trailing characters after the JSON at byte {}",
                      used + 8);
  }
  if (error) {
    return make_error(ErrorCode::kDataLoss, "header: invalid JSON at byte {}: {}", used + 8,
                      error.message());
  }
  return {};
}

// Bytes that the shape needs; error on overflow.
Result<int64_t> shape_bytes(const SafetensorsTensor& tensor) {
  int64_t count = dtype_info(tensor.dtype).block_bytes;
  for (const int64_t dim : tensor.shape) {
    if (__builtin_mul_overflow(count, dim, &count)) {
      return make_error(ErrorCode::kDataLoss, "{}: shape {} overflows", tensor_text(tensor.name),
                        shape_text(tensor.shape));
    }
  }
  return count;
}

// Offsets must tile [0, data_bytes): no hole, no overlap, nothing left over. Sorts by offset.
Status check_layout(std::vector<SafetensorsTensor>& tensors, int64_t data_bytes) {
  for (const SafetensorsTensor& t : tensors) {
    const auto offsets = [&] {
      return str_format("{}: data_offsets [{}, {}]", tensor_text(t.name), t.begin, t.end);
    };
    if (t.end < t.begin) return make_error(ErrorCode::kDataLoss, "{} are descending", offsets());
    if (t.end > data_bytes) {
      return make_error(ErrorCode::kDataLoss,
                        "{} reach beyond the end of the file (found {} bytes of data, expected {})",
                        offsets(), data_bytes, t.end);
    }
    ATOM_ASSIGN_OR_RETURN(const int64_t needed, shape_bytes(t));
    if (needed != t.end - t.begin) {
      return make_error(ErrorCode::kDataLoss,
                        "{} do not fit its shape: {} {} (found {} bytes, expected {})", offsets(),
                        dtype_name(t.dtype), shape_text(t.shape), t.end - t.begin, needed);
    }
  }
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  int64_t expected = 0;
  const SafetensorsTensor* previous = nullptr;
  for (const SafetensorsTensor& t : tensors) {
    if (t.begin != expected) {
      return make_error(
          ErrorCode::kDataLoss, "{}: data_offsets [{}, {}] {} {} (found {}, expected {})",
          tensor_text(t.name), t.begin, t.end,
          t.begin < expected ? "overlap" : "leave a hole after",
          previous != nullptr ? tensor_text(previous->name) : "the header", t.begin, expected);
    }
    expected = t.end;
    previous = &t;
  }
  if (expected != data_bytes) {
    return make_error(
        ErrorCode::kDataLoss,
        "{} bytes after the last tensor belong to none (found {} bytes of data, expected {})",
        data_bytes - expected, data_bytes, expected);
  }
  return {};
}

Status check_names(const std::vector<SafetensorsTensor>& tensors) {
  std::vector<std::string_view> names;
  names.reserve(tensors.size());
  for (const SafetensorsTensor& t : tensors) {
    if (t.name.empty() || t.name.find('\0') != std::string::npos) {
      return make_error(ErrorCode::kDataLoss, "{}: not a usable name", tensor_text(t.name));
    }
    names.push_back(t.name);
  }
  std::sort(names.begin(), names.end());
  const auto twin = std::adjacent_find(names.begin(), names.end());
  if (twin != names.end())
    return make_error(ErrorCode::kDataLoss, "{}: appears twice in the header", tensor_text(*twin));
  return {};
}

}  // namespace

Result<std::vector<SafetensorsTensor>> parse_safetensors(std::span<const std::byte> file) {
  if (const std::string what = recognise_foreign_content(file); !what.empty()) {
    return make_error(ErrorCode::kUnsupported, "{}", what);
  }
  if (file.size() < 8) {
    return make_error(ErrorCode::kDataLoss,
                      "too short for the header length (found {} bytes, expected at least 8)",
                      file.size());
  }
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), sizeof header_bytes);
  if (header_bytes > kMaxHeaderBytes) {
    return make_error(ErrorCode::kDataLoss,
                      "header length: too large (found {}, expected at most {})", header_bytes,
                      kMaxHeaderBytes);
  }
  if (header_bytes > file.size() - 8) {
    return make_error(
        ErrorCode::kDataLoss,
        "header length: reaches beyond the end of the file (found {}, expected at most {})",
        header_bytes, file.size() - 8);
  }
  const std::string_view header(reinterpret_cast<const char*>(file.data()) + 8, header_bytes);
  if (!header.starts_with('{')) {
    return make_error(ErrorCode::kDataLoss, "header: does not start with '{{' (header length {})",
                      header_bytes);
  }
  json::parse_options options;
  options.max_depth = 3;
  json::basic_parser<HeaderHandler> parser(options);
  HeaderHandler result;
  ATOM_RETURN_IF_ERROR(parse_header(header, result, parser));
  ATOM_RETURN_IF_ERROR(check_names(result.tensors));
  const int64_t data_begin = static_cast<int64_t>(8 + header_bytes);
  ATOM_RETURN_IF_ERROR(
      check_layout(result.tensors, static_cast<int64_t>(file.size()) - data_begin));
  for (SafetensorsTensor& tensor : result.tensors) {
    tensor.begin += data_begin;
    tensor.end += data_begin;
  }
  return std::move(result.tensors);
}

}  // namespace atom
