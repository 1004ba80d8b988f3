// Products of packed weights (linear_layout.h) at the sizes of an 8B model's layers: few tokens by
// the streaming kernel as chosen, in GB/s of all bytes of a weight and per cent of the read roof of
// the same run; more by every way that takes them, beside the library's bf16 product. Graphs of
// chained launches over weights that lie in memory. Argument: none, or 'few' for the first part
// only.
#include <cstring>
#include <string>

#include "kernels/gpu/linear/packed.h"
#include "kernels/gpu/linear/tiled_plan.h"
#include "kernels/gpu/linear_benchmark_support.h"
#include "kernels/gpu/linear_layout.h"

namespace atom::gpu::device_test {
namespace {

struct Format {
  const char* name;
  DType dtype;
  int scale_values;
  bool has_zeros;
};
constexpr Format kFormats[] = {{"e4m3 rows", DType::kF8E4M3, 0, false},
                               {"e4m3 blocks", DType::kF8E4M3, 128, false},
                               {"i8", DType::kI8, 0, false},
                               {"u4 g128", DType::kU4, 128, false},
                               {"u4 g128 zeros", DType::kU4, 128, true},
                               {"u4 g32", DType::kU4, 32, false},
                               {"e2m1", DType::kF4E2M1, 32, false}};

struct Sizes {
  int64_t values;  // bytes
  int64_t scales;
};
Sizes sizes_of(const Format& f, const BenchmarkShape& shape) {
  const int64_t groups = scale_groups(shape.k);
  const int64_t values = shape.n * packed_row_bytes(f.dtype, shape.k);
  if (f.dtype == DType::kU4) {
    const int64_t scales = u4_scales_bytes(shape.n, shape.k, f.scale_values);
    return {values, u4_scales_offset(shape.n) + scales + (f.has_zeros ? scales / 2 : 0)};
  }
  if (f.dtype == DType::kF4E2M1) return {values, groups * shape.n * 4};
  return {values, 4 * (f.scale_values > 0 ? groups * block_scale_pitch(shape.n) : shape.n)};
}

struct Buffers {
  DeviceArray<uint16_t> x{size_t{2048} * 14336};
  DeviceArray<float> out{size_t{2048} * 28672};
  DeviceArray<uint8_t> scales{size_t{1} << 30};  // every byte 0x3c: small numbers of any type
  DeviceArray<uint8_t> workspace{size_t{64} << 20};
  DeviceArray<uint8_t> partials{size_t{64} << 20};
  DeviceArray<uint16_t> expanded{size_t{32} << 20};
  DeviceArray<uint8_t> quantized_x{size_t{2048} * 14336};
  DeviceArray<float> x_scales{size_t{2048} * 112};
  MatrixLibrary library{workspace.data(), static_cast<int64_t>(workspace.size())};

  Buffers() {
    (void)fill_random(3, 1.0F, x.data(), static_cast<int64_t>(x.size()), stream());
    scales.fill(0x3c);
  }
  PackedScratch scratch() {
    return {.library = &library,
            .partials = partials.data(),
            .partials_bytes = static_cast<int64_t>(partials.size()),
            .expanded = expanded.data(),
            .expanded_values = static_cast<int64_t>(expanded.size()),
            .quantized_x = quantized_x.data(),
            .x_scales = x_scales.data(),
            .max_tokens = 2048,
            .max_in_features = 14336};
  }
};

LinearArgs arguments(const Buffers& b, const Format& f, const BenchmarkShape& shape, int64_t m) {
  return {.x = b.x.data(),
          .weight_dtype = f.dtype,
          .has_zeros = f.has_zeros,
          .scale_values = static_cast<int16_t>(f.scale_values),
          .scales = reinterpret_cast<const float*>(b.scales.data()),
          .num_tokens = m,
          .out_features = shape.n,
          .in_features = shape.k,
          .out = b.out.data()};
}

// Copies of weights and of their scales in turn.
template <class Run>
double measure(const WeightPool& pool, const Buffers& b, LinearArgs args, Sizes sizes, int count,
               const Run& run) {
  const auto at = [&](int i) {
    const int64_t stride = (sizes.scales + 255) / 256 * 256;
    const int64_t copies = std::max<int64_t>(1, static_cast<int64_t>(b.scales.size()) / stride);
    args.weight = pool.copy(i, sizes.values);
    args.scales = reinterpret_cast<const float*>(b.scales.data() + i % copies * stride);
    return run(args);
  };
  if (const DeviceStatus refused = at(0)) {
    static std::string told;
    if (told != refused) std::printf("[%s] ", refused);
    told = refused;
    return 1e9;
  }
  return time_us(count, [&](int i) { (void)at(i); });
}

double small_us(const WeightPool& pool, const Buffers& b, const Format& f,
                const BenchmarkShape& shape, int64_t m, const SmallLinearPlan* plan) {
  const Sizes sizes = sizes_of(f, shape);
  const LinearArgs args = arguments(b, f, shape, m);
  const SmallLinearPlan chosen = plan != nullptr ? *plan : choose_small_plan(args);
  return measure(pool, b, args, sizes, launches_for(sizes.values),
                 [&](const LinearArgs& a) { return linear_small(a, chosen, stream()); });
}

void measure_few(const WeightPool& pool, const Buffers& b, const Format& f, double roof) {
  constexpr SmallLinearPlan kPlans[] = {
      {.row_tiles = 1, .blocks_per_multiprocessor = 2},
      {.row_tiles = 2, .blocks_per_multiprocessor = 2},
      {.row_tiles = 2, .blocks_per_multiprocessor = 2, .shared_x = false}};
  for (const int64_t m : {1, 2, 4, 8, 16}) {
    double layer_us = 0;
    double layer_bytes = 0;
    for (const BenchmarkShape& shape : {kLlama8B[0], kLlama8B[1], kLlama8B[2], kLlama8B[3]}) {
      const Sizes sizes = sizes_of(f, shape);
      const auto bytes = static_cast<double>(sizes.values + sizes.scales);
      const double us = small_us(pool, b, f, shape, m, nullptr);
      layer_us += us;
      layer_bytes += bytes;
      std::printf("%-13s %-11s M%-2d %6.2f us %5.0f GB/s %3.0f %% | 1s 2s 2d:", f.name, shape.name,
                  static_cast<int>(m), us, bytes / us / 1e3, bytes / us / 1e1 / roof);
      for (const SmallLinearPlan& plan : kPlans) {
        std::printf(" %5.0f", bytes / small_us(pool, b, f, shape, m, &plan) / 1e3);
      }
      std::printf("\n");
    }
    std::printf("%-13s 8B layer    M%-2d %6.2f us %5.0f GB/s %3.0f %% of the roof\n", f.name,
                static_cast<int>(m), layer_us, layer_bytes / layer_us / 1e3,
                layer_bytes / layer_us / 1e1 / roof);
    std::fflush(stdout);
  }
}

double bf16_us(const WeightPool& pool, Buffers& b, const BenchmarkShape& shape, int64_t m) {
  LibraryProduct product{.x = b.x.data(),
                         .weight = pool.data(),
                         .out = b.out.data(),
                         .num_tokens = m,
                         .out_features = shape.n,
                         .in_features = shape.k};
  bool has_scales = true;
  if (b.library.multiply(product, stream(), has_scales) != nullptr) return 1e9;
  return time_us(8, [&](int i) {
    product.weight = pool.copy(i, shape.n * shape.k * 2);
    (void)b.library.multiply(product, stream(), has_scales);
  });
}

void measure_many(const WeightPool& pool, Buffers& b, const Format& f) {
  const PackedScratch scratch = b.scratch();
  for (const BenchmarkShape& shape : {kLlama8B[0], kLlama8B[1], kLlama8B[2], kLlama8B[3]}) {
    const Sizes sizes = sizes_of(f, shape);
    for (const int64_t m : {16, 32, 64, 128, 256, 512, 1024, 2048}) {
      const LinearArgs args = arguments(b, f, shape, m);
      const auto time = [&](const char* name, const auto& run) {
        const double us = measure(pool, b, args, sizes, 8, run);
        if (us < 1e9) {
          std::printf(" %s %.1f us (%.0f TFLOP/s)", name, us,
                      2e-6 * static_cast<double>(m * shape.n * shape.k) / us);
        }
      };
      std::printf("%-13s %-11s M%-4d", f.name, shape.name, static_cast<int>(m));
      if (m <= 1024) {
        time("tiled", [&](const LinearArgs& a) {
          return linear_tiled(a, choose_tiled_plan(a, scratch.partials, scratch.partials_bytes),
                              stream());
        });
      }
      if (f.dtype == DType::kF8E4M3) {
        time("blocks", [&](const LinearArgs& a) { return linear_blocks(scratch, a, stream()); });
      }
      if (m >= 128) {
        time("expanded",
             [&](const LinearArgs& a) { return linear_expanded(scratch, a, stream()); });
      }
      std::printf(" bf16 %.1f us\n", bf16_us(pool, b, shape, m));
      std::fflush(stdout);
    }
  }
}

void run_all(const char* mode) {
  const WeightPool pool;
  Buffers buffers;
  const double roof = read_roof(pool);
  std::printf("read roof %.0f GB/s\n", roof);
  for (const Format& f : kFormats) measure_few(pool, buffers, f, roof);
  if (std::strcmp(mode, "few") == 0) return;
  for (const Format& f : kFormats) {
    if (f.scale_values > 0 || f.dtype == DType::kI8) measure_many(pool, buffers, f);
  }
}

}  // namespace
}  // namespace atom::gpu::device_test

int main(int argc, char** argv) {
  atom::gpu::device_test::run_all(argc > 1 ? argv[1] : "");
  return 0;
}
