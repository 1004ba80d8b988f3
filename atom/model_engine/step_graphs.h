// The captured decode steps of a GPU model runner, by padded batch size and by whether contexts are
// long: kernels are chosen when a step is captured. A step runs eagerly the first time, is captured
// the second time and replayed from then on. Not here: what a step does. One thread.
#pragma once

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "atom/core/log.h"
#include "atom/model_engine/device_handles.h"
#include "atom/model_engine/scheduled_batch.h"

namespace atom {

class StepGraphs {
 public:
  // Mean context from which a step counts as long; what its kernels are told.
  static constexpr int64_t kLongContext = 1024;

  struct Graph {
    int64_t size = 0;  // sequences, padding included
    bool is_long = false;
    bool has_run = false;  // eagerly, so that kernels are loaded and algorithms chosen
    OwnedGraph graph;
  };

  explicit StepGraphs(const DeviceRuntime& runtime) : runtime_(runtime) {}

  void add_size(int64_t size) {
    for (const bool is_long : {false, true}) {
      graphs_[{is_long, size}] = {.size = size, .is_long = is_long};
    }
  }
  std::vector<int64_t> sizes() const {
    std::vector<int64_t> sizes;
    for (const auto& [key, graph] : graphs_) {
      if (!key.first) {
        sizes.push_back(key.second);
      }
    }
    return sizes;
  }
  void clear() { graphs_.clear(); }

  // The graph whose size `batch` is padded to, or nullptr where it is no plain decode step.
  Graph* find(const ScheduledBatch& batch) {
    const bool is_decode = std::ranges::all_of(batch.sequences, [](const ScheduledSequence& s) {
      return s.num_scheduled_tokens == 1 && s.sample && !s.sampling->prompt_logprobs;
    });
    const auto num_seqs = std::ssize(batch.sequences);
    int64_t context = 0;
    for (const ScheduledSequence& s : batch.sequences) {
      context += s.num_computed_tokens;
    }
    const bool is_long = context >= kLongContext * num_seqs;
    const auto graph = graphs_.lower_bound({is_long, num_seqs});
    const bool found = is_decode && graph != graphs_.end() && graph->first.first == is_long;
    return found ? &graph->second : nullptr;
  }

  // `enqueue` puts the step on `stream`. Without graphs when the device refuses to capture.
  template <class Enqueue>
  Status run(Graph& graph, DeviceStream stream, const Enqueue& enqueue) {
    if (!graph.graph && graph.has_run && can_capture_) {
      ATOM_RETURN_IF_ERROR(device_status(runtime_.begin_capture(stream), "capture"));
      const Status enqueued = enqueue();
      DeviceGraph captured = nullptr;
      const DeviceStatus failed = runtime_.end_capture(stream, &captured);
      ATOM_RETURN_IF_ERROR(enqueued);
      if (failed != nullptr) {
        log_warning("decode steps are not captured: {}", failed);
        can_capture_ = false;
      } else {
        graph.graph = OwnedGraph(runtime_, captured);
      }
    }
    if (graph.graph) {
      return device_status(runtime_.launch_graph(graph.graph.get(), stream), "replay");
    }
    graph.has_run = true;
    return enqueue();
  }

 private:
  const DeviceRuntime& runtime_;
  std::map<std::pair<bool, int64_t>, Graph> graphs_;
  bool can_capture_ = true;
};

}  // namespace atom
