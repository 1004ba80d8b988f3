#include "atom/model_loader/gguf.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <unordered_set>

#include "atom/model_loader/text.h"

namespace atom {
namespace {

constexpr uint64_t kMaxKeyBytes = 65535;  // the format's own limit
constexpr uint64_t kMaxTensorNameBytes = 1024;
constexpr uint32_t kMaxRank = 4;
constexpr uint64_t kMinKeyValueBytes = 8 + 1 + 4 + 1;  // length, one letter, type, one byte
constexpr uint64_t kMinTensorInfoBytes = 8 + 1 + 4 + 8 + 4 + 8;

struct TypeRow {
  uint32_t id;
  DType dtype;
};
constexpr TypeRow kTypes[] = {
    {0, DType::kF32},  {1, DType::kF16},   {2, DType::kQ4_0},  {3, DType::kQ4_1},
    {8, DType::kQ8_0}, {12, DType::kQ4_K}, {14, DType::kQ6_K}, {30, DType::kBF16},
};
constexpr const char* kSupportedTypes = "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q6_K";

// Names of the types that exist elsewhere, for the refusal only.
const char* foreign_type_name(uint32_t id) {
  switch (id) {
    case 6:
      return "Q5_0";
    case 7:
      return "Q5_1";
    case 9:
      return "Q8_1";
    case 10:
      return "Q2_K";
    case 11:
      return "Q3_K";
    case 13:
      return "Q5_K";
    case 15:
      return "Q8_K";
    case 16:
      return "IQ2_XXS";
    case 17:
      return "IQ2_XS";
    case 18:
      return "IQ3_XXS";
    case 19:
      return "IQ1_S";
    case 20:
      return "IQ4_NL";
    case 21:
      return "IQ3_S";
    case 22:
      return "IQ2_S";
    case 23:
      return "IQ4_XS";
    case 24:
      return "I8";
    case 25:
      return "I16";
    case 26:
      return "I32";
    case 27:
      return "I64";
    case 28:
      return "F64";
    case 29:
      return "IQ1_M";
    case 34:
      return "TQ1_0";
    case 35:
      return "TQ2_0";
    case 39:
      return "MXFP4";
    default:
      return "unknown";
  }
}

// Bytes of one scalar; 0 for strings, arrays and unknown types.
uint64_t scalar_bytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    default:
      return 0;
  }
}

template <class T>
T load(const std::byte* data) {
  T value;
  std::memcpy(&value, data, sizeof value);
  return value;
}

// One scalar as a double; integers up to 2^53 are exact.
std::optional<double> scalar_number(GgufType type, const std::byte* data) {
  switch (type) {
    case GgufType::kU8:
      return load<uint8_t>(data);
    case GgufType::kI8:
      return load<int8_t>(data);
    case GgufType::kU16:
      return load<uint16_t>(data);
    case GgufType::kI16:
      return load<int16_t>(data);
    case GgufType::kU32:
      return load<uint32_t>(data);
    case GgufType::kI32:
      return load<int32_t>(data);
    case GgufType::kU64:
      return static_cast<double>(load<uint64_t>(data));
    case GgufType::kI64:
      return static_cast<double>(load<int64_t>(data));
    case GgufType::kF32:
      return load<float>(data);
    case GgufType::kF64:
      return load<double>(data);
    default:
      return std::nullopt;
  }
}

// Reads forward through the file; `what` (and `part`) name the place in messages.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> file) : file_(file) {}

  uint64_t position() const { return position_; }
  uint64_t left() const { return file_.size() - position_; }

  template <class T>
  Result<T> scalar(std::string_view what, const char* part = "") {
    if (left() < sizeof(T)) {
      return make_error(ErrorCode::kDataLoss,
                        "{}{}: the file ends here (found {} bytes, expected {})", what, part,
                        left(), sizeof(T));
    }
    const T value = load<T>(file_.data() + position_);
    position_ += sizeof(T);
    return value;
  }

  Result<std::span<const std::byte>> take(uint64_t size, std::string_view what,
                                          const char* part = "") {
    if (size > left()) {
      return make_error(
          ErrorCode::kDataLoss,
          "{}{}: length reaches beyond the end of the file (found {}, expected at most {})", what,
          part, size, left());
    }
    const auto bytes = file_.subspan(position_, size);
    position_ += size;
    return bytes;
  }

  Result<std::string_view> string(uint64_t limit, std::string_view what) {
    ATOM_ASSIGN_OR_RETURN(const uint64_t size, scalar<uint64_t>(what, ": string length"));
    if (size <= left() && size > limit) {
      return make_error(ErrorCode::kDataLoss,
                        "{}: string too long (found {} bytes, expected at most {})", what, size,
                        limit);
    }
    ATOM_ASSIGN_OR_RETURN(const auto bytes, take(size, what, ": string"));
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

 private:
  std::span<const std::byte> file_;
  uint64_t position_ = 0;
};

constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();

Result<GgufType> read_type(Cursor& cursor, const std::string& what) {
  ATOM_ASSIGN_OR_RETURN(const uint32_t id, cursor.scalar<uint32_t>(what));
  if (id > static_cast<uint32_t>(GgufType::kF64)) {
    return make_error(ErrorCode::kDataLoss, "{}: unknown value type (found {}, expected 0 to 12)",
                      what, id);
  }
  return static_cast<GgufType>(id);
}

Status read_array(Cursor& cursor, std::span<const std::byte> file, const std::string& what,
                  GgufValue& value) {
  ATOM_ASSIGN_OR_RETURN(value.element, read_type(cursor, what + ": array"));
  ATOM_ASSIGN_OR_RETURN(value.count, cursor.scalar<uint64_t>(what, ": array length"));
  if (value.element == GgufType::kArray) {
    return make_error(ErrorCode::kUnsupported, "{}: arrays of arrays are not supported", what);
  }
  const uint64_t element_bytes =
      value.element == GgufType::kString ? 8 : scalar_bytes(value.element);
  if (value.count > cursor.left() / element_bytes) {
    return make_error(ErrorCode::kDataLoss,
                      "{}: array length reaches beyond the end of the file (found {} elements, "
                      "expected at most {})",
                      what, value.count, cursor.left() / element_bytes);
  }
  const uint64_t begin = cursor.position();
  if (value.element == GgufType::kString) {
    for (uint64_t i = 0; i < value.count; ++i) {
      ATOM_RETURN_IF_ERROR(cursor.string(kNoLimit, what));
    }
    value.data = file.subspan(begin, cursor.position() - begin);
    return {};
  }
  ATOM_ASSIGN_OR_RETURN(value.data, cursor.take(value.count * element_bytes, what));
  return {};
}

Status read_metadata(Cursor& cursor, std::span<const std::byte> file, uint64_t count,
                     GgufFile& gguf) {
  for (uint64_t i = 0; i < count; ++i) {
    const std::string ordinal = str_format("metadata entry {}", i);
    ATOM_ASSIGN_OR_RETURN(const std::string_view key,
                          cursor.string(kMaxKeyBytes, ordinal + ": key"));
    const std::string what = printable(key);
    GgufValue value;
    ATOM_ASSIGN_OR_RETURN(value.type, read_type(cursor, what));
    if (value.type == GgufType::kArray) {
      ATOM_RETURN_IF_ERROR(read_array(cursor, file, what, value));
    } else if (value.type == GgufType::kString) {
      ATOM_ASSIGN_OR_RETURN(const std::string_view text, cursor.string(kNoLimit, what));
      value.data = std::as_bytes(std::span(text));
    } else {
      ATOM_ASSIGN_OR_RETURN(value.data, cursor.take(scalar_bytes(value.type), what));
    }
    if (!gguf.metadata.emplace(key, value).second) {
      return make_error(ErrorCode::kDataLoss, "{}: key appears twice", what);
    }
  }
  return {};
}

Result<DType> read_tensor_type(Cursor& cursor, const std::string& what) {
  ATOM_ASSIGN_OR_RETURN(const uint32_t id, cursor.scalar<uint32_t>(what));
  for (const TypeRow& row : kTypes) {
    if (row.id == id) return row.dtype;
  }
  return make_error(ErrorCode::kUnsupported, "{}: type {} ({}) is not supported (supported: {})",
                    what, id, foreign_type_name(id), kSupportedTypes);
}

// Dimensions, type and size; `begin` is still relative to the data section.
Result<GgufTensor> read_tensor_info(Cursor& cursor, uint64_t index) {
  GgufTensor tensor;
  ATOM_ASSIGN_OR_RETURN(tensor.name,
                        cursor.string(kMaxTensorNameBytes, str_format("tensor {}: name", index)));
  const std::string what = "tensor \"" + printable(tensor.name) + "\"";
  ATOM_ASSIGN_OR_RETURN(const uint32_t rank, cursor.scalar<uint32_t>(what));
  if (rank == 0 || rank > kMaxRank) {
    return make_error(ErrorCode::kDataLoss, "{}: number of dimensions (found {}, expected 1 to {})",
                      what, rank, kMaxRank);
  }
  tensor.shape.resize(rank);
  int64_t count = 1;
  for (uint32_t i = 0; i < rank; ++i) {
    ATOM_ASSIGN_OR_RETURN(const int64_t dim, cursor.scalar<int64_t>(what));
    tensor.shape[rank - 1 - i] = dim;
    if (dim <= 0)
      return make_error(ErrorCode::kDataLoss,
                        "{}: dimension {} (found {}, expected a positive number)", what, i, dim);
    if (__builtin_mul_overflow(count, dim, &count))
      return make_error(ErrorCode::kDataLoss, "{}: shape overflows", what);
  }
  ATOM_ASSIGN_OR_RETURN(tensor.dtype, read_tensor_type(cursor, what));
  const DTypeInfo info = dtype_info(tensor.dtype);
  const int64_t row = tensor.shape.back();
  if (row % info.block_size != 0) {
    return make_error(ErrorCode::kDataLoss,
                      "{}: rows of {} values are not whole {} blocks (expected a multiple of {})",
                      what, row, info.name, info.block_size);
  }
  if (__builtin_mul_overflow(count / info.block_size, int64_t{info.block_bytes}, &tensor.nbytes)) {
    return make_error(ErrorCode::kDataLoss, "{}: shape {} overflows", what,
                      shape_text(tensor.shape));
  }
  ATOM_ASSIGN_OR_RETURN(tensor.begin, cursor.scalar<int64_t>(what));
  if (tensor.begin < 0) return make_error(ErrorCode::kDataLoss, "{}: offset is out of range", what);
  return tensor;
}

Result<uint64_t> read_alignment(const GgufFile& gguf) {
  const GgufValue* value = gguf.find("general.alignment");
  if (value == nullptr) return 32;
  const std::optional<int64_t> alignment = value->as_integer();
  if (!alignment || *alignment <= 0 || *alignment > (1 << 24) ||
      (*alignment & (*alignment - 1)) != 0) {
    return make_error(
        ErrorCode::kDataLoss,
        "general.alignment: not usable (found {}, expected a power of two up to 2^24)",
        alignment ? str_format("{}", *alignment) : gguf_type_name(value->type));
  }
  return static_cast<uint64_t>(*alignment);
}

// Makes offsets absolute; refuses tensors that are out of range, misaligned or share bytes.
Status place_tensors(std::span<const std::byte> file, uint64_t data_begin, uint64_t alignment,
                     GgufFile& gguf) {
  for (GgufTensor& tensor : gguf.tensors) {
    const std::string what = "tensor \"" + printable(tensor.name) + "\"";
    if (static_cast<uint64_t>(tensor.begin) % alignment != 0) {
      return make_error(ErrorCode::kDataLoss, "{}: offset {} is not a multiple of the alignment {}",
                        what, tensor.begin, alignment);
    }
    int64_t end = 0;
    const bool overflow =
        __builtin_add_overflow(tensor.begin, static_cast<int64_t>(data_begin), &tensor.begin) ||
        __builtin_add_overflow(tensor.begin, tensor.nbytes, &end);
    if (overflow || end > static_cast<int64_t>(file.size())) {
      return make_error(ErrorCode::kDataLoss,
                        "{}: data reach beyond the end of the file (found {} bytes, expected {})",
                        what, file.size(), overflow ? "far more" : str_format("at least {}", end));
    }
  }
  std::vector<const GgufTensor*> order;
  for (const GgufTensor& tensor : gguf.tensors) {
    order.push_back(&tensor);
  }
  std::sort(order.begin(), order.end(),
            [](const auto* a, const auto* b) { return a->begin < b->begin; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i]->begin < order[i - 1]->begin + order[i - 1]->nbytes) {
      return make_error(ErrorCode::kDataLoss, "tensor \"{}\": data overlap tensor \"{}\"",
                        printable(order[i]->name), printable(order[i - 1]->name));
    }
  }
  return {};
}

Status read_tensors(Cursor& cursor, uint64_t count, GgufFile& gguf) {
  std::unordered_set<std::string_view> names;
  for (uint64_t i = 0; i < count; ++i) {
    ATOM_ASSIGN_OR_RETURN(GgufTensor tensor, read_tensor_info(cursor, i));
    if (!names.insert(tensor.name).second) {
      return make_error(ErrorCode::kDataLoss, "tensor \"{}\": appears twice",
                        printable(tensor.name));
    }
    gguf.tensors.push_back(std::move(tensor));
  }
  return {};
}

struct Counts {
  uint64_t tensors = 0;
  uint64_t metadata = 0;
};

Result<Counts> read_prologue(Cursor& cursor, GgufFile& gguf) {
  ATOM_ASSIGN_OR_RETURN(gguf.version, cursor.scalar<uint32_t>("version"));
  if (gguf.version != 2 && gguf.version != 3) {
    const bool swapped = gguf.version == 0x02000000u || gguf.version == 0x03000000u;
    return make_error(ErrorCode::kUnsupported, "version: not supported (found {}, expected 2 or 3)",
                      swapped ? "a big-endian file" : str_format("{}", gguf.version));
  }
  Counts counts;
  ATOM_ASSIGN_OR_RETURN(counts.tensors, cursor.scalar<uint64_t>("tensor count"));
  ATOM_ASSIGN_OR_RETURN(counts.metadata, cursor.scalar<uint64_t>("metadata count"));
  if (counts.metadata > cursor.left() / kMinKeyValueBytes) {
    return make_error(ErrorCode::kDataLoss,
                      "metadata count: more than the file can hold (found {}, expected at most {})",
                      counts.metadata, cursor.left() / kMinKeyValueBytes);
  }
  if (counts.tensors > cursor.left() / kMinTensorInfoBytes) {
    return make_error(ErrorCode::kDataLoss,
                      "tensor count: more than the file can hold (found {}, expected at most {})",
                      counts.tensors, cursor.left() / kMinTensorInfoBytes);
  }
  return counts;
}

}  // namespace

const char* gguf_type_name(GgufType type) {
  constexpr const char* kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                    "bool", "string", "array", "u64", "i64", "f64"};
  return kNames[static_cast<uint32_t>(type)];
}

std::optional<int64_t> GgufValue::as_integer() const {
  switch (type) {
    case GgufType::kU64: {
      const auto value = load<uint64_t>(data.data());
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    case GgufType::kI64:
      return load<int64_t>(data.data());
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kU16:
    case GgufType::kI16:
    case GgufType::kU32:
    case GgufType::kI32:
      return static_cast<int64_t>(*scalar_number(type, data.data()));
    default:
      return std::nullopt;
  }
}

std::optional<double> GgufValue::as_number() const { return scalar_number(type, data.data()); }

std::optional<bool> GgufValue::as_bool() const {
  if (type != GgufType::kBool) return std::nullopt;
  return load<uint8_t>(data.data()) != 0;
}

std::optional<std::string_view> GgufValue::as_string() const {
  if (type != GgufType::kString) return std::nullopt;
  return std::string_view(reinterpret_cast<const char*>(data.data()), data.size());
}

std::optional<std::vector<std::string_view>> GgufValue::as_strings() const {
  if (type != GgufType::kArray || element != GgufType::kString) return std::nullopt;
  std::vector<std::string_view> out;
  out.reserve(count);
  // parse_gguf checked these lengths, but the file may have been rewritten under the mapping since.
  std::span<const std::byte> rest = data;
  for (uint64_t i = 0; i < count; ++i) {
    if (rest.size() < 8) return std::nullopt;
    const auto size = load<uint64_t>(rest.data());
    if (size > rest.size() - 8) return std::nullopt;
    out.emplace_back(reinterpret_cast<const char*>(rest.data() + 8), size);
    rest = rest.subspan(8 + size);
  }
  return out;
}

std::optional<std::vector<double>> GgufValue::as_numbers() const {
  if (type != GgufType::kArray) return std::nullopt;
  const uint64_t size = scalar_bytes(element);
  if (size == 0 || element == GgufType::kBool) return std::nullopt;
  std::vector<double> out;
  out.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    out.push_back(*scalar_number(element, data.data() + i * size));
  }
  return out;
}

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto found = metadata.find(key);
  return found == metadata.end() ? nullptr : &found->second;
}

Result<GgufFile> parse_gguf(std::span<const std::byte> file) {
  if (file.size() < 4 || std::memcmp(file.data(), "GGUF", 4) != 0) {
    const std::string what = recognise_foreign_content(file);
    return make_error(
        ErrorCode::kDataLoss, "{}",
        what.empty() ? "magic: not a GGUF file (expected \"GGUF\" at its start)" : what);
  }
  Cursor cursor(file);
  ATOM_RETURN_IF_ERROR(cursor.take(4, "magic"));
  GgufFile gguf;
  ATOM_ASSIGN_OR_RETURN(const Counts counts, read_prologue(cursor, gguf));
  ATOM_RETURN_IF_ERROR(read_metadata(cursor, file, counts.metadata, gguf));
  ATOM_ASSIGN_OR_RETURN(const uint64_t alignment, read_alignment(gguf));
  ATOM_RETURN_IF_ERROR(read_tensors(cursor, counts.tensors, gguf));
  const uint64_t data_begin = (cursor.position() + alignment - 1) & ~(alignment - 1);
  ATOM_RETURN_IF_ERROR(place_tensors(file, data_begin, alignment, gguf));
  return gguf;
}

}  // namespace atom
