#include "atom/models/weight_loader.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "atom/core/log.h"
#include "atom/model_loader/text.h"
#include "atom/model_ops/device_weights.h"
#include "atom/models/int8_parts.h"
#include "kernels/common/convert.h"
#include "kernels/common/dtype.h"
#include "kernels/common/dummy.h"
#include "kernels/cpu/kernels.h"

namespace atom {
namespace {

constexpr size_t kMaxNamesInMessage = 10;

std::string name_list(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < kMaxNamesInMessage; ++i) {
    text += (i == 0 ? "" : ", ") + names[i];
  }
  if (names.size() > kMaxNamesInMessage) {
    text += str_format(" and {} more", names.size() - kMaxNamesInMessage);
  }
  return text;
}

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

void fill_dummy_scales(DType dtype, float scale, int64_t count, uint8_t* out) {
  const uint16_t bf16 = f32_to_bf16(scale);
  for (int64_t i = 0; i < count; ++i) {
    if (dtype == DType::kF8E8M0) {
      out[i] = static_cast<uint8_t>(float_bits(scale) >> 23);
    } else if (dtype == DType::kBF16) {
      std::memcpy(out + i * 2, &bf16, 2);
    } else {
      std::memcpy(out + i * 4, &scale, 4);
    }
  }
}

// A bias in the order of its weight's rows (WeightPart::rotary_heads): stored value 2i of a head is
// logical value i, stored value 2i + 1 is logical value i + half.
void restore_rotary_order(float* values, int64_t size, int64_t heads) {
  const int64_t half = size / heads / 2;
  std::vector<float> stored(values, values + size);
  for (int64_t head = 0; head < heads; ++head) {
    const float* from = stored.data() + head * 2 * half;
    float* to = values + head * 2 * half;
    for (int64_t i = 0; i < half; ++i) {
      to[i] = from[2 * i];
      to[i + half] = from[2 * i + 1];
    }
  }
}

}  // namespace

WeightLoader::WeightLoader(const ExecContext& ctx, const Checkpoint& checkpoint,
                           const ModelLoadOptions& options)
    : ctx_(ctx), checkpoint_(checkpoint), options_(options) {}

void WeightLoader::fail(std::string message) { problems_.push_back(std::move(message)); }

const CheckpointTensor* WeightLoader::find(const std::string& name) const {
  return checkpoint_.find(name);
}

const CheckpointTensor* WeightLoader::checked(const std::string& name,
                                              std::initializer_list<int64_t> shape) {
  const CheckpointTensor* tensor = checkpoint_.find(name);
  if (tensor == nullptr) {
    missing_.push_back(name);
    return nullptr;
  }
  taken_.insert(name);
  if (!std::ranges::equal(tensor->shape, shape)) {
    fail(str_format("{}: tensor {} has shape {}, the model needs {}", tensor->file, name,
                    shape_text(tensor->shape), shape_text(shape)));
    return nullptr;
  }
  return tensor;
}

const CheckpointTensor* WeightLoader::take(const std::string& name,
                                           std::initializer_list<int64_t> shape) {
  const CheckpointTensor* tensor = checked(name, shape);
  if (tensor != nullptr) {
    checkpoint_.prefetch(*tensor);
  }
  return tensor;
}

// Packing made a copy. What lies on a device is used again.
void WeightLoader::clear_dummies() {
  quantized_dummies_.clear();
  if (ctx_.runtime == nullptr) {
    dummy_buffers_.clear();
  }
}

WeightPart WeightLoader::dummy_part(int64_t rows, int64_t cols, Buffer& memory) {
  const int64_t count = rows * cols;
  if (memory.size() < count * 2) {
    memory = {};
    auto buffer = allocate_on(ctx_, count * 2);
    if (!buffer) {
      fail(buffer.error().message);
      return {};
    }
    memory = std::move(*buffer);
  }
  // Host memory is fresh: zero already.
  if (options_.dummy == DummyWeights::kXavier ||
      (options_.dummy == DummyWeights::kZero && ctx_.runtime != nullptr)) {
    const float limit = options_.dummy == DummyWeights::kXavier
                            ? std::sqrt(6.0F / static_cast<float>(rows + cols))
                            : 0.0F;
    ctx_.ops->fill_random(ctx_, dummy_state_, limit,
                          Tensor(memory.data(), DType::kBF16, {count}, ctx_.device));
    dummy_state_ += static_cast<uint64_t>(count) * kDummyStride;
  }
  return {.data = memory.data(),
          .format = {.dtype = DType::kBF16},
          .rows = rows,
          .cols = cols,
          .on_device = ctx_.runtime != nullptr};
}

// Values, then scales, then zero points, in one buffer of the host.
WeightPart WeightLoader::dummy_quantized(DataFormat format, int64_t rows, int64_t cols,
                                         Buffer& memory) {
  if (format.dtype == DType::kU4) {
    format.scale_dtype = DType::kBF16;  // as checkpoints have it
  }
  const int64_t values = rows * row_bytes(format.dtype, cols);
  const int64_t tiles = format.block_n <= 0 ? 1 : (rows + format.block_n - 1) / format.block_n;
  const int64_t scales = tiles * scales_per_row(format, cols);
  const int64_t scale_bytes = scales * dtype_bytes(format.scale_dtype, 1);
  auto buffer = Buffer::allocate(values + scale_bytes + scales + 8);
  if (!buffer) {
    fail(buffer.error().message);
    return {};
  }
  memory = std::move(*buffer);
  auto* bytes = static_cast<uint8_t*>(memory.data());
  if (options_.dummy == DummyWeights::kXavier) {
    const float limit = std::sqrt(6.0F / static_cast<float>(rows + cols));
    const bool bytes_wide = row_bytes(format.dtype, 2) == 2;
    ctx_.parallel((values + 4095) / 4096, [&](int64_t piece) {
      for (int64_t i = piece * 4096; i < std::min(values, (piece + 1) * 4096); ++i) {
        const float value = 127.0F * dummy_value(dummy_state_, static_cast<uint64_t>(i));
        bytes[i] = static_cast<uint8_t>(static_cast<int8_t>(value));
        if (format.dtype == DType::kF8E4M3) {
          bytes[i] &= 0xbf;  // below 2
        }
      }
    });
    dummy_state_ += static_cast<uint64_t>(values) * kDummyStride;
    fill_dummy_scales(format.scale_dtype, limit / (bytes_wide ? 128.0F : 8.0F), scales,
                      bytes + values);
    std::fill_n(bytes + values + scale_bytes, scales, uint8_t{8});
  }
  WeightPart part{.data = bytes, .format = format, .rows = rows, .cols = cols};
  part.scales = bytes + values;
  part.zeros = format.has_zeros ? bytes + values + scale_bytes : nullptr;
  return part;
}

Status WeightLoader::pack(std::span<const WeightPart> sources, Precision precision,
                          LinearWeight& out) {
  if (ctx_.ops->pack_linear != nullptr) {
    const ComputeType compute =
        precision == Precision::kExact ? ComputeType::kFloat32 : options_.compute;
    if (quantizes_drafts() && precision != Precision::kExact) {
      ATOM_ASSIGN_OR_RETURN(const Int8Parts parts, to_int8(ctx_.parallel, sources));
      return ctx_.ops->pack_linear(ctx_, parts.parts, compute, out);
    }
    return ctx_.ops->pack_linear(ctx_, sources, compute, out);
  }
  const DeviceLinear keep = precision != Precision::kMayQuantize          ? DeviceLinear::kBF16
                            : options_.quantization == Quantization::kFP8 ? DeviceLinear::kE4m3
                                                                          : DeviceLinear::kAsStored;
  return pack_linear_device(ctx_, sources, keep, out);
}

bool WeightLoader::quantizes_drafts() const {
  return drafting_ && options_.quantize_drafts && options_.compute != ComputeType::kFloat32;
}

bool WeightLoader::quantizes(const std::string& prefix) const {
  const CheckpointTensor* tensor = checkpoint_.find(prefix + ".weight");
  return quantizes_drafts() && ctx_.ops->pack_linear != nullptr && tensor != nullptr &&
         is_float(tensor->dtype) && options_.dummy == DummyWeights::kNone;
}

bool WeightLoader::find_sources(const std::vector<LinearPart>& parts, int64_t in_features,
                                Precision precision, std::vector<WeightPart>& sources,
                                std::vector<StoredWeight>& stored) {
  dummy_buffers_.resize(std::max(dummy_buffers_.size(), parts.size()));
  for (const LinearPart& part : parts) {
    if (options_.dummy != DummyWeights::kNone) {
      const auto& groups = checkpoint_.config().quantization.groups;
      const bool quantized = !groups.empty() && precision == Precision::kMayQuantize &&
                             (ctx_.runtime == nullptr || ctx_.ops->reads_packed_linear);
      Buffer& memory =
          quantized ? quantized_dummies_.emplace_back() : dummy_buffers_[sources.size()];
      sources.push_back(quantized
                            ? dummy_quantized(groups[0].format, part.rows, in_features, memory)
                            : dummy_part(part.rows, in_features, memory));
      if (sources.back().data == nullptr) {
        return false;
      }
      continue;
    }
    if (auto weight = stored_weight(part.prefix, part.rows, in_features)) {
      sources.push_back(weight->part);
      stored.push_back(std::move(*weight));
    }
  }
  return sources.size() == parts.size();
}

void WeightLoader::linear(Linear& layer, std::vector<LinearPart> parts, int64_t in_features,
                          Precision precision) {
  std::vector<WeightPart> sources;
  std::vector<StoredWeight> stored;
  if (find_sources(parts, in_features, precision, sources, stored)) {
    pack_parts(layer.weight, sources, parts.front().prefix, precision);
  }
  std::ranges::for_each(stored, [&](const StoredWeight& weight) { done_with(weight); });
  clear_dummies();
  load_bias(layer, parts);
}

std::optional<StoredWeight> WeightLoader::stored_weight(const std::string& prefix, int64_t rows,
                                                        int64_t in_features) {
  StoredWeight weight;
  if (options_.dummy != DummyWeights::kNone) {
    weight.memory.emplace_back();
    weight.part = dummy_part(rows, in_features, weight.memory.back());
    return weight.part.data == nullptr ? std::nullopt : std::optional(std::move(weight));
  }
  const QuantizationConfig& config = checkpoint_.config().quantization;
  if (!read_weight(*this, {prefix, rows, in_features}, config, weight)) {
    return std::nullopt;
  }
  return weight;
}

std::optional<StoredWeight> WeightLoader::stacked_weight(const std::string& name, int64_t count,
                                                         int64_t rows, int64_t in_features) {
  if (options_.dummy != DummyWeights::kNone) {
    return stored_weight(name, count * rows, in_features);
  }
  StoredWeight weight;
  if (!read_stacked_weight(*this, {name, rows, in_features}, count, weight)) {
    return std::nullopt;
  }
  return weight;
}

void WeightLoader::done_with(const StoredWeight& weight) {
  for (const CheckpointTensor* tensor : weight.tensors) {
    checkpoint_.release(*tensor);
  }
}

void WeightLoader::pack_parts(LinearWeight& out, std::span<const WeightPart> parts,
                              const std::string& name, Precision precision) {
  if (Status packed = pack(parts, precision, out); !packed) {
    fail(str_format("{}: {}", name, packed.error().message));
  }
}

float WeightLoader::cache_scale(const std::string& prefix, const std::string& letter) {
  for (const std::string& name :
       {prefix + letter + "_scale", prefix + "attn." + letter + "_scale",
        prefix + letter + "_proj." + letter + "_scale", prefix + letter + "_proj.output_scale"}) {
    const CheckpointTensor* stored = find(name);
    if (stored == nullptr) {
      continue;
    }
    const CheckpointTensor* tensor = stored->shape.empty() ? take(name, {}) : take(name, {1});
    float value = 0;
    if (tensor != nullptr && is_float(tensor->dtype)) {
      cpu::dequantize(tensor->dtype, static_cast<const uint8_t*>(tensor->data), 0, 1, &value);
    }
    if (!std::isfinite(value) || value <= 0) {
      fail(str_format("{}: tensor {} is not a positive number", stored->file, name));
      return 1.0F;
    }
    return value;
  }
  return 1.0F;
}

void WeightLoader::cache_scales(Attention& layer, const std::string& prefix) {
  layer.k_scale = cache_scale(prefix, "k");
  layer.v_scale = cache_scale(prefix, "v");
  ignore({".q_scale", ".prob_scale"});  // of attention computed in fp8, which ours is not
}

void WeightLoader::load_bias(Linear& layer, const std::vector<LinearPart>& parts) {
  if (std::ranges::none_of(parts, &LinearPart::has_bias) || options_.dummy != DummyWeights::kNone) {
    return;
  }
  int64_t rows = 0;
  for (const LinearPart& part : parts) {
    rows += part.rows;
  }
  auto bias = Buffer::allocate(rows * static_cast<int64_t>(sizeof(float)));
  if (!bias) {
    return fail(bias.error().message);
  }
  auto* out = static_cast<float*>(bias->data());
  for (const LinearPart& part : parts) {
    Buffer one;
    if (part.has_bias) {
      one = host_vector(part.prefix + ".bias", part.rows);
    }
    if (one.data() != nullptr) {
      std::memcpy(out, one.data(), static_cast<size_t>(part.rows) * sizeof(float));
    }
    out += part.rows;
  }
  place(std::move(*bias), layer.weight.bias);
}

void WeightLoader::place(Buffer host, Buffer& out) {
  auto placed = to_device(ctx_, std::move(host));
  if (!placed) {
    return fail(placed.error().message);
  }
  out = std::move(*placed);
}

void WeightLoader::vector(Buffer& out, const std::string& name, int64_t size) {
  place(host_vector(name, size), out);
}

Buffer WeightLoader::host_values(const std::string& name, std::initializer_list<int64_t> shape) {
  int64_t size = 1;
  for (const int64_t length : shape) {
    size *= length;
  }
  auto buffer = Buffer::allocate(size * static_cast<int64_t>(sizeof(float)));
  if (!buffer) {
    fail(buffer.error().message);
    return {};
  }
  auto* values = static_cast<float*>(buffer->data());
  if (options_.dummy != DummyWeights::kNone) {
    std::fill_n(values, size, 1.0F);
    return std::move(*buffer);
  }
  const CheckpointTensor* tensor = take(name, shape);
  if (tensor == nullptr) {
    return {};
  }
  if (!is_float(tensor->dtype)) {
    fail(str_format("{}: tensor {} has type {}, a vector needs f32, f16 or bf16", tensor->file,
                    name, dtype_name(tensor->dtype)));
    return {};
  }
  cpu::dequantize(tensor->dtype, static_cast<const uint8_t*>(tensor->data), 0, size, values);
  if (tensor->row_order == RowOrder::kInterleavedRotary) {
    if (size % (2 * tensor->rotary_heads) != 0) {
      fail(str_format("{}: tensor {}: {} values cannot be {} rotary heads", tensor->file, name,
                      size, tensor->rotary_heads));
      return {};
    }
    restore_rotary_order(values, size, tensor->rotary_heads);
  }
  return std::move(*buffer);
}

void WeightLoader::embedding(Embedding& out, const std::string& name, int64_t vocab_size,
                             int64_t hidden_size) {
  if (options_.dummy != DummyWeights::kNone) {
    const WeightPart part = dummy_part(vocab_size, hidden_size, out.owned);
    out.table = Tensor(const_cast<void*>(part.data), DType::kBF16, {vocab_size, hidden_size});
    return;
  }
  const CheckpointTensor* tensor = checked(name, {vocab_size, hidden_size});
  if (tensor == nullptr) {
    return;
  }
  if (!is_float(tensor->dtype) && dtype_info(tensor->dtype).block_size == 1) {
    return fail(str_format(
        "{}: tensor {} has type {}, an embedding needs f32, f16, bf16 or a GGUF block type",
        tensor->file, name, dtype_name(tensor->dtype)));
  }
  out.table = Tensor(const_cast<void*>(tensor->data), tensor->dtype, {vocab_size, hidden_size});
  if (ctx_.runtime == nullptr) {
    return;
  }
  checkpoint_.prefetch(*tensor);
  auto owned = upload_table(ctx_, {.data = tensor->data,
                                   .format = {.dtype = tensor->dtype},
                                   .rows = vocab_size,
                                   .cols = hidden_size});
  if (!owned) {
    return fail(str_format("{}: {}", name, owned.error().message));
  }
  out.owned = std::move(*owned);
  out.table = Tensor(out.owned.data(), DType::kBF16, {vocab_size, hidden_size}, ctx_.device);
}

void WeightLoader::ignore_prefix(std::string prefix) {
  ignored_prefixes_.push_back(std::move(prefix));
}

void WeightLoader::ignore_copy(const std::string& name, const std::string& original,
                               const char* reason) {
  ignore_prefix(name);
  const CheckpointTensor* copy = checkpoint_.find(name);
  const CheckpointTensor* stored = checkpoint_.find(original);
  if (options_.dummy != DummyWeights::kNone || copy == nullptr || stored == nullptr) return;
  constexpr int64_t kCompared = 1 << 20;  // reading gigabytes to make sure would not be worth it
  const auto bytes = static_cast<size_t>(std::min({copy->nbytes, stored->nbytes, kCompared}));
  if (copy->dtype != stored->dtype || std::memcmp(copy->data, stored->data, bytes) == 0) return;
  log_warning("{}: {} is not {}, which is used in its place: {}", copy->file, name, original,
              reason);
}

void WeightLoader::share_table(const Linear& head, Embedding& out) const {
  const LinearWeight& weight = head.weight;
  if (weight.packed.data() == nullptr) {
    return;  // it could not be loaded, which finish() reports
  }
  ATOM_CHECK(weight.segments[0].format.dtype == DType::kBF16) << "a table is read as bf16";
  out.table = Tensor(weight.packed.data(), DType::kBF16, {weight.out_features, weight.in_features},
                     ctx_.device);
}

void WeightLoader::ignore(std::initializer_list<std::string_view> suffixes) {
  ignored_suffixes_.insert(ignored_suffixes_.end(), suffixes);
}

Status WeightLoader::finish() {
  if (!missing_.empty()) {
    return make_error(ErrorCode::kDataLoss, "missing tensor{}: {}", missing_.size() == 1 ? "" : "s",
                      name_list(missing_));
  }
  if (!problems_.empty()) {
    return make_error(ErrorCode::kDataLoss, "{}", problems_.front());
  }
  if (ctx_.runtime != nullptr) {
    ATOM_RETURN_IF_ERROR(ctx_.uploader->finish());
    if (const DeviceStatus failed = ctx_.runtime->synchronize(ctx_.stream)) {
      return make_error(ErrorCode::kInternal, "loading weights: {}", failed);
    }
  }
  if (options_.dummy != DummyWeights::kNone) {
    return {};
  }
  std::vector<std::string> unknown;
  for (const CheckpointTensor& tensor : checkpoint_.tensors()) {
    const bool ignored = std::ranges::any_of(ignored_suffixes_,
                                             [&](std::string_view suffix) {
                                               return tensor.name.ends_with(suffix);
                                             }) ||
                         std::ranges::any_of(ignored_prefixes_, [&](const std::string& prefix) {
                           return tensor.name.starts_with(prefix);
                         });
    if (!taken_.contains(tensor.name) && !ignored) {
      unknown.push_back(tensor.name);
    }
  }
  if (!unknown.empty()) {
    return make_error(ErrorCode::kDataLoss, "unexpected tensor{} that the model does not use: {}",
                      unknown.size() == 1 ? "" : "s", name_list(unknown));
  }
  return {};
}

}  // namespace atom
