#include "atom/model_ops/device_weights.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "atom/model_ops/device_linear.h"
#include "kernels/common/convert.h"
#include "kernels/cpu/kernels.h"
#include "kernels/gpu/moe.h"

namespace atom {
namespace {

// Below 1 MiB the bus is not reached (measured on an H200: 64 KiB 17.7, 1 MiB 48.5 GB/s); larger
// pieces make few of small tensors.
constexpr int64_t kPieceBytes = 2 << 20;
constexpr int kSlotsPerThread = 2;
constexpr int64_t kBF16Bytes = 2;
// Output features are padded with zeros to a multiple of this, so that rows of the output are
// aligned: only a vocabulary needs it.
constexpr int64_t kRowMultiple = 8;

Status status_of(DeviceStatus failed, const char* doing) {
  if (failed == nullptr) {
    return {};
  }
  return make_error(ErrorCode::kInternal, "{}: {}", doing, failed);
}

// Rows [begin, begin + count) of a part as bf16.
void convert_rows(const WeightPart& part, int64_t begin, int64_t count, uint16_t* out) {
  const cpu::RowSource source = row_source(part);
  const auto bytes = static_cast<size_t>(part.cols * kBF16Bytes);
  std::vector<float> values(static_cast<size_t>(part.cols));
  for (int64_t row = begin; row < begin + count; ++row) {
    const cpu::StoredRow stored = cpu::stored_row(source, row);
    if (part.format.dtype == DType::kBF16) {
      std::memcpy(out, stored.data, bytes);
      out += part.cols;
      continue;
    }
    cpu::dequantize_row(stored, 0, part.cols, values.data());
    out = std::ranges::transform(values, out, f32_to_bf16).out;
  }
}

}  // namespace

Result<std::unique_ptr<DeviceUploader>> DeviceUploader::create(const DeviceRuntime& runtime,
                                                               int device,
                                                               const ParallelFor& parallel) {
  std::unique_ptr<DeviceUploader> uploader(new DeviceUploader(runtime, device, parallel));
  ATOM_RETURN_IF_ERROR(uploader->prepare());
  return uploader;
}

Status DeviceUploader::prepare() {
  ATOM_RETURN_IF_ERROR(status_of(runtime_.create_stream(&stream_), "upload stream"));
  slots_.resize(static_cast<size_t>(std::max(1, parallel_.num_threads) * kSlotsPerThread));
  for (Slot& slot : slots_) {
    ATOM_ASSIGN_OR_RETURN(slot.memory, Buffer::allocate_pinned(runtime_, kPieceBytes));
    ATOM_RETURN_IF_ERROR(status_of(runtime_.create_event(false, &slot.copied), "upload event"));
    free_.push_back(&slot);
  }
  return {};
}

DeviceUploader::~DeviceUploader() {
  if (stream_ != nullptr) {
    (void)runtime_.synchronize(stream_);
    (void)runtime_.destroy_stream(stream_);
  }
  for (const Slot& slot : slots_) {
    if (slot.copied != nullptr) {
      (void)runtime_.destroy_event(slot.copied);
    }
  }
}

void DeviceUploader::fail(DeviceStatus status) {
  if (status != nullptr) {
    const std::lock_guard lock(mutex_);
    if (failure_.empty()) {
      failure_ = status;
    }
  }
}

// The slot that was given back first; waits until the copy out of it is done.
DeviceUploader::Slot* DeviceUploader::take_slot() {
  Slot* slot = nullptr;
  {
    std::unique_lock lock(mutex_);
    slot_free_.wait(lock, [&] { return !free_.empty(); });
    slot = free_.front();
    free_.erase(free_.begin());
  }
  fail(runtime_.synchronize_event(slot->copied));
  return slot;
}

void DeviceUploader::give_back(Slot* slot) {
  {
    const std::lock_guard lock(mutex_);
    free_.push_back(slot);
  }
  slot_free_.notify_one();
}

template <class Fill>
Status DeviceUploader::pieces(int64_t num_rows, int64_t row_bytes, void* to, const Fill& fill) {
  if (row_bytes > kPieceBytes) {
    return make_error(ErrorCode::kUnsupported, "a row of {} bytes is more than the {} of a piece",
                      row_bytes, kPieceBytes);
  }
  const int64_t rows = std::max<int64_t>(1, kPieceBytes / std::max<int64_t>(1, row_bytes));
  parallel_((num_rows + rows - 1) / rows, [&](int64_t piece) {
    fail(runtime_.set_device(device_));
    const int64_t begin = piece * rows;
    const int64_t count = std::min(rows, num_rows - begin);
    Slot* slot = take_slot();
    fill(slot->memory.data(), begin, count);
    fail(runtime_.copy_async(static_cast<char*>(to) + begin * row_bytes, slot->memory.data(),
                             count * row_bytes, stream_));
    fail(runtime_.record_event(slot->copied, stream_));
    give_back(slot);
  });
  return failure_.empty() ? Status{} : status_of(failure_.c_str(), "copying weights");
}

Status DeviceUploader::rows_as_bf16(const WeightPart& part, void* to) {
  return pieces(part.rows, part.cols * kBF16Bytes, to,
                [&](void* pinned, int64_t begin, int64_t count) {
                  convert_rows(part, begin, count, static_cast<uint16_t*>(pinned));
                });
}

Status DeviceUploader::stored_rows(const WeightPart& part, void* to) {
  const int64_t bytes = row_bytes(part.format.dtype, part.cols);
  return pieces(part.rows, bytes, to, [&](void* pinned, int64_t begin, int64_t count) {
    const cpu::RowSource source = row_source(part);
    auto* out = static_cast<uint8_t*>(pinned);
    for (int64_t row = begin; row < begin + count; ++row, out += bytes) {
      std::memcpy(out, cpu::stored_row(source, row).data, static_cast<size_t>(bytes));
      if (part.format.dtype == DType::kF4E2M1) {
        for (int64_t i = 0; i < bytes; i += 4) {
          uint32_t word = 0;
          std::memcpy(&word, out + i, 4);
          word = gpu::pack_expert_word(word);
          std::memcpy(out + i, &word, 4);
        }
      }
    }
  });
}

Status DeviceUploader::made_rows(int64_t num_rows, int64_t row_bytes, const MakeRow& make_row,
                                 void* to) {
  return pieces(num_rows, row_bytes, to, [&](void* pinned, int64_t begin, int64_t count) {
    auto* out = static_cast<uint8_t*>(pinned);
    for (int64_t row = begin; row < begin + count; ++row, out += row_bytes) {
      make_row(row, out);
    }
  });
}

Status DeviceUploader::bytes(const void* from, int64_t nbytes, void* to) {
  return pieces(nbytes, 1, to, [&](void* pinned, int64_t begin, int64_t count) {
    std::memcpy(pinned, static_cast<const char*>(from) + begin, static_cast<size_t>(count));
  });
}

Status DeviceUploader::finish() {
  fail(runtime_.synchronize(stream_));
  return failure_.empty() ? Status{} : status_of(failure_.c_str(), "copying weights");
}

Result<Buffer> allocate_on(const ExecContext& ctx, int64_t nbytes) {
  return ctx.runtime == nullptr ? Buffer::allocate(nbytes)
                                : Buffer::allocate_device(*ctx.runtime, nbytes);
}

Result<Buffer> to_device(const ExecContext& ctx, Buffer host) {
  if (ctx.runtime == nullptr || host.data() == nullptr) {
    return host;
  }
  ATOM_ASSIGN_OR_RETURN(Buffer buffer, allocate_on(ctx, host.size()));
  ATOM_RETURN_IF_ERROR(ctx.uploader->bytes(host.data(), host.size(), buffer.data()));
  return buffer;
}

Result<Buffer> upload_table(const ExecContext& ctx, const WeightPart& part) {
  ATOM_ASSIGN_OR_RETURN(Buffer buffer, allocate_on(ctx, part.rows * part.cols * kBF16Bytes));
  ATOM_RETURN_IF_ERROR(ctx.uploader->rows_as_bf16(part, buffer.data()));
  return buffer;
}

namespace {

// Parts that are already on the device (dummy weights) are copied there; every second row of one
// is its first rows: they are made up.
Status place_part(const ExecContext& ctx, const WeightPart& part, void* to) {
  if (part.on_device) {
    const int64_t row = part.cols * kBF16Bytes;
    const void* from = static_cast<const char*>(part.data) + part.first_row * row;
    return status_of(ctx.runtime->copy_async(to, from, part.rows * row, ctx.stream),
                     "copying weights");
  }
  return ctx.uploader->rows_as_bf16(part, to);
}

Status quantize_rows(const ExecContext& ctx, Buffer weight, LinearWeight& out) {
  if (ctx.ops->quantize_fp8 == nullptr) {
    return make_error(ErrorCode::kUnsupported, "--quantization fp8: {} has no kernels for it",
                      ctx.ops->name);
  }
  const int64_t rows = out.out_features;
  const int64_t cols = out.in_features;
  ATOM_ASSIGN_OR_RETURN(out.packed, allocate_on(ctx, rows * cols));
  ATOM_ASSIGN_OR_RETURN(out.scales, allocate_on(ctx, rows * 4));
  ATOM_RETURN_IF_ERROR(ctx.uploader->finish());
  ctx.ops->quantize_fp8(ctx, Tensor(weight.data(), DType::kBF16, {rows, cols}, ctx.device),
                        Tensor(out.packed.data(), DType::kF8E4M3, {rows, cols}, ctx.device),
                        Tensor(out.scales.data(), DType::kF32, {rows}, ctx.device));
  out.segments[0].format = {.dtype = DType::kF8E4M3, .block_n = 1, .block_k = -1};
  return status_of(ctx.runtime->synchronize(ctx.stream), "quantising weights");
}

}  // namespace

Status place_rows(const ExecContext& ctx, std::span<const WeightPart> parts, void* to) {
  for (const WeightPart& part : parts) {
    ATOM_RETURN_IF_ERROR(place_part(ctx, part, to));
    to = static_cast<char*>(to) + part.rows * part.cols * kBF16Bytes;
  }
  return {};
}

Status pack_linear_device(const ExecContext& ctx, std::span<const WeightPart> parts,
                          DeviceLinear keep, LinearWeight& out) {
  if (keep != DeviceLinear::kBF16 && ctx.ops->reads_packed_linear) {
    if (const DataFormat format = device_linear_format(parts); format.dtype != DType::kBF16) {
      return pack_stored_linear(ctx, parts, format, out);
    }
  }
  out.in_features = parts.front().cols;
  out.out_features = 0;
  for (const WeightPart& part : parts) {
    out.out_features += part.rows;
  }
  const int64_t rows = out.out_features;
  out.out_features = (rows + kRowMultiple - 1) / kRowMultiple * kRowMultiple;
  out.segments = {{.format = {.dtype = DType::kBF16}, .rows = out.out_features}};
  ATOM_ASSIGN_OR_RETURN(Buffer weight,
                        allocate_on(ctx, out.out_features * out.in_features * kBF16Bytes));
  ATOM_RETURN_IF_ERROR(place_rows(ctx, parts, weight.data()));
  auto* to = static_cast<char*>(weight.data()) + rows * out.in_features * kBF16Bytes;
  if (const int64_t padding = (out.out_features - rows) * out.in_features * kBF16Bytes) {
    ATOM_RETURN_IF_ERROR(
        status_of(ctx.runtime->fill_async(to, 0, padding, ctx.stream), "padding weights"));
  }
  if (keep == DeviceLinear::kE4m3) {
    return quantize_rows(ctx, std::move(weight), out);
  }
  out.packed = std::move(weight);
  return {};
}

}  // namespace atom
