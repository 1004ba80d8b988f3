// The backend on a real device: memory, streams, graphs, and the step kernels against the fake
// device's. Runs where libatom_cuda.so lies beside the test and a device is there; is skipped, with
// the reason, elsewhere. Ops are in tests/conformance, whole models in gpu_engine.
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <random>

#include "atom/core/thread_pool.h"
#include "atom/model_engine/step_buffers.h"
#include "atom/model_engine/step_staging.h"
#include "atom/model_ops/device_weights.h"
#include "tests/support/fake_sampler.h"

namespace atom {
namespace {

class Gpu : public testing::Test {
 protected:
  void SetUp() override {
    auto gpu = open_gpu(DeviceType::kCuda, 0);
    if (!gpu) {
      GTEST_SKIP() << gpu.error().message;
    }
    gpu_ = *gpu;
    runtime_ = gpu_.backend->runtime;
    ASSERT_EQ(runtime_->create_stream(&stream_), nullptr);
  }
  void TearDown() override {
    if (stream_ != nullptr) {
      EXPECT_STREQ(runtime_->synchronize(stream_), nullptr);
      EXPECT_EQ(runtime_->destroy_stream(stream_), nullptr);
    }
  }

  Buffer device(int64_t nbytes) { return std::move(*Buffer::allocate_device(*runtime_, nbytes)); }
  template <class T>
  std::vector<T> download(const void* from, int64_t count) {
    std::vector<T> values(static_cast<size_t>(count));
    EXPECT_STREQ(runtime_->copy_async(values.data(), from, count * int64_t{sizeof(T)}, stream_),
                 nullptr);
    EXPECT_STREQ(runtime_->synchronize(stream_), nullptr);
    return values;
  }

  GpuDevice gpu_;
  const DeviceRuntime* runtime_ = nullptr;
  DeviceStream stream_ = nullptr;
};

TEST_F(Gpu, Properties) {
  int64_t free_bytes = 0, total = 0;
  ASSERT_EQ(runtime_->memory_info(&free_bytes, &total), nullptr);
  std::printf("%s, capability %d.%d, %d multiprocessors, %lld of %lld MiB free\n",
              gpu_.properties.name, gpu_.properties.compute_major, gpu_.properties.compute_minor,
              gpu_.properties.num_multiprocessors, static_cast<long long>(free_bytes >> 20),
              static_cast<long long>(total >> 20));
  for (const std::string& op : missing_ops(*gpu_.backend)) {
    std::printf("missing: %s\n", op.c_str());
  }
  EXPECT_GT(free_bytes, 0);
  EXPECT_LE(free_bytes, total);
}

TEST_F(Gpu, OutOfMemoryIsAStatus) {
  void* data = nullptr;
  EXPECT_NE(runtime_->allocate(int64_t{1} << 50, &data), nullptr);
  EXPECT_EQ(runtime_->last_launch_error(), nullptr);
  EXPECT_TRUE(Buffer::allocate_device(*runtime_, 1 << 20));
}

TEST_F(Gpu, UploadsWhatTheCheckpointHolds) {
  ThreadPool pool(std::min(8, available_cpus()));
  auto uploader = DeviceUploader::create(*runtime_, 0, pool.parallel_for());
  ASSERT_TRUE(uploader) << uploader.error().message;
  const int64_t rows = 64 * 1024, cols = 4096;  // 512 MiB
  const Buffer host = std::move(*Buffer::allocate(rows * cols * 2));
  auto* values = static_cast<uint64_t*>(host.data());
  std::mt19937_64 random(1);
  for (int64_t i = 0; i < host.size() / 8; ++i) {
    values[i] = random();
  }
  const Buffer to = device(host.size());
  for (int round = 0; round < 2; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    ASSERT_TRUE(
        (*uploader)->rows_as_bf16({.data = host.data(), .rows = rows, .cols = cols}, to.data()));
    ASSERT_TRUE((*uploader)->finish());
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    std::printf("upload of %lld MiB: %.1f GB/s\n", static_cast<long long>(host.size() >> 20),
                static_cast<double>(host.size()) / seconds * 1e-9);
  }
  const auto back = download<uint64_t>(to.data(), host.size() / 8);
  EXPECT_EQ(0, std::memcmp(back.data(), values, static_cast<size_t>(host.size())));
}

// Steps of random sequences through staging area, copy, prepare_step and publish_step; the first of
// each kind eagerly, then captured. The fake's kernels do the same on the host.
class StepOnGpu : public Gpu {
 protected:
  static constexpr int64_t kSeqs = 37;
  const StagingLimits limits_{
      .max_tokens = 600, .max_seqs = kSeqs, .block_size = 16, .table_stride = 20};

  ScheduledBatch make_batch(uint64_t step) {
    ScheduledBatch batch{.step = step, .sequences = {}};
    for (SequenceId id = 1; id <= kSeqs - step % 3; ++id) {
      const bool pending = step > 0 && id % 2 == 0;
      const int64_t count = pending ? 1 : 1 + static_cast<int64_t>(random_() % 10);
      const int64_t computed = pending ? 200 : static_cast<int64_t>(random_() % 100);
      for (int32_t& block : tables_[id]) {
        block = random_() % 40 == 0 ? static_cast<int32_t>(random_() % 1000) : block;
      }
      batch.sequences.push_back({.id = id,
                                 .token_ids = tokens_,
                                 .pending_row = pending ? static_cast<int32_t>(id - 1) : -1,
                                 .num_prompt_tokens = 10,
                                 .num_computed_tokens = computed,
                                 .num_scheduled_tokens = count,
                                 .block_table = tables_[id],
                                 .sample = true,
                                 .sampling = &params_,
                                 .seed = random_(),
                                 .banned_token_ids = {}});
      batch.num_tokens += count;
    }
    return batch;
  }

  std::mt19937_64 random_{3};
  std::vector<int32_t> tokens_ = std::vector<int32_t>(256, 5);
  std::vector<std::vector<int32_t>> tables_ =
      std::vector<std::vector<int32_t>>(kSeqs + 1, std::vector<int32_t>(20, 1));
  const SamplingParams params_{.logit_bias = {{3, 1.0F}}, .logprobs = 2};
};

TEST_F(StepOnGpu, PrepareAndPublishDoWhatTheFakesDo) {
  StepStaging staging(limits_);
  auto buffers = StepBuffers::allocate(*gpu_.backend, limits_, staging.area_bytes(), 1000);
  ASSERT_TRUE(buffers) << buffers.error().message;
  ASSERT_EQ(runtime_->fill_async(buffers->device.data(), 0, buffers->device.size(), stream_),
            nullptr);
  // The same memory on the host, for the fakes.
  Buffer twin = std::move(*Buffer::allocate(buffers->device.size()));
  Buffer twin_staging = std::move(*Buffer::allocate(2 * staging.area_bytes()));
  Buffer twin_results = std::move(*Buffer::allocate(buffers->results.size()));
  const auto on_host = [&](auto* address) {
    return reinterpret_cast<decltype(address)>(
        static_cast<char*>(twin.data()) +
        (reinterpret_cast<const char*>(address) - static_cast<char*>(buffers->device.data())));
  };
  std::vector<int32_t> sampled(kSeqs);
  DeviceGraph graph = nullptr;
  for (uint64_t step = 0; step < 6; ++step) {
    SCOPED_TRACE(step);
    const ScheduledBatch batch = make_batch(step);
    const std::vector<int32_t> slots(batch.sequences.size(), -1);
    auto staged = staging.write(batch, 0, slots, buffers->host_area(step));
    ASSERT_TRUE(staged) << staged.error().message;
    ASSERT_EQ(runtime_->copy_async(buffers->device_area(step), buffers->host_area(step),
                                   staged->bytes, stream_),
              nullptr);
    std::memcpy(static_cast<char*>(twin_staging.data()) + (step & 1) * staging.area_bytes(),
                buffers->host_area(step), static_cast<size_t>(staged->bytes));
    const auto enqueue = [&] {
      gpu_.backend->prepare_step(buffers->prepare_args(), stream_);
      gpu_.backend->publish_step(buffers->publish_args(), stream_);
    };
    if (step < 2) {
      enqueue();
    } else {
      if (graph == nullptr) {
        ASSERT_EQ(runtime_->begin_capture(stream_), nullptr);
        enqueue();
        ASSERT_STREQ(runtime_->end_capture(stream_, &graph), nullptr);
      }
      ASSERT_STREQ(runtime_->launch_graph(graph, stream_), nullptr);
    }
    ASSERT_STREQ(runtime_->last_launch_error(), nullptr);
    gpu::PrepareStepArgs prepare = buffers->prepare_args();
    prepare.state = on_host(prepare.state);
    prepare.staging = static_cast<const uint8_t*>(twin_staging.data());
    prepare.sampled = on_host(prepare.sampled);
    gpu::StepInputs& in = prepare.inputs;
    in = {on_host(in.token_ids),    on_host(in.positions),    on_host(in.slot_mapping),
          on_host(in.query_start),  on_host(in.context_lens), on_host(in.sample_rows),
          on_host(in.block_tables), in.block_table_stride,    on_host(in.sampling)};
    testing_support::fake_prepare_step(prepare);
    gpu::PublishStepArgs publish = buffers->publish_args();
    publish.state = on_host(publish.state);
    publish.staging = prepare.staging;
    publish.token_ids = on_host(publish.token_ids);
    publish.logprobs = on_host(publish.logprobs);
    publish.top_logprobs = on_host(publish.top_logprobs);
    publish.results = static_cast<uint8_t*>(twin_results.data());
    testing_support::fake_publish_step(publish);
    const auto got = download<uint8_t>(buffers->device.data(), buffers->device.size());
    EXPECT_EQ(0, std::memcmp(got.data(), twin.data(), got.size()));
    const auto area = static_cast<size_t>(gpu::result_bytes(kSeqs));
    EXPECT_EQ(0, std::memcmp(static_cast<char*>(buffers->results.data()) + (step & 1) * area,
                             static_cast<char*>(twin_results.data()) + (step & 1) * area,
                             kSeqs * sizeof(int32_t)));
    for (int32_t& token : sampled) {  // what this step "sampled"
      token = static_cast<int32_t>(random_() % 1000) - 1;
    }
    std::memcpy(on_host(buffers->sampled), sampled.data(), sampled.size() * 4);
    ASSERT_EQ(runtime_->copy_async(buffers->sampled, sampled.data(),
                                   std::ssize(sampled) * int64_t{4}, stream_),
              nullptr);
  }
  if (graph != nullptr) {
    EXPECT_EQ(runtime_->destroy_graph(graph), nullptr);
  }
}

}  // namespace
}  // namespace atom
