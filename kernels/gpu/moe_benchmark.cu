// Experts of one layer, with evenly drawn choices: us, GB/s of the experts' weights that are read,
// TFLOP/s, and what of the read roof that is. Layers' weights take turns, so that none is in a
// cache. Runs where a device is; no arguments.
#include <cstring>
#include <numeric>
#include <random>
#include <set>

#include "kernels/gpu/linear_benchmark_support.h"
#include "kernels/gpu/moe.h"

namespace atom::gpu::device_test {
namespace {

struct MoeShape {
  const char* name;
  int64_t experts, top_k, hidden, inner;
  int layers;  // whose weights take turns
  int64_t layer_bytes() const { return experts * 3 * hidden * inner * 2; }
};

constexpr MoeShape kShapes[] = {{"qwen3-30b-a3b", 128, 8, 2048, 768, 4},
                                {"mixtral-8x7b", 8, 2, 4096, 14336, 2},
                                {"gpt-oss-20b", 32, 4, 2880, 2880, 3}};

// Choices of the tokens of a layer, and how many experts they are.
int draw(const MoeShape& shape, int64_t tokens, int seed, std::vector<int32_t>& ids) {
  std::mt19937 random(static_cast<uint32_t>(seed));
  std::vector<int32_t> order(static_cast<size_t>(shape.experts));
  std::iota(order.begin(), order.end(), 0);
  std::set<int32_t> all;
  for (int64_t t = 0; t < tokens; ++t) {
    std::shuffle(order.begin(), order.end(), random);
    ids.insert(ids.end(), order.begin(), order.begin() + shape.top_k);
    all.insert(order.begin(), order.begin() + shape.top_k);
  }
  return static_cast<int>(all.size());
}

struct Memory {
  DeviceArray<uint16_t> weights;
  DeviceArray<uint16_t> x, out;
  DeviceArray<float> choice_weights;
  DeviceArray<uint8_t> scratch;

  Memory(const MoeShape& shape, int64_t most)
      : weights(static_cast<size_t>(shape.layers * shape.layer_bytes() / 2)),
        x(static_cast<size_t>(most * shape.hidden)),
        out(static_cast<size_t>(most * shape.hidden)),
        choice_weights(std::vector<float>(static_cast<size_t>(most * shape.top_k), 0.125F)),
        scratch(static_cast<size_t>(
            experts_scratch_bytes(most, shape.top_k, shape.experts, shape.hidden, shape.inner))) {
    (void)fill_random(7, 0.05F, weights.data(), static_cast<int64_t>(weights.size()), stream());
    (void)fill_random(9, 1.0F, x.data(), static_cast<int64_t>(x.size()), stream());
  }
};

void measure(const MoeShape& shape, const Memory& memory, double roof, int64_t tokens) {
  constexpr int kDraws = 8;
  std::vector<int32_t> ids;
  int chosen = 0;
  for (int i = 0; i < kDraws; ++i) {
    chosen += draw(shape, tokens, i, ids);
  }
  DeviceArray<int32_t> d_ids(ids);
  const int64_t gate_up = shape.experts * 2 * shape.inner * shape.hidden;
  const double us = time_us(tokens > 512 ? 4 : 16, [&](int i) {
    const uint16_t* layer = memory.weights.data() + i % shape.layers * (shape.layer_bytes() / 2);
    const DeviceStatus failed = fused_experts(
        {.gate_up = {.values = layer, .rows = 2 * shape.inner, .cols = shape.hidden},
         .down = {.values = layer + gate_up, .rows = shape.hidden, .cols = shape.inner},
         .num_experts = shape.experts,
         .x = memory.x.data(),
         .ids = d_ids.data() + i % kDraws * tokens * shape.top_k,
         .weights = memory.choice_weights.data(),
         .num_tokens = tokens,
         .top_k = shape.top_k,
         .out = memory.out.data(),
         .scratch = memory.scratch.data()},
        stream());
    if (failed != nullptr) {
      std::printf("FAILED %s\n", failed);
    }
  });
  const double bytes = static_cast<double>(chosen) / kDraws * 3 *
                       static_cast<double>(shape.hidden * shape.inner) * 2;
  const double flops = 6.0 * static_cast<double>(tokens * shape.top_k) *
                       static_cast<double>(shape.hidden * shape.inner);
  std::printf("%-14s %5ld tokens, %6.1f experts: %8.1f us %6.0f GB/s (%3.0f %%) %5.0f TFLOP/s\n",
              shape.name, static_cast<long>(tokens), static_cast<double>(chosen) / kDraws, us,
              bytes / us / 1e3, bytes / us / 10.0 / roof, flops / us / 1e6);
  std::fflush(stdout);
}

}  // namespace
}  // namespace atom::gpu::device_test

int main() {
  using namespace atom::gpu::device_test;
  double roof = 0;
  {
    const WeightPool pool;
    roof = read_roof(pool);
  }
  std::printf("read roof %.0f GB/s\n", roof);
  for (const MoeShape& shape : kShapes) {
    const Memory memory(shape, 4096);
    for (const int64_t tokens : {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096}) {
      if (&shape == kShapes || tokens == 1 || tokens == 8 || tokens == 64 || tokens == 1024 ||
          tokens == 4096) {
        measure(shape, memory, roof, tokens);
      }
    }
  }
  return 0;
}
