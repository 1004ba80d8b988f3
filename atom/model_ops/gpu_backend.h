// GpuBackend: what libatom_cuda.so (or libatom_hip.so) offers, as one table, and how it is found
// and opened at run time. The program links no vendor library: without device, driver or backend
// file it runs on the CPU. The backend is built from the same tree by the same compiler, so the
// table may use the engine's own structs; `abi` and `version` refuse any other. To add an entry: a
// field at the end, kGpuBackendAbi, the backend (model_ops/gpu) and the fake (tests/support).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "atom/core/error.h"
#include "atom/model_ops/ops.h"
#include "kernels/common/device_runtime.h"
#include "kernels/common/device_tracer.h"
#include "kernels/gpu/sampler.h"
#include "kernels/gpu/step.h"

namespace atom {

inline constexpr uint32_t kGpuBackendAbi = 5;

// Limits that a backend context is made for; what it allocates counts as workspace.
struct GpuContextOptions {
  int device = 0;
  int64_t max_tokens = 0;  // of one step
  int64_t max_seqs = 0;
  int64_t max_model_len = 0;
  int64_t block_size = 0;
  DType kv_dtype = DType::kBF16;
  // Of the model.
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  bool latent_attention = false;  // MLA: head_dim is that of queries, nothing is cached per head
  bool fp8_weights = false;       // with a scale per row
  bool packed_weights = false;    // other quantised ones (kernels/gpu/linear_layout.h)
  bool deterministic = false;     // results do not depend on what else is in the batch
};

struct GpuBackend {
  uint32_t abi = kGpuBackendAbi;  // these two come first and never move
  const char* version = nullptr;  // ATOM_VERSION of the build

  const DeviceRuntime* runtime = nullptr;
  // Compute capabilities that the kernels were built for, as "9.0a, 8.0".
  const char* architectures = nullptr;
  bool (*supports)(const DeviceProperties& device) = nullptr;

  // Level 0: the plain portable kernels; else the best of this device.
  const OpTable* (*op_table)(int level) = nullptr;
  // What the ops keep between calls (ExecContext::backend): library handles, counters, scratch.
  // Refuses a model that the kernels do not take.
  DeviceStatus (*create_context)(const GpuContextOptions& options, void** out) = nullptr;
  void (*destroy_context)(void* context) = nullptr;

  // Inputs and outputs of a step that stay on the device (kernels/gpu/step.h).
  void (*prepare_step)(const gpu::PrepareStepArgs& args, DeviceStream stream) = nullptr;
  void (*publish_step)(const gpu::PublishStepArgs& args, DeviceStream stream) = nullptr;
  // Sampling (kernels/gpu/sampler.h).
  int64_t (*sampler_workspace_bytes)(int32_t max_rows, int32_t vocab_size) = nullptr;
  void (*sample_tokens)(const gpu::SampleTokensArgs& args, int32_t max_rows,
                        DeviceStream stream) = nullptr;
  void (*set_token_counts)(const gpu::SetTokenCountsArgs& args, DeviceStream stream) = nullptr;

  // Once, after a step of the most tokens has run: chooses what is chosen by timing, for steps of
  // any size. `scratch`: as much as that step's activations took. May be nullptr.
  DeviceStatus (*tune)(void* context, void* scratch, int64_t scratch_bytes,
                       DeviceStream stream) = nullptr;
  // What the device does and when, for the profiler; nullptr: cannot be traced.
  const DeviceTracer* tracer = nullptr;
};

// The one symbol that a backend exports.
inline constexpr const char* kGpuBackendSymbol = "atom_gpu_backend";
using GpuBackendEntry = const GpuBackend* (*)();

// A device that can be used, with its backend. The backend stays loaded until the process ends.
struct GpuDevice {
  const GpuBackend* backend = nullptr;
  Device device;
  DeviceProperties properties;
};

// Opens the backend of `type` beside the program (or in ../lib/atom) and binds this thread to
// device `index`. The error says what is missing: backend file, driver, device, capability, memory.
Result<GpuDevice> open_gpu(DeviceType type, int index);

// The same for a backend that is already there; what open_gpu checks after loading the file.
Result<GpuDevice> use_gpu(const GpuBackend& backend, DeviceType type, int index);

// Ops and functions that this backend lacks, by name; empty when a model can run.
std::vector<std::string> missing_ops(const GpuBackend& backend);

}  // namespace atom
