#include "atom/model_loader/quantization_reader.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "atom/model_loader/json_fields.h"
#include "atom/model_loader/text.h"

namespace atom {
namespace json = boost::json;
namespace {

constexpr const char* kMethods =
    "fp8, compressed-tensors, quark, mxfp4, gptq or awq, or a GGUF file";
constexpr int64_t kMaxGroup = 1 << 20;
constexpr size_t kMaxGroups = 64;

constexpr DataFormat per_tensor(DType dtype) {
  return {.dtype = dtype, .block_n = -1, .block_k = -1};
}
constexpr DataFormat per_channel(DType dtype) {
  return {.dtype = dtype, .block_n = 1, .block_k = -1};
}
constexpr DataFormat per_group(DType dtype, int64_t group) {
  return {.dtype = dtype, .block_n = 1, .block_k = group};
}
constexpr DataFormat kMXFP4{
    .dtype = DType::kF4E2M1, .block_n = 1, .block_k = 32, .scale_dtype = DType::kF8E8M0};

std::unexpected<Error> refuse(const JsonFields& fields, std::string_view key,
                              const std::string& found, std::string_view expected) {
  return make_error(ErrorCode::kUnsupported, "{}{}: not supported (found {}, expected {})",
                    fields.prefix, key, found, expected);
}

std::string quoted(const std::optional<std::string>& text) {
  return text ? "\"" + printable(*text) + "\"" : "nothing";
}

// Field `key` as an object; nullptr when absent.
Result<const json::object*> object_field(const JsonFields& fields, std::string_view key) {
  const json::value* value = json_field(fields.object, key);
  if (value == nullptr) {
    return nullptr;
  }
  if (!value->is_object()) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{}{}: wrong type (found {}, expected an object)", fields.prefix, key,
                      describe_json(*value));
  }
  return &value->get_object();
}

// [block_n, block_k]; nothing when absent.
Result<std::optional<std::pair<int64_t, int64_t>>> read_block(const JsonFields& fields,
                                                              std::string_view key) {
  const json::value* value = json_field(fields.object, key);
  if (value == nullptr) {
    return std::nullopt;
  }
  const json::array* list = value->if_array();
  const auto side = [&](size_t i) -> int64_t {
    const int64_t* number = (*list)[i].if_int64();
    return number != nullptr && *number >= 1 && *number <= kMaxGroup ? *number : 0;
  };
  if (list == nullptr || list->size() != 2 || side(0) == 0 || side(1) == 0) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{}{}: wrong value (found {}, expected two positive integers)", fields.prefix,
                      key, printable(json::serialize(*value), 100));
  }
  return std::pair(side(0), side(1));
}

// -1: whole rows.
Result<int64_t> read_group_size(const JsonFields& fields, std::string_view key) {
  ATOM_ASSIGN_OR_RETURN(const std::optional<int64_t> size, fields.integer(key, -1, kMaxGroup));
  if (!size || *size == 0) {
    return make_error(ErrorCode::kInvalidArgument, "{}{}: {} (expected -1 or a positive integer)",
                      fields.prefix, key, size ? "out of range" : "missing");
  }
  return *size;
}

Status require_four_bits(const JsonFields& fields, std::string_view key) {
  ATOM_ASSIGN_OR_RETURN(const std::optional<int64_t> bits, fields.integer(key, 1, 64));
  if (bits != 4) {
    return refuse(fields, key, bits ? str_format("{}", *bits) : "nothing", "4");
  }
  return {};
}

// One of `allowed`, or absent.
Status check_word(const JsonFields& fields, std::string_view key,
                  std::initializer_list<std::string_view> allowed) {
  ATOM_ASSIGN_OR_RETURN(const std::optional<std::string> word, fields.string(key));
  if (!word) {
    return {};
  }
  std::string expected;
  for (const std::string_view name : allowed) {
    if (*word == name) {
      return {};
    }
    expected += (expected.empty() ? "" : " or ") + std::string(name);
  }
  return refuse(fields, key, quoted(word), expected);
}

Status read_fp8(const JsonFields& fields, QuantizationConfig& out) {
  ATOM_RETURN_IF_ERROR(check_word(fields, "activation_scheme", {"static", "dynamic"}));
  ATOM_RETURN_IF_ERROR(check_word(fields, "fmt", {"e4m3"}));
  ATOM_ASSIGN_OR_RETURN(const auto block, read_block(fields, "weight_block_size"));
  DataFormat format = per_tensor(DType::kF8E4M3);
  if (block) {
    std::tie(format.block_n, format.block_k) = *block;
  }
  out.groups = {{.format = format}};
  return {};
}

Result<QuantizationGroup> read_compressed_weights(const JsonFields& fields) {
  ATOM_ASSIGN_OR_RETURN(const std::optional<int64_t> bits, fields.integer("num_bits", 1, 64));
  ATOM_ASSIGN_OR_RETURN(const std::optional<std::string> type, fields.string("type"));
  ATOM_ASSIGN_OR_RETURN(const std::optional<std::string> strategy, fields.string("strategy"));
  ATOM_ASSIGN_OR_RETURN(const std::optional<bool> symmetric, fields.boolean("symmetric"));
  const bool int4 = type == "int" && bits == 4;
  const bool scaled = bits == 8 && (type == "int" || type == "float") && symmetric.value_or(true);
  const DType dtype = type == "float" ? DType::kF8E4M3 : DType::kI8;
  if (scaled && (!strategy || strategy == "tensor")) {
    return QuantizationGroup{.format = per_tensor(dtype)};
  }
  if (scaled && strategy == "channel") {
    return QuantizationGroup{.format = per_channel(dtype)};
  }
  if (scaled && strategy == "block") {
    ATOM_ASSIGN_OR_RETURN(const auto block, read_block(fields, "block_structure"));
    if (block) {
      return QuantizationGroup{
          .format = {.dtype = dtype, .block_n = block->first, .block_k = block->second}};
    }
  }
  if (int4 && (strategy == "group" || strategy == "channel")) {
    DataFormat format = per_channel(DType::kU4);
    if (strategy == "group") {
      ATOM_ASSIGN_OR_RETURN(const int64_t group, read_group_size(fields, "group_size"));
      format = per_group(DType::kU4, group);
    }
    format.has_zeros = !symmetric.value_or(true);
    return QuantizationGroup{.layout = WeightLayout::kPackedInt4, .format = format};
  }
  return refuse(fields, "strategy",
                str_format("{} of {} bits, type {}{}", quoted(strategy), bits.value_or(0),
                           quoted(type), symmetric.value_or(true) ? "" : ", asymmetric"),
                "symmetric float 8 or int 8 per tensor, channel or block, or int 4 per group or "
                "channel");
}

Status read_compressed_tensors(const JsonFields& fields, QuantizationConfig& out) {
  ATOM_RETURN_IF_ERROR(check_word(fields, "format",
                                  {"float-quantized", "int-quantized", "naive-quantized",
                                   "pack-quantized", "mixed-precision", "dense"}));
  ATOM_ASSIGN_OR_RETURN(const json::object* sparsity, object_field(fields, "sparsity_config"));
  if (sparsity != nullptr && !sparsity->empty()) {
    const JsonFields inner{*sparsity, fields.prefix + "sparsity_config."};
    ATOM_RETURN_IF_ERROR(check_word(inner, "format", {"dense"}));
  }
  ATOM_ASSIGN_OR_RETURN(const json::object* groups, object_field(fields, "config_groups"));
  if (groups == nullptr || groups->empty() || groups->size() > kMaxGroups) {
    return make_error(ErrorCode::kInvalidArgument, "{}config_groups: {} groups (expected 1 to {})",
                      fields.prefix, groups == nullptr ? 0 : groups->size(), kMaxGroups);
  }
  for (const auto& [name, value] : *groups) {
    const std::string prefix =
        str_format("{}config_groups.{}.", fields.prefix, printable(std::string_view(name), 40));
    if (!value.is_object()) {
      return make_error(ErrorCode::kInvalidArgument, "{}weights: missing", prefix);
    }
    ATOM_ASSIGN_OR_RETURN(const json::object* weights,
                          (object_field(JsonFields{value.get_object(), prefix}, "weights")));
    if (weights == nullptr) {
      continue;  // only activations or the cache are quantised
    }
    ATOM_ASSIGN_OR_RETURN(QuantizationGroup group,
                          read_compressed_weights({*weights, prefix + "weights."}));
    out.groups.push_back(group);
  }
  return {};
}

Result<QuantizationGroup> read_quark_weight(const JsonFields& fields) {
  ATOM_ASSIGN_OR_RETURN(const std::optional<std::string> dtype, fields.string("dtype"));
  ATOM_ASSIGN_OR_RETURN(const std::optional<std::string> scheme, fields.string("qscheme"));
  ATOM_ASSIGN_OR_RETURN(const std::optional<bool> symmetric, fields.boolean("symmetric"));
  ATOM_ASSIGN_OR_RETURN(const std::optional<int64_t> group,
                        fields.integer("group_size", -1, kMaxGroup));
  const bool bytes = (dtype == "fp8_e4m3" || dtype == "int8") && symmetric.value_or(true);
  const DType type = dtype == "int8" ? DType::kI8 : DType::kF8E4M3;
  if (bytes && scheme == "per_tensor") {
    return QuantizationGroup{.format = per_tensor(type)};
  }
  if (bytes && scheme == "per_channel") {
    return QuantizationGroup{.format = per_channel(type)};
  }
  if (dtype == "fp4" && scheme == "per_group" && group == 32) {
    ATOM_RETURN_IF_ERROR(check_word(fields, "scale_format", {"e8m0"}));
    return QuantizationGroup{.format = kMXFP4};
  }
  return refuse(
      fields, "dtype",
      str_format("{} {}, group_size {}", quoted(dtype), quoted(scheme), group.value_or(0)),
      "fp8_e4m3 or int8 per_tensor or per_channel, or fp4 per_group of 32");
}

// `weight` of one quantisation config; absent: these layers are left alone.
Status add_quark_group(const JsonFields& fields, QuantizationConfig& out) {
  ATOM_ASSIGN_OR_RETURN(const json::object* weight, object_field(fields, "weight"));
  if (weight != nullptr) {
    ATOM_ASSIGN_OR_RETURN(QuantizationGroup group,
                          read_quark_weight({*weight, fields.prefix + "weight."}));
    out.groups.push_back(group);
  }
  return {};
}

Status read_quark(const JsonFields& fields, QuantizationConfig& out) {
  ATOM_ASSIGN_OR_RETURN(const json::object* global, object_field(fields, "global_quant_config"));
  if (global == nullptr) {
    return make_error(ErrorCode::kInvalidArgument, "{}global_quant_config: missing", fields.prefix);
  }
  ATOM_RETURN_IF_ERROR(add_quark_group({*global, fields.prefix + "global_quant_config."}, out));
  for (const char* key : {"layer_quant_config", "layer_type_quant_config"}) {
    ATOM_ASSIGN_OR_RETURN(const json::object* layers, object_field(fields, key));
    for (const auto& [name, value] : layers == nullptr ? json::object{} : *layers) {
      if (value.is_object() && out.groups.size() < kMaxGroups) {
        ATOM_RETURN_IF_ERROR(add_quark_group(
            {value.get_object(),
             str_format("{}{}.{}.", fields.prefix, key, printable(std::string_view(name), 40))},
            out));
      }
    }
  }
  return {};
}

// Only the stacked experts of GPT-OSS (`*_blocks`, `*_scales`) are quantised.
Status read_mxfp4(const JsonFields&, QuantizationConfig&) { return {}; }

Status read_gptq(const JsonFields& fields, QuantizationConfig& out) {
  ATOM_RETURN_IF_ERROR(require_four_bits(fields, "bits"));
  ATOM_RETURN_IF_ERROR(check_word(fields, "checkpoint_format", {"gptq", "gptq_v2"}));
  ATOM_ASSIGN_OR_RETURN(const std::optional<std::string> form, fields.string("checkpoint_format"));
  ATOM_ASSIGN_OR_RETURN(const int64_t group, read_group_size(fields, "group_size"));
  DataFormat format = per_group(DType::kU4, group);
  format.has_zeros = true;
  out.groups = {{.layout = form == "gptq_v2" ? WeightLayout::kGptqV2 : WeightLayout::kGptq,
                 .format = format}};
  return {};
}

Status read_awq(const JsonFields& fields, QuantizationConfig& out) {
  const bool old = json_field(fields.object, "bits") == nullptr;
  ATOM_RETURN_IF_ERROR(require_four_bits(fields, old ? "w_bit" : "bits"));
  ATOM_RETURN_IF_ERROR(check_word(fields, "version", {"gemm", "GEMM"}));
  ATOM_ASSIGN_OR_RETURN(const int64_t group,
                        read_group_size(fields, old ? "q_group_size" : "group_size"));
  DataFormat format = per_group(DType::kU4, group);
  format.has_zeros = true;
  out.groups = {{.layout = WeightLayout::kAwq, .format = format}};
  return {};
}

struct Method {
  std::string_view name;
  Status (*read)(const JsonFields& fields, QuantizationConfig& out);
};

constexpr Method kReaders[] = {
    {"fp8", read_fp8},     {"compressed-tensors", read_compressed_tensors},
    {"quark", read_quark}, {"mxfp4", read_mxfp4},
    {"gptq", read_gptq},   {"awq", read_awq},
};

std::string format_text(const DataFormat& format) {
  const auto side = [](int64_t block) {
    return block < 0 ? std::string("all") : str_format("{}", block);
  };
  return str_format("{} [{}, {}]", dtype_name(format.dtype), side(format.block_n),
                    side(format.block_k));
}

}  // namespace

Result<QuantizationConfig> read_quantization(const json::object& config) {
  QuantizationConfig out;
  for (const char* key : {"quantization_config", "compression_config"}) {
    ATOM_ASSIGN_OR_RETURN(const json::object* object, (object_field({config, ""}, key)));
    if (object == nullptr) {
      continue;
    }
    const JsonFields fields{*object, str_format("{}.", key)};
    ATOM_ASSIGN_OR_RETURN(const std::optional<std::string> method, fields.string("quant_method"));
    const auto* reader = std::ranges::find(kReaders, method.value_or(""), &Method::name);
    if (reader == std::end(kReaders)) {
      return refuse(fields, "quant_method", quoted(method), kMethods);
    }
    out.method = *method;
    ATOM_RETURN_IF_ERROR(reader->read(fields, out));
    out.name = out.method;
    for (const QuantizationGroup& group : out.groups) {
      out.name += (&group == out.groups.data() ? " " : ", ") + format_text(group.format);
    }
    return out;
  }
  return out;
}

}  // namespace atom
