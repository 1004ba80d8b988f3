#include "atom/model_ops/gpu_backend.h"

#include <dlfcn.h>

#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

namespace atom {
namespace {

namespace fs = std::filesystem;

struct DeviceKind {
  DeviceType type;
  const char* flag;     // value of --device
  const char* library;  // file name of the backend
};

constexpr DeviceKind kKinds[] = {{DeviceType::kCuda, "cuda", "libatom_cuda.so"},
                                 {DeviceType::kHip, "hip", "libatom_hip.so"}};

const DeviceKind& kind_of(DeviceType type) { return kKinds[type == DeviceType::kHip ? 1 : 0]; }

// Beside the program, or where packages put it; for the Python module, which is in
// lib/pythonX.Y/site-packages/atom, the same places counted from there.
fs::path find_library(const char* name) {
  std::error_code error;
  std::vector<fs::path> places;
  if (const fs::path program = fs::read_symlink("/proc/self/exe", error); !error) {
    const fs::path folder = program.parent_path();
    places = {folder / name, folder / "../lib/atom" / name, folder / "../lib" / name};
  }
  Dl_info self{};
  if (dladdr(reinterpret_cast<const void*>(&kKinds), &self) != 0 && self.dli_fname != nullptr) {
    const fs::path folder = fs::path(self.dli_fname).parent_path();
    places.push_back(folder / name);
    places.push_back(folder / "../../../atom" / name);
  }
  for (const fs::path& place : places) {
    if (fs::exists(place, error)) {
      return place;
    }
  }
  return {};
}

Result<const GpuBackend*> load(const DeviceKind& kind) {
  const fs::path path = find_library(kind.library);
  if (path.empty()) {
    return make_error(ErrorCode::kNotFound,
                      "--device {}: no {} beside the program: this is a build for the CPU alone",
                      kind.flag, kind.library);
  }
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return make_error(ErrorCode::kUnsupported, "--device {}: {}", kind.flag, dlerror());
  }
  const auto entry = reinterpret_cast<GpuBackendEntry>(dlsym(handle, kGpuBackendSymbol));
  const GpuBackend* backend = entry == nullptr ? nullptr : entry();
  if (backend == nullptr || backend->abi != kGpuBackendAbi ||
      std::string_view(backend->version) != ATOM_VERSION) {
    return make_error(ErrorCode::kUnsupported,
                      "--device {}: {} belongs to another version of the program (this is {})",
                      kind.flag, path.lexically_normal().string(), ATOM_VERSION);
  }
  return backend;
}

Status check(const DeviceKind& kind, ErrorCode code, std::string_view doing, DeviceStatus failed) {
  if (failed == nullptr) {
    return {};
  }
  return make_error(code, "--device {}: {}{}{}", kind.flag, doing, doing.empty() ? "" : ": ",
                    failed);
}

}  // namespace

std::vector<std::string> missing_ops(const GpuBackend& backend) {
  const OpTable& ops = *backend.op_table(3);
  const std::pair<const char*, bool> entries[] = {
      {"linear", ops.linear != nullptr},
      {"embedding", ops.embedding != nullptr},
      {"rms_norm", ops.rms_norm != nullptr},
      {"add_rms_norm", ops.add_rms_norm != nullptr},
      {"silu_mul", ops.silu_mul != nullptr},
      {"rope_cos_sin", ops.rope_cos_sin != nullptr},
      {"qk_norm_rope_kv_write", ops.qk_norm_rope_kv_write != nullptr},
      {"paged_attention", ops.paged_attention != nullptr},
      {"gather_rows", ops.gather_rows != nullptr},
      {"prepare_step", backend.prepare_step != nullptr},
      {"publish_step", backend.publish_step != nullptr},
      {"fill_random", ops.fill_random != nullptr},
      {"sample_tokens", backend.sample_tokens != nullptr},
  };
  std::vector<std::string> missing;
  for (const auto& [name, present] : entries) {
    if (!present) {
      missing.emplace_back(name);
    }
  }
  return missing;
}

Result<GpuDevice> use_gpu(const GpuBackend& backend, DeviceType type, int index) {
  const DeviceKind& kind = kind_of(type);
  const DeviceRuntime& runtime = *backend.runtime;
  ATOM_RETURN_IF_ERROR(check(kind, ErrorCode::kUnsupported, "", runtime.probe()));
  int count = 0;
  ATOM_RETURN_IF_ERROR(
      check(kind, ErrorCode::kUnsupported, "no device", runtime.device_count(&count)));
  if (index >= count) {
    return make_error(ErrorCode::kUnsupported, "--device {}: device {} of {} is not there",
                      kind.flag, index, count);
  }
  GpuDevice gpu{.backend = &backend, .device = {.type = type, .index = index}, .properties = {}};
  ATOM_RETURN_IF_ERROR(check(kind, ErrorCode::kUnsupported, "device properties",
                             runtime.properties(index, &gpu.properties)));
  if (!backend.supports(gpu.properties)) {
    return make_error(ErrorCode::kUnsupported,
                      "--device {}: {} has compute capability {}.{}; this build has kernels for {}",
                      kind.flag, gpu.properties.name, gpu.properties.compute_major,
                      gpu.properties.compute_minor, backend.architectures);
  }
  ATOM_RETURN_IF_ERROR(check(kind, ErrorCode::kResourceExhausted,
                             str_format("{} cannot be used", gpu.properties.name),
                             runtime.set_device(index)));
  return gpu;
}

Result<GpuDevice> open_gpu(DeviceType type, int index) {
  ATOM_ASSIGN_OR_RETURN(const GpuBackend* backend, load(kind_of(type)));
  return use_gpu(*backend, type, index);
}

}  // namespace atom
