// Small-M products at the sizes of the speed table: the own kernel in every variant and as chosen,
// against the best of the library's proposals, all in graphs over weights that lie in memory; GB/s
// of weights, and the read roof of the same run. Arguments: none, 'large' for TFLOP/s of large
// M, or 'rows' for a layer at the sizes of steps with prompts.
#include <cstring>

#include "kernels/gpu/linear/library.h"
#include "kernels/gpu/linear_benchmark_support.h"

namespace atom::gpu::device_test {
namespace {

struct Buffers {
  DeviceArray<uint16_t> x{size_t{4096} * 16384};
  DeviceArray<uint8_t> x_e4m3{size_t{4096} * 16384};
  DeviceArray<float> scales{size_t{160000}};
  DeviceArray<float> out{size_t{2048} * 28672 / 2 + size_t{64} * 160000};
  DeviceArray<uint8_t> workspace{size_t{64} << 20};

  Buffers() {
    (void)fill_random(3, 1.0F, x.data(), static_cast<int64_t>(x.size()), stream());
    (void)quantize_rows({.x = x.data(),
                         .out = x_e4m3.data(),
                         .scales = scales.data(),
                         .num_rows = 4096,
                         .size = 16384},
                        stream());
    scales.set(std::vector<float>(160000, 0.01F));
  }
};

double library_us(const WeightPool& pool, const Buffers& b, const BenchmarkShape& shape, bool e4m3,
                  int64_t m, bool scaled = true) {
  const int64_t bytes = shape.n * shape.k * (e4m3 ? 1 : 2);
  MatrixLibrary library(b.workspace.data(), static_cast<int64_t>(b.workspace.size()));
  LibraryProduct product{.x = e4m3 ? static_cast<void*>(b.x_e4m3.data()) : b.x.data(),
                         .weight = pool.data(),
                         .dtype = e4m3 ? DType::kF8E4M3 : DType::kBF16,
                         .x_scales = e4m3 && scaled ? b.scales.data() : nullptr,
                         .weight_scales = e4m3 && scaled ? b.scales.data() : nullptr,
                         .out = b.out.data(),
                         .num_tokens = m,
                         .out_features = shape.n,
                         .in_features = shape.k};
  bool has_scales = true;
  if (const DeviceStatus failed = library.multiply(product, stream(), has_scales)) {
    static bool told = false;
    if (!told) std::printf("library: %s\n", failed);
    told = true;
    return 1e9;
  }
  return time_us(m > 64 ? 8 : launches_for(bytes), [&](int i) {
    product.weight = pool.copy(i, bytes);
    (void)library.multiply(product, stream(), has_scales);
  });
}

// The best of all variants, what choose_small_plan takes, and the library.
void measure_small(const WeightPool& pool, const Buffers& b, const BenchmarkShape& shape,
                   bool e4m3) {
  const int64_t bytes = shape.n * shape.k * (e4m3 ? 1 : 2);
  const auto speed = [&](double us) { return static_cast<double>(bytes) / us / 1e3; };
  for (const int64_t m : {1, 2, 4, 8, 16, 32}) {
    LinearArgs args{.x = b.x.data(),
                    .weight_dtype = e4m3 ? DType::kF8E4M3 : DType::kBF16,
                    .scales = e4m3 ? b.scales.data() : nullptr,
                    .num_tokens = m,
                    .out_features = shape.n,
                    .in_features = shape.k,
                    .out = b.out.data()};
    const auto own_us = [&](const SmallLinearPlan& plan) {
      args.weight = pool.data();
      if (linear_small(args, plan, stream()) != nullptr) return 1e9;
      return time_us(launches_for(bytes), [&](int i) {
        args.weight = pool.copy(i, bytes);
        (void)linear_small(args, plan, stream());
      });
    };
    const double chosen = own_us(choose_small_plan(args));
    const double library = library_us(pool, b, shape, e4m3, m);
    std::printf("%-13s %s M%-3d own %5.0f (%6.2f us) lib %5.0f  x%.2f |", shape.name,
                e4m3 ? "e4m3" : "bf16", static_cast<int>(m), speed(chosen), chosen, speed(library),
                library / chosen);
    const auto show = [&](const char* name, const SmallLinearPlan& plan) {
      std::printf(" %s %4.0f", name, speed(own_us(plan)));
    };
    show("1s", {.row_tiles = 1, .blocks_per_multiprocessor = 2});
    show("2s", {.row_tiles = 2, .blocks_per_multiprocessor = 2});
    show("2d", {.row_tiles = 2, .blocks_per_multiprocessor = 2, .shared_x = false});
    show("1r", {.row_tiles = 1, .ring = true});
    show("2r", {.row_tiles = 2, .ring = true});
    show("2rp", {.row_tiles = 2, .chained = false, .ring = true});
    std::printf("\n");
    std::fflush(stdout);
  }
}

void measure_large(const WeightPool& pool, const Buffers& b, const BenchmarkShape& shape) {
  for (const bool e4m3 : {false, true}) {
    std::printf("%-13s %s TFLOP/s", shape.name, e4m3 ? "e4m3" : "bf16");
    for (const int64_t m : {128, 512, 1024, 2048}) {
      if (m * shape.n * 2 > static_cast<int64_t>(b.out.size()) * 4) continue;
      const double us = library_us(pool, b, shape, e4m3, m);
      std::printf("  M%d %5.0f (%.0f us)", static_cast<int>(m),
                  2e-6 * static_cast<double>(m * shape.n * shape.k) / us, us);
    }
    std::printf("\n");
    std::fflush(stdout);
  }
}

// The four products of a layer at the sizes of steps that hold prompts: microseconds and TFLOP/s,
// with algorithms chosen at that very size.
void measure_rows(const WeightPool& pool, const Buffers& b, const char* model,
                  const BenchmarkShape* shapes, bool e4m3, bool scaled = true) {
  std::printf("layer %s %s%s, us (TFLOP/s):", model, e4m3 ? "e4m3" : "bf16",
              scaled ? "" : " without scales");
  for (const int64_t m : {32,  48,  64,  96,  128,  192,  256,  320,  384,  448,  512, 576,
                          640, 768, 896, 992, 1024, 1088, 1152, 1280, 1536, 1792, 2048}) {
    double us = 0;
    double flops = 0;
    for (int i = 0; i < 4; ++i) {
      us += library_us(pool, b, shapes[i], e4m3, m, scaled);
      flops += 2.0 * static_cast<double>(m * shapes[i].n * shapes[i].k);
    }
    std::printf("  M%d %.1f (%.0f)", static_cast<int>(m), us, flops / us * 1e-6);
    std::fflush(stdout);
  }
  std::printf("\n");
}

void run_all(const char* mode) {
  const bool large = std::strcmp(mode, "large") == 0;
  const WeightPool pool;
  const Buffers buffers;
  std::printf("read roof %.0f GB/s\n", read_roof(pool));
  if (std::strcmp(mode, "rows") == 0) {
    for (const bool e4m3 : {false, true}) {
      measure_rows(pool, buffers, "8B", kLlama8B, e4m3);
      measure_rows(pool, buffers, "0.6B", kQwen06B, e4m3);
    }
    measure_rows(pool, buffers, "8B", kLlama8B, true, /*scaled=*/false);
    return;
  }
  if (large) {
    for (const BenchmarkShape& shape : kLlama8B) measure_large(pool, buffers, shape);
    for (const BenchmarkShape& shape : kQwen06B) measure_large(pool, buffers, shape);
    return;
  }
  std::printf(
      "variants: row tiles; x shared or direct, or weights by the ring (rp: not chained)\n");
  for (const bool e4m3 : {false, true}) {
    for (const BenchmarkShape& shape : kQwen06B) measure_small(pool, buffers, shape, e4m3);
    for (const BenchmarkShape& shape : kLlama8B) measure_small(pool, buffers, shape, e4m3);
  }
  std::printf("read roof %.0f GB/s\n", read_roof(pool));
}

}  // namespace
}  // namespace atom::gpu::device_test

int main(int argc, char** argv) {
  atom::gpu::device_test::run_all(argc > 1 ? argv[1] : "");
  return 0;
}
