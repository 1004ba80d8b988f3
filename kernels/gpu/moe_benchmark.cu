// Experts of one layer, with evenly drawn choices: us, GB/s of the experts' weights that are read,
// TFLOP/s, and what of the read roof that is. Layers' weights take turns, so that none is in a
// cache. With up to 8 tokens also with norm and router before them, which choose then. Runs where a
// device is.
//
//   gpu_moe_benchmark [few | all [bf16 | e4m3 | mxfp4 [LAYERS]]]    few: up to 8 tokens
#include <cstring>
#include <numeric>
#include <random>
#include <set>
#include <string>

#include "kernels/gpu/linear_benchmark_support.h"
#include "kernels/gpu/moe.h"

namespace atom::gpu::device_test {
namespace {

struct MoeShape {
  const char* name;
  int64_t experts, top_k, hidden, inner;
  int layers;  // whose weights take turns
  DType dtype = DType::kBF16;
  int64_t values() const { return experts * 3 * hidden * inner; }
  int64_t bits() const { return dtype == DType::kBF16 ? 16 : dtype == DType::kF8E4M3 ? 8 : 4; }
  int64_t layer_bytes() const { return values() * bits() / 8; }
  // Of all scales of a matrix.
  int64_t scale_bytes(int64_t rows, int64_t cols) const {
    return dtype == DType::kBF16     ? 0
           : dtype == DType::kF8E4M3 ? experts * rows / 8 * ((cols + 127) / 128) * 4
                                     : experts * rows * cols / 32;
  }
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
  DeviceArray<uint16_t> weights, routers;
  DeviceArray<uint8_t> scales;  // of all matrices; what it holds does not matter
  DeviceArray<uint16_t> x, out;
  DeviceArray<float> residual, norm, logits, choice_weights;
  DeviceArray<int32_t> ids, counter;
  DeviceArray<uint8_t> scratch;

  Memory(const MoeShape& shape, int64_t most)
      : weights(static_cast<size_t>(shape.layers * shape.layer_bytes() / 2)),
        routers(static_cast<size_t>(shape.layers * shape.experts * shape.hidden)),
        scales(static_cast<size_t>(
            std::max(shape.scale_bytes(2 * shape.inner, shape.hidden), int64_t{64}))),
        x(static_cast<size_t>(most * shape.hidden)),
        out(static_cast<size_t>(most * shape.hidden)),
        residual(static_cast<size_t>(kFewTokens * shape.hidden)),
        norm(std::vector<float>(static_cast<size_t>(shape.hidden), 1.0F)),
        logits(static_cast<size_t>(kFewTokens * shape.experts)),
        choice_weights(std::vector<float>(static_cast<size_t>(most * shape.top_k), 0.125F)),
        ids(static_cast<size_t>(shape.layers * kFewTokens * shape.top_k)),
        counter(1),
        scratch(static_cast<size_t>(experts_scratch_bytes(
            most, shape.top_k, shape.experts, shape.hidden, shape.inner, shape.dtype))) {
    const auto fill = [](const DeviceArray<uint16_t>& to, uint32_t seed, float scale) {
      (void)fill_random(seed, scale, to.data(), static_cast<int64_t>(to.size()), stream());
    };
    fill(weights, 7, 0.05F);
    fill(routers, 8, 1.0F);
    fill(x, 9, 1.0F);
    scales.fill(0x3c);
    counter.fill(0);
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    std::vector<float> values(residual.size());
    std::generate(values.begin(), values.end(), [&] { return normal(random); });
    residual.set(values);
  }

  FusedExpertsArgs arguments(const MoeShape& shape, int layer, int64_t tokens,
                             const int32_t* chosen) const {
    const uint8_t* values =
        reinterpret_cast<const uint8_t*>(weights.data()) + layer * shape.layer_bytes();
    const auto matrix = [&](const uint8_t* at, int64_t rows, int64_t cols) {
      const bool blocks = shape.dtype == DType::kF8E4M3;
      return ExpertMatrix{.values = at,
                          .dtype = shape.dtype,
                          .scales = scales.data(),
                          .scale_rows = blocks ? 8 : 1,
                          .scale_cols = blocks ? static_cast<int32_t>((cols + 127) / 128) : 1,
                          .rows = rows,
                          .cols = cols};
    };
    return {.gate_up = matrix(values, 2 * shape.inner, shape.hidden),
            .down = matrix(values + shape.layer_bytes() / 3 * 2, shape.hidden, shape.inner),
            .num_experts = shape.experts,
            .x = x.data(),
            .ids = chosen,
            .weights = choice_weights.data(),
            .num_tokens = tokens,
            .top_k = shape.top_k,
            .out = out.data(),
            .scratch = scratch.data()};
  }
};

void must(DeviceStatus failed) {
  if (failed != nullptr) {
    std::printf("FAILED %s\n", failed);
  }
}

void print(const MoeShape& shape, const char* what, int64_t tokens, double chosen, double us,
           double roof) {
  const double bytes = chosen * 3 * static_cast<double>(shape.hidden * shape.inner) *
                       static_cast<double>(shape.bits()) / 8;
  const double flops = 6.0 * static_cast<double>(tokens * shape.top_k) *
                       static_cast<double>(shape.hidden * shape.inner);
  std::printf("%-14s %5ld tokens, %6.1f experts%s: %8.1f us %6.0f GB/s (%3.0f %%) %5.0f TFLOP/s\n",
              shape.name, static_cast<long>(tokens), chosen, what, us, bytes / us / 1e3,
              bytes / us / 10.0 / roof, flops / us / 1e6);
  std::fflush(stdout);
}

void measure(const MoeShape& shape, const Memory& memory, double roof, int64_t tokens) {
  constexpr int kDraws = 8;
  std::vector<int32_t> ids;
  int chosen = 0;
  for (int i = 0; i < kDraws; ++i) {
    chosen += draw(shape, tokens, i, ids);
  }
  DeviceArray<int32_t> d_ids(ids);
  const double us = time_us(tokens > 512 ? 4 : std::max(16, shape.layers), [&](int i) {
    must(fused_experts(memory.arguments(shape, i % shape.layers, tokens,
                                        d_ids.data() + i % kDraws * tokens * shape.top_k),
                       stream()));
  });
  print(shape, "", tokens, static_cast<double>(chosen) / kDraws, us, roof);
}

// norm_route and the experts that it chooses.
void measure_layer(const MoeShape& shape, const Memory& memory, double roof, int64_t tokens) {
  const double us = time_us(std::max(16, shape.layers), [&](int i) {
    const int layer = i % shape.layers;
    int32_t* ids = memory.ids.data() + layer * kFewTokens * shape.top_k;
    must(norm_route({.residual = memory.residual.data(),
                     .norm_weight = memory.norm.data(),
                     .eps = 1e-6F,
                     .hidden_size = shape.hidden,
                     .router = memory.routers.data() + layer * shape.experts * shape.hidden,
                     .x = memory.x.data(),
                     .logits = memory.logits.data(),
                     .counter = memory.counter.data(),
                     .route = {.logits = memory.logits.data(),
                               .logits_stride = shape.experts,
                               .num_tokens = tokens,
                               .num_experts = shape.experts,
                               .rule = {.top_k = shape.top_k, .renormalize = true},
                               .ids = ids,
                               .weights = memory.choice_weights.data()}},
                    stream()));
    must(fused_experts(memory.arguments(shape, layer, tokens, ids), stream()));
  });
  const std::vector<int32_t> ids = memory.ids.get();
  int64_t chosen = 0;
  for (int layer = 0; layer < shape.layers; ++layer) {
    const auto begin = ids.begin() + layer * kFewTokens * shape.top_k;
    chosen += static_cast<int64_t>(std::set<int32_t>(begin, begin + tokens * shape.top_k).size());
  }
  print(shape, ", router", tokens, static_cast<double>(chosen) / shape.layers, us, roof);
}

}  // namespace
}  // namespace atom::gpu::device_test

int main(int argc, char** argv) {
  using namespace atom::gpu::device_test;
  const bool few = argc > 1 && std::strcmp(argv[1], "few") == 0;
  const std::string format = argc > 2 ? argv[2] : "bf16";
  double roof = 0;
  {
    const WeightPool pool;
    roof = read_roof(pool);
  }
  std::printf("read roof %.0f GB/s, %s\n", roof, format.c_str());
  for (MoeShape shape : kShapes) {
    const bool all_sizes = std::strcmp(shape.name, kShapes[0].name) == 0;
    shape.dtype = format == "e4m3"    ? atom::DType::kF8E4M3
                  : format == "mxfp4" ? atom::DType::kF4E2M1
                                      : atom::DType::kBF16;
    if (argc > 3) {
      shape.layers = std::atoi(argv[3]);
    } else {
      shape.layers = static_cast<int>(shape.layers * 16 / shape.bits());
    }
    const Memory memory(shape, few ? atom::gpu::kFewTokens : 4096);
    for (const int64_t tokens : {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096}) {
      if (few && tokens > atom::gpu::kFewTokens) {
        break;
      }
      if (all_sizes || tokens == 1 || tokens == 8 || tokens == 64 || tokens == 1024 ||
          tokens == 4096) {
        measure(shape, memory, roof, tokens);
        if (tokens <= atom::gpu::kFewTokens) {
          measure_layer(shape, memory, roof, tokens);
        }
      }
    }
    if (argc > 3) {
      break;  // other shapes do not fit that often
    }
  }
  return 0;
}
