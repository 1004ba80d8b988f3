#include "tests/support/fake_device.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "atom/model_ops/ops.h"
#include "tests/support/fake_sampler.h"

namespace atom::testing_support {
namespace {

constexpr int64_t kDefaultMemory = int64_t{1} << 30;
constexpr int64_t kScratchBytes = 64 << 20;  // of one CPU op
constexpr int kOpLevel = 3;
constexpr int64_t kMaxFusedTokens = 8;  // so that small and large steps take different ways

using Task = std::function<void()>;

struct Stream;

struct Event {
  bool done = true;  // an event that was never recorded does not hold anybody up
  Stream* stream = nullptr;
};

struct Graph {
  std::vector<Task> tasks;
};

struct Stream {
  std::deque<Task> tasks;
  Graph* capturing = nullptr;
};

struct State {
  std::recursive_mutex mutex;
  std::map<char*, int64_t> device, pinned;  // address -> bytes
  std::vector<Stream*> streams;
  int64_t total_memory = kDefaultMemory;
  int64_t calls_until_failure = 0;
  const char* probe_failure = nullptr;
  FakeDeviceStats stats;
  Arena scratch;
};

State& state() {
  static State instance;
  return instance;
}

// One planted fault: counts down on every call that may fail.
DeviceStatus fault() {
  State& s = state();
  if (s.calls_until_failure > 0 && --s.calls_until_failure == 0) {
    return "planted failure";
  }
  return nullptr;
}

#define FAKE_CALL()                          \
  const std::lock_guard lock(state().mutex); \
  if (const DeviceStatus planted = fault()) return planted

Stream* stream_of(DeviceStream stream) { return static_cast<Stream*>(stream); }
Event* event_of(DeviceEvent event) { return static_cast<Event*>(event); }

void run_all(Stream* stream) {
  while (!stream->tasks.empty()) {
    const Task task = std::move(stream->tasks.front());
    stream->tasks.pop_front();
    task();
  }
}

// Runs what leads to the event, and nothing else.
void run_until(Event* event) {
  while (!event->done) {
    ATOM_CHECK(!event->stream->tasks.empty()) << "an event that nobody will record";
    const Task task = std::move(event->stream->tasks.front());
    event->stream->tasks.pop_front();
    task();
  }
}

void enqueue(DeviceStream stream, Task task) {
  Stream* to = stream_of(stream);
  ATOM_CHECK(to != nullptr) << "the default stream is not used";
  if (to->capturing != nullptr) {
    to->capturing->tasks.push_back(std::move(task));
  } else {
    to->tasks.push_back(std::move(task));
  }
}

bool is_in(const std::map<char*, int64_t>& ranges, const void* address) {
  auto* data = static_cast<char*>(const_cast<void*>(address));
  auto after = ranges.upper_bound(data);
  return after != ranges.begin() && data < std::prev(after)->first + std::prev(after)->second;
}

// --- the runtime ---

DeviceStatus probe() { return state().probe_failure; }

DeviceStatus device_count(int* count) {
  *count = 1;
  return nullptr;
}

DeviceStatus properties(int, DeviceProperties* out) {
  *out = {.compute_major = 9, .num_multiprocessors = 4, .total_memory = state().total_memory};
  std::strcpy(out->name, "fake");
  return nullptr;
}

DeviceStatus set_device(int) { return nullptr; }

DeviceStatus memory_info(int64_t* free_bytes, int64_t* total_bytes) {
  FAKE_CALL();
  *total_bytes = state().total_memory;
  *free_bytes = state().total_memory - state().stats.allocated_bytes;
  return nullptr;
}

DeviceStatus allocate_in(std::map<char*, int64_t>& ranges, int64_t nbytes, void** out) {
  const auto aligned = static_cast<size_t>((nbytes + 255) / 256 * 256);
  *out = std::aligned_alloc(256, aligned);
  std::memset(*out, 0xff, static_cast<size_t>(nbytes));  // NaN in every float format, -1 as index
  ranges[static_cast<char*>(*out)] = nbytes;
  return nullptr;
}

DeviceStatus allocate(int64_t nbytes, void** out) {
  FAKE_CALL();
  State& s = state();
  if (s.stats.allocated_bytes + nbytes > s.total_memory) {
    return "out of memory";
  }
  s.stats.allocated_bytes += nbytes;
  return allocate_in(s.device, nbytes, out);
}

DeviceStatus allocate_pinned(int64_t nbytes, void** out) {
  FAKE_CALL();
  return allocate_in(state().pinned, nbytes, out);
}

void release(std::map<char*, int64_t>& ranges, void* data) {
  for (Stream* stream : state().streams) {  // as cudaFree: waits for the device
    run_all(stream);
  }
  ATOM_CHECK(ranges.erase(static_cast<char*>(data)) == 1) << "not allocated here";
  std::free(data);
}

DeviceStatus deallocate(void* data) {
  const std::lock_guard lock(state().mutex);
  state().stats.allocated_bytes -= state().device[static_cast<char*>(data)];
  release(state().device, data);
  return nullptr;
}

DeviceStatus deallocate_pinned(void* data) {
  const std::lock_guard lock(state().mutex);
  release(state().pinned, data);
  return nullptr;
}

DeviceStatus create_stream(DeviceStream* out) {
  FAKE_CALL();
  auto* stream = new Stream;
  state().streams.push_back(stream);
  *out = stream;
  return nullptr;
}

DeviceStatus destroy_stream(DeviceStream stream) {
  const std::lock_guard lock(state().mutex);
  run_all(stream_of(stream));
  std::erase(state().streams, stream_of(stream));
  delete stream_of(stream);
  return nullptr;
}

DeviceStatus synchronize(DeviceStream stream) {
  FAKE_CALL();
  ATOM_CHECK(stream_of(stream)->capturing == nullptr) << "synchronize during a capture";
  run_all(stream_of(stream));
  return nullptr;
}

DeviceStatus copy_async(void* to, const void* from, int64_t nbytes, DeviceStream stream) {
  FAKE_CALL();
  const State& s = state();
  ATOM_CHECK(is_in(s.device, to) || is_in(s.pinned, to)) << "copy to memory of nobody";
  if (is_in(s.device, from) || is_in(s.pinned, from)) {
    enqueue(stream, [=] { std::memmove(to, from, static_cast<size_t>(nbytes)); });
    return nullptr;
  }
  const auto* bytes = static_cast<const char*>(from);
  enqueue(stream, [to, copy = std::vector<char>(bytes, bytes + nbytes)] {
    std::memcpy(to, copy.data(), copy.size());
  });
  return nullptr;
}

DeviceStatus fill_async(void* to, int byte, int64_t nbytes, DeviceStream stream) {
  FAKE_CALL();
  enqueue(stream, [=] { std::memset(to, byte, static_cast<size_t>(nbytes)); });
  return nullptr;
}

DeviceStatus create_event(bool, DeviceEvent* out) {
  FAKE_CALL();
  *out = new Event;
  return nullptr;
}

DeviceStatus destroy_event(DeviceEvent event) {
  const std::lock_guard lock(state().mutex);
  if (!event_of(event)->done) {
    run_until(event_of(event));
  }
  delete event_of(event);
  return nullptr;
}

DeviceStatus record_event(DeviceEvent event, DeviceStream stream) {
  FAKE_CALL();
  ATOM_CHECK(stream_of(stream)->capturing == nullptr) << "events stay outside of captured steps";
  Event* e = event_of(event);
  if (!e->done) {  // recorded again before anybody waited: what the first one stood for goes first
    run_until(e);
  }
  *e = {.done = false, .stream = stream_of(stream)};
  enqueue(stream, [e] { e->done = true; });
  return nullptr;
}

DeviceStatus wait_event(DeviceStream stream, DeviceEvent event) {
  FAKE_CALL();
  Event* e = event_of(event);
  enqueue(stream, [e] { run_until(e); });
  return nullptr;
}

DeviceStatus synchronize_event(DeviceEvent event) {
  FAKE_CALL();
  run_until(event_of(event));
  return nullptr;
}

DeviceStatus query_event(DeviceEvent event, bool* done) {
  FAKE_CALL();
  run_until(event_of(event));  // the device is done just now
  *done = true;
  return nullptr;
}

DeviceStatus elapsed_ms(DeviceEvent, DeviceEvent, float* out) {
  *out = 0.0F;
  return nullptr;
}

DeviceStatus begin_capture(DeviceStream stream) {
  FAKE_CALL();
  stream_of(stream)->capturing = new Graph;
  ++state().stats.captures;
  return nullptr;
}

DeviceStatus end_capture(DeviceStream stream, DeviceGraph* out) {
  const std::lock_guard lock(state().mutex);
  *out = std::exchange(stream_of(stream)->capturing, nullptr);
  if (const DeviceStatus planted = fault()) {
    delete static_cast<Graph*>(std::exchange(*out, nullptr));
    return planted;
  }
  return nullptr;
}

DeviceStatus launch_graph(DeviceGraph graph, DeviceStream stream) {
  FAKE_CALL();
  ++state().stats.graph_launches;
  const auto* tasks = &static_cast<Graph*>(graph)->tasks;
  enqueue(stream, [tasks] {
    for (const Task& task : *tasks) {
      task();
    }
  });
  return nullptr;
}

DeviceStatus destroy_graph(DeviceGraph graph) {
  const std::lock_guard lock(state().mutex);
  for (Stream* stream : state().streams) {
    run_all(stream);
  }
  delete static_cast<Graph*>(graph);
  return nullptr;
}

thread_local DeviceStatus launch_error = nullptr;

DeviceStatus last_launch_error() { return std::exchange(launch_error, nullptr); }

// --- ops: the CPU's, later ---

// Runs `op` with a context of the CPU that has everything the enqueued one had, by value.
template <class Op>
void later(const ExecContext& ctx, Op op) {
  const std::lock_guard lock(state().mutex);
  if (const DeviceStatus planted = fault()) {
    launch_error = planted;
    return;
  }
  ++state().stats.eager_ops;
  AttentionMetadata attention = ctx.attention != nullptr ? *ctx.attention : AttentionMetadata{};
  enqueue(ctx.stream, [op, attention] {
    State& s = state();
    if (s.scratch.capacity() == 0) {
      s.scratch = Arena(std::move(*Buffer::allocate(kScratchBytes)));
    }
    s.scratch.reset();
    // One thread: this may run inside somebody's parallel loop.
    ExecContext cpu{
        .ops = &cpu_op_table(kOpLevel), .arena = &s.scratch, .attention = &attention, .device = {}};
    op(cpu);
  });
}

Tensor normed(const ExecContext& c, const Tensor& residual, const float* weight, float eps) {
  const Tensor out = c.arena->allocate(DType::kF32, {residual.dim(0), residual.dim(1)});
  c.ops->rms_norm(c, residual, weight, eps, out);
  return out;
}

// The fused ops are what they stand for, one after the other.
void add_fused_ops(OpTable& table) {
  table.max_fused_tokens = kMaxFusedTokens;
  table.norm_linear = [](const ExecContext& ctx, const Tensor& residual, const float* norm_weight,
                         float eps, const LinearWeight& weight, const Tensor& out) {
    later(ctx, [=, &weight](const ExecContext& c) {
      c.ops->linear(c, normed(c, residual, norm_weight, eps), weight, out);
    });
  };
  table.norm_linear_silu_mul = [](const ExecContext& ctx, const Tensor& residual,
                                  const float* norm_weight, float eps, const LinearWeight& weight,
                                  const Tensor& out) {
    later(ctx, [=, &weight](const ExecContext& c) {
      const Tensor gate_up = c.arena->allocate(DType::kF32, {residual.dim(0), weight.out_features});
      c.ops->linear(c, normed(c, residual, norm_weight, eps), weight, gate_up);
      c.ops->silu_mul(c, gate_up, out);
    });
  };
  table.linear_add = [](const ExecContext& ctx, const Tensor& x, const LinearWeight& weight,
                        const Tensor& residual) {
    later(ctx, [=, &weight](const ExecContext& c) {
      const Tensor sum = c.arena->allocate(DType::kF32, {x.dim(0), weight.out_features});
      c.ops->linear(c, x, weight, sum);
      for (int64_t i = 0; i < sum.numel(); ++i) {
        residual.data_as<float>()[i] += sum.data_as<float>()[i];
      }
    });
  };
}

OpTable make_ops() {
  OpTable table;
  table.name = "fake";
  table.max_head_dim = cpu_op_table(kOpLevel).max_head_dim;
  table.pack_linear = [](const ExecContext& ctx, std::span<const WeightPart> parts,
                         ComputeType compute, LinearWeight& out) {
    ExecContext cpu{.ops = &cpu_op_table(kOpLevel), .parallel = ctx.parallel, .device = {}};
    // Dummy weights were made on this "device".
    if (ctx.stream != nullptr) {
      synchronize(ctx.stream);
    }
    return cpu.ops->pack_linear(cpu, parts, compute, out);
  };
  table.linear = [](const ExecContext& ctx, const Tensor& x, const LinearWeight& weight,
                    const Tensor& out) {
    later(ctx, [x, &weight, out](const ExecContext& c) { c.ops->linear(c, x, weight, out); });
  };
  table.embedding = [](const ExecContext& ctx, const Tensor& ids, const Tensor& rows,
                       const Tensor& out) {
    later(ctx, [=](const ExecContext& c) { c.ops->embedding(c, ids, rows, out); });
  };
  table.rms_norm = [](const ExecContext& ctx, const Tensor& x, const float* weight, float eps,
                      const Tensor& out) {
    later(ctx, [=](const ExecContext& c) { c.ops->rms_norm(c, x, weight, eps, out); });
  };
  table.add_rms_norm = [](const ExecContext& ctx, const Tensor& x, const Tensor& residual,
                          const float* weight, float eps, const Tensor& out) {
    later(ctx,
          [=](const ExecContext& c) { c.ops->add_rms_norm(c, x, residual, weight, eps, out); });
  };
  table.silu_mul = [](const ExecContext& ctx, const Tensor& gate_up, const Tensor& out) {
    later(ctx, [=](const ExecContext& c) { c.ops->silu_mul(c, gate_up, out); });
  };
  table.rope_cos_sin = [](const ExecContext& ctx, std::span<const float> inv_freq, float scale,
                          const Tensor& cos_sin) {
    later(ctx, [inv = std::vector<float>(inv_freq.begin(), inv_freq.end()), scale,
                cos_sin](const ExecContext& c) { c.ops->rope_cos_sin(c, inv, scale, cos_sin); });
  };
  table.qk_norm_rope_kv_write = [](const ExecContext& ctx, const QkNormRopeKvWriteParams& params) {
    later(ctx, [=](const ExecContext& c) { c.ops->qk_norm_rope_kv_write(c, params); });
  };
  table.paged_attention = [](const ExecContext& ctx, const PagedAttentionParams& params) {
    later(ctx, [=](const ExecContext& c) { c.ops->paged_attention(c, params); });
  };
  add_fused_ops(table);
  table.fill_random = [](const ExecContext& ctx, uint64_t seed, float limit, const Tensor& out) {
    later(ctx, [=](const ExecContext& c) { c.ops->fill_random(c, seed, limit, out); });
  };
  table.gather_rows = [](const ExecContext& ctx, const Tensor& x, const Tensor& rows,
                         const Tensor& out) {
    later(ctx, [=](const ExecContext& c) { c.ops->gather_rows(c, x, rows, out); });
  };
  return table;
}

const OpTable* op_table(int) {
  static const OpTable table = make_ops();
  return &table;
}

const DeviceRuntime& runtime() {
  static const DeviceRuntime table{.name = "fake",
                                   .probe = probe,
                                   .device_count = device_count,
                                   .properties = properties,
                                   .set_device = set_device,
                                   .memory_info = memory_info,
                                   .allocate = allocate,
                                   .deallocate = deallocate,
                                   .allocate_pinned = allocate_pinned,
                                   .deallocate_pinned = deallocate_pinned,
                                   .create_stream = create_stream,
                                   .destroy_stream = destroy_stream,
                                   .synchronize = synchronize,
                                   .copy_async = copy_async,
                                   .fill_async = fill_async,
                                   .create_event = create_event,
                                   .destroy_event = destroy_event,
                                   .record_event = record_event,
                                   .wait_event = wait_event,
                                   .query_event = query_event,
                                   .synchronize_event = synchronize_event,
                                   .elapsed_ms = elapsed_ms,
                                   .begin_capture = begin_capture,
                                   .end_capture = end_capture,
                                   .launch_graph = launch_graph,
                                   .destroy_graph = destroy_graph,
                                   .last_launch_error = last_launch_error};
  return table;
}

template <class Args, void (*Run)(const Args&)>
void launch(const Args& args, DeviceStream stream) {
  const std::lock_guard lock(state().mutex);
  enqueue(stream, [args] { Run(args); });
}

void launch_sample(const gpu::SampleTokensArgs& args, int32_t max_rows, DeviceStream stream) {
  ATOM_CHECK(args.num_rows <= max_rows) << args.num_rows;
  launch<gpu::SampleTokensArgs, fake_sample_tokens>(args, stream);
}

}  // namespace

const GpuBackend& fake_backend() {
  static const GpuBackend backend{
      .version = ATOM_VERSION,
      .runtime = &runtime(),
      .architectures = "fake",
      .supports = [](const DeviceProperties&) { return true; },
      .op_table = op_table,
      .create_context =
          [](const GpuContextOptions&, void** out) {
            *out = nullptr;
            return DeviceStatus{};
          },
      .destroy_context = [](void*) {},
      .prepare_step = launch<gpu::PrepareStepArgs, fake_prepare_step>,
      .publish_step = launch<gpu::PublishStepArgs, fake_publish_step>,
      .sampler_workspace_bytes = [](int32_t, int32_t) { return int64_t{64}; },
      .sample_tokens = launch_sample,
      .set_token_counts = launch<gpu::SetTokenCountsArgs, fake_set_token_counts>};
  return backend;
}

void reset_fake_device() {
  State& s = state();
  s.total_memory = kDefaultMemory;
  s.calls_until_failure = 0;
  s.probe_failure = nullptr;
  s.stats = {.allocated_bytes = s.stats.allocated_bytes};
}

void set_fake_memory(int64_t total_bytes) { state().total_memory = total_bytes; }
void fail_fake_device_after(int64_t num_calls) { state().calls_until_failure = num_calls; }
void set_fake_probe_failure(const char* text) { state().probe_failure = text; }
const FakeDeviceStats& fake_device_stats() { return state().stats; }

}  // namespace atom::testing_support
