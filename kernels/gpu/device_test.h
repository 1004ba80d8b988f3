// What the device tests and benchmarks of kernels share: device arrays, timing, the read roof of
// the card. Not in the product. Every CUDA failure ends the program with its name.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace atom::gpu::device_test {

inline void check(cudaError_t error, const char* call, int line) {
  if (error != cudaSuccess) {
    std::printf("FAILED line %d: %s: %s\n", line, call, cudaGetErrorString(error));
    std::fflush(stdout);
    std::exit(3);
  }
}
#define ATOM_DEVICE(call) ::atom::gpu::device_test::check((call), #call, __LINE__)

inline cudaStream_t stream() {
  static cudaStream_t s = [] {
    cudaStream_t created = nullptr;
    ATOM_DEVICE(cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking));
    return created;
  }();
  return s;
}

// Owned device memory with values of T.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t size) : size_(size) {
    ATOM_DEVICE(
        cudaMalloc(reinterpret_cast<void**>(&data_), std::max<size_t>(size, 1) * sizeof(T)));
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { set(values); }
  ~DeviceArray() { (void)cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  size_t size() const { return size_; }
  void set(const std::vector<T>& values) {
    // On the tests' own stream: a plain copy from pageable memory may return before it has arrived,
    // and this stream would not wait for it.
    ATOM_DEVICE(cudaMemcpyAsync(data_, values.data(), values.size() * sizeof(T),
                                cudaMemcpyHostToDevice, stream()));
    ATOM_DEVICE(cudaStreamSynchronize(stream()));
  }
  void fill(int byte) {
    ATOM_DEVICE(cudaMemsetAsync(data_, byte, size_ * sizeof(T), stream()));
    ATOM_DEVICE(cudaStreamSynchronize(stream()));
  }
  std::vector<T> get() const {
    std::vector<T> values(size_);
    ATOM_DEVICE(cudaStreamSynchronize(stream()));
    ATOM_DEVICE(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

// Microseconds of one launch(i), from graphs of `count` launches; the median of 5.
template <class Launch>
double time_us(int count, const Launch& launch) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  launch(0);
  ATOM_DEVICE(cudaGetLastError());
  ATOM_DEVICE(cudaStreamSynchronize(stream()));
  ATOM_DEVICE(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < count; ++i) {
    launch(i);
  }
  ATOM_DEVICE(cudaStreamEndCapture(stream(), &graph));
  ATOM_DEVICE(cudaGraphInstantiate(&replay, graph, 0));
  ATOM_DEVICE(cudaEventCreate(&begin));
  ATOM_DEVICE(cudaEventCreate(&end));
  ATOM_DEVICE(cudaGraphLaunch(replay, stream()));
  std::vector<float> times;
  for (int round = 0; round < 5; ++round) {
    ATOM_DEVICE(cudaEventRecord(begin, stream()));
    ATOM_DEVICE(cudaGraphLaunch(replay, stream()));
    ATOM_DEVICE(cudaEventRecord(end, stream()));
    ATOM_DEVICE(cudaEventSynchronize(end));
    float ms = 0;
    ATOM_DEVICE(cudaEventElapsedTime(&ms, begin, end));
    times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  ATOM_DEVICE(cudaGraphExecDestroy(replay));
  ATOM_DEVICE(cudaGraphDestroy(graph));
  ATOM_DEVICE(cudaEventDestroy(begin));
  ATOM_DEVICE(cudaEventDestroy(end));
  return static_cast<double>(times[times.size() / 2]) * 1e3 / count;
}

}  // namespace atom::gpu::device_test
