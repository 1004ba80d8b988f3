// Decode attention at the sizes of the targets, in variants, against the read roof of the same run:
// GB/s count the K and V bytes that a step must read. Argument: none, or 'decode' for decode only.
#include <cstring>
#include <numeric>

#include "kernels/gpu/attention/decode_launch.h"
#include "kernels/gpu/attention/prefill_launch.h"
#include "kernels/gpu/device_test.h"
#include "kernels/gpu/sm90/decode_launch.h"

namespace atom::gpu::device_test {
namespace {

__global__ void fill_kernel(uint32_t* to, size_t count, bool e4m3) {
  size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x;
  for (; i < count; i += static_cast<size_t>(gridDim.x) * blockDim.x) {
    uint32_t h = static_cast<uint32_t>(i) * 2654435761U + 12345U;
    h ^= h >> 15;
    h *= 2246822519U;
    h ^= h >> 13;
    h *= 3266489917U;
    h ^= h >> 16;
    // e4m3 below 2; bf16 in +-[0.5, 1)
    to[i] = e4m3 ? h & 0xb7b7b7b7U : (h & 0x807f807fU) | 0x3f003f00U;
  }
}

__global__ void read_kernel(const uint4* from, size_t count, uint32_t* sink) {
  uint32_t sum = 0;
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
  size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x;
  for (; i + 7 * stride < count; i += 8 * stride) {
    uint4 v[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      v[j] = __ldcs(from + i + static_cast<size_t>(j) * stride);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
  }
  if (sum == 0x12345678U) {
    *sink = sum;
  }
}

struct Pool {
  size_t bytes = size_t{9} << 30;
  DeviceArray<uint8_t> data{bytes};
  DeviceArray<uint8_t> q{size_t{64} << 20};
  DeviceArray<uint8_t> out{size_t{64} << 20};
  DeviceArray<uint8_t> workspace{size_t{512} << 20};
};

using Launcher = void (*)(const PagedAttentionArgs&, cudaStream_t);
struct Variant {
  const char* name;
  bool e4m3;
  Launcher launch;
};

template <bool kE4M3, int kWarps, int kBlocks>
void launch(const PagedAttentionArgs& args, cudaStream_t stream) {
  launch_decode_instance<DecodeTraits<128, kE4M3, 1, kWarps>, kBlocks>(args, stream);
}

template <bool kE4M3, int kWarps, int kBlocks>
void ring(const PagedAttentionArgs& args, cudaStream_t stream) {
  (void)sm90::launch_decode_ring<DecodeTraits<128, kE4M3, 1, kWarps>, kBlocks>(args, stream);
}

double roof = 0;

void run(Pool& pool, int batch, int context, const std::vector<Variant>& variants, bool e4m3,
         bool invariant) {
  constexpr int kHeads = 32, kKvHeads = 8, kDim = 128, kPage = 16;
  const int blocks_per_seq = (context + kPage - 1) / kPage;
  const int blocks = batch * blocks_per_seq;
  const size_t one = static_cast<size_t>(blocks) * kPage * kKvHeads * kDim * (e4m3 ? 1 : 2);
  const int copies = static_cast<int>(std::clamp<size_t>((size_t{200} << 20) / one, 1, 64));
  std::vector<int> table(static_cast<size_t>(blocks)), starts, lens;
  std::iota(table.begin(), table.end(), 0);
  uint32_t r = 1;
  for (size_t i = table.size() - 1; i > 0; --i) {
    r = r * 1664525U + 1013904223U;
    std::swap(table[i], table[r % (i + 1)]);
  }
  for (int s = 0; s <= batch; ++s) {
    starts.push_back(s);
    lens.push_back(context);
  }
  const DeviceArray<int> d_table(table), d_starts(starts), d_lens(lens);
  PagedAttentionArgs args;
  args.q = reinterpret_cast<const uint16_t*>(pool.q.data());
  args.q_stride = (kHeads + 2 * kKvHeads) * kDim;
  args.out = reinterpret_cast<uint16_t*>(pool.out.data());
  args.num_heads = kHeads;
  args.num_kv_heads = kKvHeads;
  args.head_dim = kDim;
  args.scale = 0.0884F;
  args.batch_invariant = invariant;
  args.max_seqs = 256;
  args.workspace = pool.workspace.data();
  args.cache.dtype = e4m3 ? DType::kF8E4M3 : DType::kBF16;
  args.cache.num_kv_heads = kKvHeads;
  args.cache.block_size = kPage;
  args.cache.head_dim = kDim;
  args.metadata.num_tokens = args.metadata.num_seqs = batch;
  args.metadata.block_size = kPage;
  args.metadata.block_table_stride = blocks_per_seq;
  args.metadata.query_start = d_starts.data();
  args.metadata.context_lens = d_lens.data();
  args.metadata.block_tables = d_table.data();
  std::printf("%s B%-3d x %-5d%s", e4m3 ? "e4m3" : "bf16", batch, context,
              invariant ? " inv" : "    ");
  for (const Variant& variant : variants) {
    if (variant.e4m3 != e4m3) {
      continue;
    }
    const double us = time_us(std::max(copies, 8), [&](int i) {
      args.cache.k = pool.data.data() + static_cast<size_t>(i % copies) * one;
      args.cache.v = pool.data.data() + pool.bytes / 2 + static_cast<size_t>(i % copies) * one;
      variant.launch(args, stream());
    });
    const double gbs = 2.0 * static_cast<double>(one) / us * 1e-3;
    std::printf(" | %s %.1f us %.0f GB/s %.0f%%", variant.name, us, gbs, gbs / roof * 100);
  }
  std::printf("\n");
  std::fflush(stdout);
}

// Causal prefill of `batch` sequences of `length` tokens behind a cached prefix; TFLOP/s count the
// products of keys that are seen.
void run_prefill(Pool& pool, int batch, int prefix, int length, bool e4m3) {
  constexpr int kHeads = 32, kKvHeads = 8, kDim = 128, kPage = 16;
  const int context = prefix + length;
  const int blocks_per_seq = (context + kPage - 1) / kPage;
  std::vector<int> table(static_cast<size_t>(batch * blocks_per_seq)), starts, lens;
  for (size_t i = 0; i < table.size(); ++i) {
    table[i] = static_cast<int>((i * 7919) % table.size());
  }
  for (int s = 0; s <= batch; ++s) {
    starts.push_back(s * length);
    lens.push_back(context);
  }
  const DeviceArray<int> d_table(table), d_starts(starts), d_lens(lens);
  PagedAttentionArgs args;
  args.q = reinterpret_cast<const uint16_t*>(pool.data.data() + (size_t{4} << 30));
  args.q_stride = (kHeads + 2 * kKvHeads) * kDim;
  args.out = reinterpret_cast<uint16_t*>(pool.data.data() + (size_t{8} << 30));
  args.num_heads = kHeads;
  args.num_kv_heads = kKvHeads;
  args.head_dim = kDim;
  args.scale = 0.0884F;
  args.max_seqs = 256;
  args.workspace = pool.workspace.data();
  args.cache.k = pool.data.data();
  args.cache.v = pool.data.data() + (size_t{2} << 30);
  args.cache.dtype = e4m3 ? DType::kF8E4M3 : DType::kBF16;
  args.cache.num_kv_heads = kKvHeads;
  args.cache.block_size = kPage;
  args.cache.head_dim = kDim;
  args.cache.num_blocks = static_cast<int64_t>(table.size());
  args.metadata.num_tokens = batch * length;
  args.metadata.num_seqs = batch;
  args.metadata.max_query_len = length;
  args.metadata.block_size = kPage;
  args.metadata.block_table_stride = blocks_per_seq;
  args.metadata.query_start = d_starts.data();
  args.metadata.context_lens = d_lens.data();
  args.metadata.block_tables = d_table.data();
  const double pairs = static_cast<double>(length) * prefix + 0.5 * length * (length + 1.0);
  const double flops = 4.0 * batch * kHeads * kDim * pairs;
  double us = time_us(3, [&](int) { launch_prefill<kDim>(args, stream()); });
  std::printf("prefill %s B%d prefix %-5d length %-5d portable %9.1f us %6.1f TFLOP/s",
              e4m3 ? "e4m3" : "bf16", batch, prefix, length, us, flops / us * 1e-6);
  us = time_us(3, [&](int) { launch_prefill_sm90(args, stream()); });
  std::printf(" | sm90 %9.1f us %6.1f TFLOP/s\n", us, flops / us * 1e-6);
  std::fflush(stdout);
}

}  // namespace
}  // namespace atom::gpu::device_test

int main(int argc, char** argv) {
  const bool all = argc < 2 || std::strcmp(argv[1], "prefill") != 0;
  using namespace atom::gpu::device_test;
  Pool pool;
  pool.workspace.fill(0);
  fill_kernel<<<1024, 256, 0, stream()>>>(reinterpret_cast<uint32_t*>(pool.data.data()),
                                          pool.bytes / 4, false);
  fill_kernel<<<1024, 256, 0, stream()>>>(reinterpret_cast<uint32_t*>(pool.q.data()),
                                          pool.q.size() / 4, false);
  const size_t read = size_t{4} << 30;
  for (const int blocks : {132 * 4, 132 * 8}) {
    const double us = time_us(3, [&](int) {
      read_kernel<<<blocks, 256, 0, stream()>>>(reinterpret_cast<const uint4*>(pool.data.data()),
                                                read / 16,
                                                reinterpret_cast<uint32_t*>(pool.out.data()));
    });
    roof = std::max(roof, static_cast<double>(read) / us * 1e-3);
  }
  std::printf(
      "read roof %.0f GB/s; 32/8 heads, head dim 128, page 16; W warps, B blocks a "
      "multiprocessor\n",
      roof);
  const std::vector<Variant> variants = {
      {"W4B2", false, launch<false, 4, 2>}, {"W8B1", false, launch<false, 8, 1>},
      {"ring8", false, ring<false, 8, 1>},  {"2xring4", false, ring<false, 4, 2>},
      {"W4B4", true, launch<true, 4, 4>},   {"W4B3", true, launch<true, 4, 3>},
      {"W8B2", true, launch<true, 8, 2>},   {"2xring4", true, ring<true, 4, 2>},
      {"3xring4", true, ring<true, 4, 3>}};
  for (const bool e4m3 : {false, true}) {
    if (e4m3) {
      fill_kernel<<<1024, 256, 0, stream()>>>(reinterpret_cast<uint32_t*>(pool.data.data()),
                                              pool.bytes / 4, true);
    }
    if (!all) {
      continue;
    }
    for (const int context : {160, 1024, 8192}) {
      for (const int batch : {1, 8, 64, 256}) {
        run(pool, batch, context, variants, e4m3, false);
      }
    }
    run(pool, 8, 8192, variants, e4m3, true);
    run(pool, 64, 1024, variants, e4m3, true);
    run(pool, 64, 8192, variants, e4m3, true);
  }
  if (argc > 1 && std::strcmp(argv[1], "decode") == 0) return 0;
  for (const bool e4m3 : {false, true}) {
    run_prefill(pool, 1, 0, 1024, e4m3);
    run_prefill(pool, 8, 0, 1024, e4m3);
    run_prefill(pool, 1, 0, 4096, e4m3);
    run_prefill(pool, 4, 0, 4096, e4m3);
    run_prefill(pool, 1, 4096, 2048, e4m3);
    run_prefill(pool, 1, 0, 16384, e4m3);
  }
  return 0;
}
