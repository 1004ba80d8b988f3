// Weights on their way to a device: mapped pages -> a ring of pinned pieces -> device memory, on
// several threads, because one core reads slower than the bus takes. Everything here is a no-op or
// plain host memory when the context has no device. Not here: which tensors there are
// (models/weight_loader), and how a CPU packs them (cpu/linear_ops.cpp).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "atom/core/buffer.h"
#include "atom/core/error.h"
#include "atom/model_ops/ops.h"

namespace atom {

// Owner: the model runner, while it loads. Called by one thread; pieces run on `parallel`.
class DeviceUploader {
 public:
  static Result<std::unique_ptr<DeviceUploader>> create(const DeviceRuntime& runtime, int device,
                                                        const ParallelFor& parallel);
  ~DeviceUploader();
  DeviceUploader(const DeviceUploader&) = delete;
  DeviceUploader& operator=(const DeviceUploader&) = delete;

  // `to` [part.rows, part.cols] bf16 on the device, rows in logical order. The source has been read
  // on return; the copies are done after finish().
  Status rows_as_bf16(const WeightPart& part, void* to);
  // Rows of a part of one byte a value as they are, or of MXFP4 in the order of pack_expert_word
  // (kernels/gpu/moe.h).
  Status stored_rows(const WeightPart& part, void* to);
  // Rows of `row_bytes` that make_row(row, out) writes, on several threads.
  using MakeRow = std::function<void(int64_t row, uint8_t* out)>;
  Status made_rows(int64_t num_rows, int64_t row_bytes, const MakeRow& make_row, void* to);
  Status bytes(const void* from, int64_t nbytes, void* to);
  Status finish();

 private:
  struct Slot {
    Buffer memory;
    DeviceEvent copied = nullptr;
  };

  DeviceUploader(const DeviceRuntime& runtime, int device, const ParallelFor& parallel)
      : runtime_(runtime), device_(device), parallel_(parallel) {}
  Status prepare();
  // Runs fill(pinned memory, first row, rows) and copies what it wrote, for pieces of whole rows.
  template <class Fill>
  Status pieces(int64_t num_rows, int64_t row_bytes, void* to, const Fill& fill);
  void fail(DeviceStatus status);
  Slot* take_slot();
  void give_back(Slot* slot);

  const DeviceRuntime& runtime_;
  int device_;
  ParallelFor parallel_;
  DeviceStream stream_ = nullptr;
  std::vector<Slot> slots_;
  std::mutex mutex_;
  std::condition_variable slot_free_;
  std::vector<Slot*> free_;
  std::string failure_;
};

// `host` where ctx has no device, else its bytes in device memory.
Result<Buffer> to_device(const ExecContext& ctx, Buffer host);

// Memory of ctx's device, or of the host.
Result<Buffer> allocate_on(const ExecContext& ctx, int64_t nbytes);

// A table [part.rows, part.cols] as bf16 on the device of ctx.
Result<Buffer> upload_table(const ExecContext& ctx, const WeightPart& part);

// `parts` below each other as bf16 rows from `to` on, on the device of ctx.
Status place_rows(const ExecContext& ctx, std::span<const WeightPart> parts, void* to);

// How a device keeps a linear weight.
enum class DeviceLinear : uint8_t {
  kBF16,
  kAsStored,  // in the format it is stored in where the kernels read that (device_linear.h), else
              // bf16
  kE4m3,      // as stored where it is quantised already, else e4m3 with a scale per row
};
// OpTable::pack_linear of devices: `parts` stacked row-major. out_features is rounded up to a
// multiple of 8.
Status pack_linear_device(const ExecContext& ctx, std::span<const WeightPart> parts,
                          DeviceLinear keep, LinearWeight& out);

}  // namespace atom
