#include "kernels/gpu/linear/library.h"

#include <cublasLt.h>
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <vector>

#include "kernels/gpu/vector_ops.h"

namespace atom::gpu {
namespace {

constexpr int kProposals = 8;
constexpr int kTimedRuns = 4;
// Runs longer than this are precise: one is timed, so that a first step of many tokens does not
// stall for a tenth of a second.
constexpr float kPreciseMs = 0.1F;
constexpr float kNever = 1e30F;
constexpr float kHopeless =
    1.5F;  // slower than the best by this at the first run: not timed further

// The functions used, under their own names.
struct Functions {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulDescCreate) describe = nullptr;
  decltype(&cublasLtMatmulDescDestroy) forget = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) set_description = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) create_layout = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_layout = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) propose = nullptr;
  DeviceStatus missing = nullptr;
};

template <class Function>
bool find(void* library, const char* name, Function& out) {
  out = reinterpret_cast<Function>(dlsym(library, name));
  return out != nullptr;
}

Functions open_functions() {
  Functions f;
  void* library = nullptr;
  for (const char* name :
       {"libcublasLt.so.13", "/usr/local/cuda/lib64/libcublasLt.so.13", "libcublasLt.so"}) {
    library = library != nullptr ? library : dlopen(name, RTLD_NOW | RTLD_LOCAL);
  }
  if (library == nullptr) {
    f.missing = "libcublasLt.so.13 was not found";
    return f;
  }
  const bool whole = find(library, "cublasLtCreate", f.create) &&
                     find(library, "cublasLtDestroy", f.destroy) &&
                     find(library, "cublasLtMatmul", f.matmul) &&
                     find(library, "cublasLtMatmulDescCreate", f.describe) &&
                     find(library, "cublasLtMatmulDescDestroy", f.forget) &&
                     find(library, "cublasLtMatmulDescSetAttribute", f.set_description) &&
                     find(library, "cublasLtMatrixLayoutCreate", f.create_layout) &&
                     find(library, "cublasLtMatrixLayoutDestroy", f.destroy_layout) &&
                     find(library, "cublasLtMatmulPreferenceCreate", f.create_preference) &&
                     find(library, "cublasLtMatmulPreferenceDestroy", f.destroy_preference) &&
                     find(library, "cublasLtMatmulPreferenceSetAttribute", f.set_preference) &&
                     find(library, "cublasLtMatmulAlgoGetHeuristic", f.propose);
  f.missing = whole ? nullptr : "libcublasLt lacks a function";
  return f;
}

const Functions& functions() {
  static const Functions found = open_functions();
  return found;
}

cudaDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kF8E4M3:
      return CUDA_R_8F_E4M3;
    default:
      return CUDA_R_16BF;
  }
}

bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream, &capture) != cudaSuccess ||
         capture != cudaStreamCaptureStatusNone;
}

}  // namespace

struct MatrixLibrary::Algorithm {
  cublasLtMatmulAlgo_t value;
  // The scales of an e4m3 product are applied by a kernel behind it: for few tokens the library has
  // far faster kernels without scales (8B layer, 64 tokens: 66 us instead of 105).
  bool scales_after = false;
};

// The library's description of a product. It counts by columns: its A is our weight, its B our x.
struct MatrixLibrary::Problem {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t weight = nullptr;
  cublasLtMatrixLayout_t x = nullptr;
  cublasLtMatrixLayout_t out = nullptr;

  ~Problem() {
    const Functions& f = functions();
    if (product != nullptr) f.forget(product);
    for (cublasLtMatrixLayout_t layout : {weight, x, out}) {
      if (layout != nullptr) f.destroy_layout(layout);
    }
  }

  template <class T>
  bool set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    return functions().set_description(product, attribute, &value, sizeof(value)) ==
           CUBLAS_STATUS_SUCCESS;
  }

  bool describe(const LibraryProduct& p, bool with_scales) {
    const Functions& f = functions();
    const auto n = static_cast<uint64_t>(p.out_features);
    const auto m = static_cast<uint64_t>(p.num_tokens);
    const auto k = static_cast<uint64_t>(p.in_features);
    const cudaDataType_t in = type_of(p.dtype);
    bool good =
        f.describe(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
        set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T) &&
        f.create_layout(&weight, in, k, n, p.in_features) == CUBLAS_STATUS_SUCCESS &&
        f.create_layout(&x, in, k, m, p.in_features) == CUBLAS_STATUS_SUCCESS &&
        f.create_layout(&out, type_of(p.out_dtype), n, m,
                        p.out_stride > 0 ? p.out_stride : p.out_features) == CUBLAS_STATUS_SUCCESS;
    if (good && with_scales && p.x_scales != nullptr) {
      const auto per_row = static_cast<int32_t>(CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
      good = set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, per_row) &&
             set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, per_row) &&
             set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.weight_scales) &&
             set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.x_scales);
    }
    return good;
  }
};

MatrixLibrary::MatrixLibrary(void* workspace, int64_t workspace_bytes)
    : workspace_(workspace), workspace_bytes_(workspace_bytes), status_(functions().missing) {
  cublasLtHandle_t handle = nullptr;
  if (status_ == nullptr && functions().create(&handle) != CUBLAS_STATUS_SUCCESS) {
    status_ = "cublasLtCreate failed";
  }
  handle_ = handle;
}

MatrixLibrary::~MatrixLibrary() {
  for (const auto& [key, algorithm] : chosen_) {
    delete algorithm;
  }
  for (cudaEvent_t event : {begin_, end_}) {
    if (event != nullptr) {
      cudaEventDestroy(event);
    }
  }
  if (handle_ != nullptr) {
    functions().destroy(static_cast<cublasLtHandle_t>(handle_));
  }
}

// Best algorithms differ from tile to tile of 128 rows where products are short, and little beyond.
int64_t MatrixLibrary::last_of_bucket(int64_t num_tokens) {
  for (const int64_t last : {32, 48, 64, 96}) {
    if (num_tokens <= last) {
      return last;
    }
  }
  int64_t step = 128;
  while (num_tokens > 8 * step) {
    step *= 2;
  }
  return (num_tokens + step - 1) / step * step;
}

DeviceStatus MatrixLibrary::run(Problem& problem, const LibraryProduct& p,
                                const Algorithm& algorithm, DeviceStream stream) {
  const float one = 1.0F;
  const float zero = 0.0F;
  const cublasStatus_t status = functions().matmul(
      static_cast<cublasLtHandle_t>(handle_), problem.product, &one, p.weight, problem.weight, p.x,
      problem.x, &zero, p.out, problem.out, p.out, problem.out, &algorithm.value, workspace_,
      static_cast<size_t>(workspace_bytes_), static_cast<cudaStream_t>(stream));
  if (status != CUBLAS_STATUS_SUCCESS) {
    return "cublasLtMatmul failed";
  }
  return algorithm.scales_after && !p.leaves_scales ? scale_outer({.row_scales = p.x_scales,
                                                                   .column_scales = p.weight_scales,
                                                                   .out = p.out,
                                                                   .dtype = p.out_dtype,
                                                                   .num_rows = p.num_tokens,
                                                                   .size = p.out_features},
                                                                  stream)
                                                    : nullptr;
}

// What the library proposes for the problem, best first by its own guess.
std::vector<MatrixLibrary::Algorithm> MatrixLibrary::propose(const Problem& problem,
                                                             bool scales_after) const {
  const Functions& f = functions();
  cublasLtMatmulPreference_t preference = nullptr;
  std::array<cublasLtMatmulHeuristicResult_t, kProposals> proposals;
  int count = 0;
  const auto most = static_cast<size_t>(workspace_bytes_);
  const bool proposed = f.create_preference(&preference) == CUBLAS_STATUS_SUCCESS &&
                        f.set_preference(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &most, sizeof(most)) == CUBLAS_STATUS_SUCCESS &&
                        f.propose(static_cast<cublasLtHandle_t>(handle_), problem.product,
                                  problem.weight, problem.x, problem.out, problem.out, preference,
                                  kProposals, proposals.data(), &count) == CUBLAS_STATUS_SUCCESS;
  if (preference != nullptr) {
    f.destroy_preference(preference);
  }
  std::vector<Algorithm> result;
  for (int i = 0; proposed && i < count; ++i) {
    result.push_back(
        {.value = proposals[static_cast<size_t>(i)].algo, .scales_after = scales_after});
  }
  return result;
}

// Of one algorithm, without waiting for more runs than it takes to see that it is no match for
// `best`; large where it fails.
float MatrixLibrary::time_of(Problem& problem, const LibraryProduct& product,
                             const Algorithm& algorithm, DeviceStream device_stream, float best) {
  auto* stream = static_cast<cudaStream_t>(device_stream);
  float fastest = kNever;
  int runs = kTimedRuns;
  for (int i = 0; i <= runs; ++i) {  // the first warms up
    float ms = 0.0F;
    // Weights come from memory in a step: the workspace is as large as the second cache level.
    cudaMemsetAsync(workspace_, 0, static_cast<size_t>(workspace_bytes_), stream);
    cudaEventRecord(begin_, stream);
    const DeviceStatus failed = run(problem, product, algorithm, device_stream);
    cudaEventRecord(end_, stream);
    if (failed != nullptr || cudaEventSynchronize(end_) != cudaSuccess ||
        cudaEventElapsedTime(&ms, begin_, end_) != cudaSuccess) {
      (void)cudaGetLastError();
      return kNever;
    }
    if (i == 0 && ms > kHopeless * best) {
      return kNever;
    }
    if (i == 0 && ms > kPreciseMs) {
      runs = 1;
    }
    fastest = i > 0 ? std::min(fastest, ms) : fastest;
  }
  return fastest;
}

DeviceStatus MatrixLibrary::choose(const LibraryProduct& product, DeviceStream stream,
                                   Algorithm& out) {
  const bool capturing = is_capturing(static_cast<cudaStream_t>(stream));
  if (begin_ == nullptr &&
      (cudaEventCreate(&begin_) != cudaSuccess || cudaEventCreate(&end_) != cudaSuccess)) {
    return "cudaEventCreate failed";
  }
  bool found = false;
  float best = kNever;
  for (const bool scales_after : {false, true}) {
    Problem problem;
    if ((scales_after && product.x_scales == nullptr) ||
        !problem.describe(product, !scales_after)) {
      continue;
    }
    for (const Algorithm& candidate : propose(problem, scales_after)) {
      if (capturing) {  // nothing can be timed: the first
        out = candidate;
        return nullptr;
      }
      const float ms = time_of(problem, product, candidate, stream, best);
      if (!found || ms < best) {
        found = true;
        best = ms;
        out = candidate;
      }
    }
  }
  return found ? nullptr : "cublasLt has no algorithm for the product";
}

DeviceStatus MatrixLibrary::multiply(const LibraryProduct& product, DeviceStream stream,
                                     bool& has_scales) {
  if (status_ != nullptr) {
    return status_;
  }
  const Key key{product.out_features,
                product.in_features,
                last_of_bucket(product.num_tokens),
                static_cast<int>(product.dtype),
                static_cast<int>(product.out_dtype),
                product.leaves_scales};
  const auto run_with = [&](const Algorithm& algorithm) -> DeviceStatus {
    Problem problem;
    has_scales = !(algorithm.scales_after && product.leaves_scales);
    return problem.describe(product, !algorithm.scales_after)
               ? run(problem, product, algorithm, stream)
               : "cublasLt refuses the product";
  };
  const auto found = chosen_.find(key);
  if (found != chosen_.end() && run_with(*found->second) == nullptr) {
    return nullptr;
  }
  Algorithm algorithm;
  if (const DeviceStatus failed = choose(product, stream, algorithm)) {
    return failed;
  }
  // What was not timed, or holds for part of a bucket only, is asked for again.
  if (found == chosen_.end() && !is_capturing(static_cast<cudaStream_t>(stream))) {
    chosen_[key] = new Algorithm(algorithm);
  }
  return run_with(algorithm);
}

}  // namespace atom::gpu
