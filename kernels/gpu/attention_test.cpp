// Paged attention on the device against the CPU reference, over adversarial shapes; prints error
// and time per row and exits with 1 when one is over its limit. Runs where a device is; not a
// GoogleTest, so that it is one small file to take there.
#include <atomic>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <thread>

#include "kernels/common/convert.h"
#include "kernels/cpu/kernels.h"
#include "kernels/gpu/attention.h"
#include "kernels/gpu/device_test.h"

namespace atom::gpu::device_test {
namespace {

struct Case {
  const char* name = "";
  int num_heads = 8;
  int num_kv_heads = 2;
  int head_dim = 128;
  int block_size = 16;
  bool e4m3 = false;
  int sliding_window = 0;
  bool sinks = false;
  bool batch_invariant = false;
  int max_decode_queries = 1;
  std::vector<int> context_lens;
  std::vector<int> query_lens;
  float query_scale = 1.0F;
};

// A case's data on the host and on the device. Cache blocks that no sequence holds, and rows beyond
// a sequence's end, are NaN (bf16) so that reading them shows.
class Setup {
 public:
  Setup(const Case& c, uint32_t seed) : c_(c), seed_(seed) {
    std::vector<int> query_start = {0};
    size_t blocks_needed = 1;
    size_t stride = 1;
    for (size_t s = 0; s < c.context_lens.size(); ++s) {
      query_start.push_back(query_start.back() + c.query_lens[s]);
      const auto blocks =
          static_cast<size_t>((c.context_lens[s] + c.block_size - 1) / c.block_size);
      blocks_needed += blocks;
      stride = std::max(stride, blocks);
    }
    num_tokens_ = static_cast<size_t>(query_start.back());
    std::vector<int> order(blocks_needed);
    for (size_t i = 0; i < order.size(); ++i) {
      order[i] = static_cast<int>(i);
    }
    std::mt19937 order_random(seed + 1);
    std::shuffle(order.begin(), order.end(), order_random);
    std::vector<int> tables(c.context_lens.size() * stride, -1);
    size_t next = 0;
    for (size_t s = 0; s < c.context_lens.size(); ++s) {
      for (size_t b = 0;
           b * static_cast<size_t>(c.block_size) < static_cast<size_t>(c.context_lens[s]); ++b) {
        tables[s * stride + b] = order[next++];
      }
    }
    fill_cache(blocks_needed, tables, stride);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0F, c.query_scale);
    const size_t q_stride = static_cast<size_t>((c.num_heads + 2 * c.num_kv_heads) * c.head_dim);
    q_.resize(num_tokens_ * q_stride);
    for (uint16_t& value : q_) {
      value = f32_to_bf16(normal(random));
    }
    for (int h = 0; h < c.num_heads; ++h) {
      sinks_.push_back(normal(random));
    }
    tables_ = tables;
    query_start_ = query_start;
    args_.q_stride = static_cast<int64_t>(q_stride);
    args_.num_heads = c.num_heads;
    args_.num_kv_heads = c.num_kv_heads;
    args_.head_dim = c.head_dim;
    args_.scale = 1.0F / std::sqrt(static_cast<float>(c.head_dim));
    args_.sliding_window = c.sliding_window;
    args_.max_decode_queries = c.max_decode_queries;
    args_.batch_invariant = c.batch_invariant;
    args_.max_seqs = static_cast<int64_t>(c.context_lens.size()) + 3;
    args_.cache.dtype = c.e4m3 ? DType::kF8E4M3 : DType::kBF16;
    args_.cache.num_blocks = static_cast<int64_t>(blocks_needed);
    args_.cache.num_kv_heads = c.num_kv_heads;
    args_.cache.block_size = c.block_size;
    args_.cache.head_dim = c.head_dim;
    args_.cache.k_scale = c.e4m3 ? 0.5F : 1.0F;
    args_.cache.v_scale = c.e4m3 ? 0.25F : 1.0F;
    args_.metadata.num_tokens = static_cast<int64_t>(num_tokens_);
    args_.metadata.num_seqs = static_cast<int64_t>(c.context_lens.size());
    args_.metadata.max_query_len = *std::max_element(c.query_lens.begin(), c.query_lens.end());
    args_.metadata.max_context_len =
        *std::max_element(c.context_lens.begin(), c.context_lens.end());
    args_.metadata.block_size = c.block_size;
    args_.metadata.block_table_stride = static_cast<int64_t>(stride);
  }

  void choose(bool portable) {
    args_.portable = portable;
    args_.metadata.mean_context_len = portable ? 0 : 1 << 20;
  }

  // The rows of both kernels, [num_tokens * num_heads * head_dim]; microseconds of both.
  std::vector<float> run_device(double* us) {
    const DeviceArray<uint8_t> k(k_);
    const DeviceArray<uint8_t> v(v_);
    const DeviceArray<uint16_t> q(q_);
    const DeviceArray<int> tables(tables_);
    const DeviceArray<int> starts(query_start_);
    const DeviceArray<int> lens(c_.context_lens);
    const DeviceArray<float> sinks(sinks_);
    DeviceArray<uint16_t> out(num_tokens_ * static_cast<size_t>(c_.num_heads * c_.head_dim));
    out.fill(0xff);
    PagedAttentionArgs args = args_;
    args.q = q.data();
    args.out = out.data();
    args.sinks = c_.sinks ? sinks.data() : nullptr;
    args.cache.k = k.data();
    args.cache.v = v.data();
    args.metadata.query_start = starts.data();
    args.metadata.context_lens = lens.data();
    args.metadata.block_tables = tables.data();
    DeviceArray<uint8_t> workspace(static_cast<size_t>(
        attention_workspace_bytes({.max_seqs = args.max_seqs,
                                   .max_decode_queries = args.max_decode_queries,
                                   .num_heads = args.num_heads,
                                   .head_dim = args.head_dim})));
    workspace.fill(0);
    args.workspace = workspace.data();
    const bool mixed = args.metadata.max_query_len > args.max_decode_queries;
    *us = time_us(3, [&](int) {
      decode_attention(args, stream());
      if (mixed) {
        prefill_attention(args, stream());
      }
    });
    std::vector<float> values;
    for (const uint16_t value : out.get()) {
      values.push_back(bf16_to_f32(value));
    }
    return values;
  }

  std::vector<float> run_reference() {
    std::vector<float> q(q_.size());
    std::transform(q_.begin(), q_.end(), q.begin(), bf16_to_f32);
    std::vector<float> out(num_tokens_ * static_cast<size_t>(c_.num_heads * c_.head_dim));
    cpu::AttentionArgs args{.qkv = q.data(),
                            .qkv_stride = args_.q_stride,
                            .out = out.data(),
                            .num_heads = c_.num_heads,
                            .num_kv_heads = c_.num_kv_heads,
                            .head_dim = c_.head_dim,
                            .scale = args_.scale,
                            .sliding_window = c_.sliding_window,
                            .sinks = c_.sinks ? sinks_.data() : nullptr,
                            .cache = args_.cache,
                            .metadata = args_.metadata};
    args.cache.k = k_.data();
    args.cache.v = v_.data();
    args.metadata.query_start = query_start_.data();
    args.metadata.context_lens = c_.context_lens.data();
    args.metadata.block_tables = tables_.data();
    std::atomic<size_t> next{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&] {
        const auto heads = static_cast<size_t>(c_.num_kv_heads);
        for (size_t i = next++; i < c_.context_lens.size() * heads; i = next++) {
          const size_t s = i / heads;
          if (c_.context_lens[s] > 0) {
            cpu::reference_kernels().attention(args,
                                               {.sequence = static_cast<int64_t>(s),
                                                .kv_head = static_cast<int64_t>(i % heads),
                                                .tokens = {query_start_[s], query_start_[s + 1]}});
          }
        }
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    return out;
  }

 private:
  void fill_cache(size_t num_blocks, const std::vector<int>& tables, size_t stride) {
    const size_t element = c_.e4m3 ? 1 : 2;
    const size_t row = static_cast<size_t>(c_.head_dim);
    const size_t rows = num_blocks * static_cast<size_t>(c_.num_kv_heads * c_.block_size);
    k_.assign(rows * row * element, 0xff);
    v_.assign(rows * row * element, 0xff);
    for (size_t s = 0; s < c_.context_lens.size(); ++s) {
      // A sequence's data do not depend on the others.
      std::mt19937 random(seed_ * 1000 + static_cast<uint32_t>(s));
      std::normal_distribution<float> normal(0.0F, 1.0F);
      for (int p = 0; p < c_.context_lens[s]; ++p) {
        for (int h = 0; h < c_.num_kv_heads; ++h) {
          const auto block =
              static_cast<size_t>(tables[s * stride + static_cast<size_t>(p / c_.block_size)]);
          const size_t at =
              ((block * static_cast<size_t>(c_.num_kv_heads) + static_cast<size_t>(h)) *
                   static_cast<size_t>(c_.block_size) +
               static_cast<size_t>(p % c_.block_size)) *
              row;
          for (size_t i = 0; i < row; ++i) {
            put(k_, at + i, normal(random), 0.5F);
            put(v_, at + i, normal(random), 0.25F);
          }
        }
      }
    }
  }
  void put(std::vector<uint8_t>& to, size_t index, float value, float scale) const {
    if (c_.e4m3) {
      to[index] = f32_to_f8e4m3(value / scale);
    } else {
      const uint16_t bits = f32_to_bf16(value);
      std::memcpy(to.data() + index * 2, &bits, 2);
    }
  }

  Case c_;
  uint32_t seed_;
  size_t num_tokens_ = 0;
  std::vector<uint8_t> k_, v_;
  std::vector<uint16_t> q_;
  std::vector<int> tables_, query_start_;
  std::vector<float> sinks_;
  PagedAttentionArgs args_;
};

// ||device - reference|| / ||reference||, infinite when a value is missing.
double relative_error(const std::vector<float>& device, const std::vector<float>& reference) {
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < device.size(); ++i) {
    if (!std::isfinite(device[i])) {
      return INFINITY;
    }
    const double d = static_cast<double>(device[i]) - static_cast<double>(reference[i]);
    difference += d * d;
    norm += static_cast<double>(reference[i]) * static_cast<double>(reference[i]);
  }
  return std::sqrt(difference / std::max(norm, 1e-30));
}

// bf16 operands and results: weights and outputs are rounded to 8 bits.
constexpr double kTolerance = 6e-3;
int failures = 0;

// Both the portable kernels and the best of this device.
void run(const Case& c) {
  static uint32_t seed = 1;
  ++seed;
  Setup setup(c, seed);
  const std::vector<float> reference = setup.run_reference();
  for (const bool portable : {true, false}) {
    setup.choose(portable);
    double us = 0;
    double again_us = 0;
    const std::vector<float> device = setup.run_device(&us);
    const double error = relative_error(device, reference);
    const bool same = setup.run_device(&again_us) == device;
    const bool good = error < kTolerance && same;
    failures += good ? 0 : 1;
    std::printf("%s %s %-18s H%d/%d d%d page %d %s%s%s%s seqs %zu  error %.1e%s  %.1f us\n",
                good ? "ok  " : "FAIL", portable ? "portable" : "best    ", c.name, c.num_heads,
                c.num_kv_heads, c.head_dim, c.block_size, c.e4m3 ? "e4m3" : "bf16",
                c.sliding_window > 0 ? " window" : "", c.sinks ? " sinks" : "",
                c.batch_invariant ? " invariant" : "", c.context_lens.size(), error,
                same ? "" : " NOT REPEATABLE", us);
    std::fflush(stdout);
  }
}

std::vector<int> ones(size_t n) { return std::vector<int>(n, 1); }

void decode_cases() {
  const std::vector<int> lens = {1, 15, 16, 17, 63, 64, 65, 0, 127, 300, 2};
  for (const int dim : {64, 96, 128, 256}) {
    for (const bool e4m3 : {false, true}) {
      for (const auto& [heads, kv] : std::vector<std::pair<int, int>>{
               {2, 2}, {4, 2}, {3, 1}, {8, 2}, {7, 1}, {16, 2}, {16, 1}}) {
        run({.name = "decode",
             .num_heads = heads,
             .num_kv_heads = kv,
             .head_dim = dim,
             .e4m3 = e4m3,
             .context_lens = lens,
             .query_lens = ones(lens.size())});
      }
    }
  }
  for (const bool e4m3 : {false, true}) {
    for (const int page : {16, 32, 64}) {
      run({.name = "decode pages",
           .block_size = page,
           .e4m3 = e4m3,
           .sliding_window = 40,
           .context_lens = lens,
           .query_lens = ones(lens.size())});
      run({.name = "decode sinks",
           .block_size = page,
           .e4m3 = e4m3,
           .sinks = true,
           .context_lens = lens,
           .query_lens = ones(lens.size())});
      run({.name = "decode invariant",
           .block_size = page,
           .e4m3 = e4m3,
           .batch_invariant = true,
           .context_lens = lens,
           .query_lens = ones(lens.size())});
    }
    run({.name = "decode window 1",
         .e4m3 = e4m3,
         .sliding_window = 1,
         .context_lens = lens,
         .query_lens = ones(lens.size())});
    run({.name = "decode long",
         .num_heads = 4,
         .num_kv_heads = 1,
         .e4m3 = e4m3,
         .sinks = true,
         .context_lens = {8191},
         .query_lens = {1},
         .query_scale = 4.0F});
    run({.name = "decode long inv",
         .num_heads = 4,
         .num_kv_heads = 1,
         .e4m3 = e4m3,
         .batch_invariant = true,
         .context_lens = {4097, 1, 700},
         .query_lens = {1, 1, 1}});
    run({.name = "speculative",
         .e4m3 = e4m3,
         .max_decode_queries = 4,
         .context_lens = {4, 17, 64, 65, 200},
         .query_lens = {4, 1, 3, 2, 4}});
    run({.name = "speculative w",
         .num_heads = 7,
         .num_kv_heads = 1,
         .e4m3 = e4m3,
         .sliding_window = 33,
         .sinks = true,
         .max_decode_queries = 5,
         .context_lens = {5, 17, 64, 65, 200},
         .query_lens = {5, 1, 3, 2, 4}});
  }
  std::vector<int> many;
  for (int i = 0; i < 300; ++i) {
    many.push_back(1 + i * 7 % 90);
  }
  run({.name = "decode many",
       .num_heads = 4,
       .num_kv_heads = 1,
       .context_lens = many,
       .query_lens = ones(many.size())});
}

void prefill_cases() {
  const std::vector<int> contexts = {1, 2, 15, 16, 17, 63, 64, 65, 0, 127, 128, 129, 300, 200, 90};
  const std::vector<int> queries = {1, 2, 15, 16, 17, 63, 64, 65, 1, 127, 128, 1, 300, 70, 33};
  for (const int dim : {64, 96, 128, 256}) {
    for (const bool e4m3 : {false, true}) {
      for (const auto& [heads, kv] :
           std::vector<std::pair<int, int>>{{2, 2}, {3, 1}, {8, 2}, {16, 1}}) {
        run({.name = "mixed",
             .num_heads = heads,
             .num_kv_heads = kv,
             .head_dim = dim,
             .block_size = dim == 64 ? 64 : 16,
             .e4m3 = e4m3,
             .context_lens = contexts,
             .query_lens = queries});
      }
    }
  }
  for (const bool e4m3 : {false, true}) {
    for (const int window : {1, 20, 64, 100}) {
      run({.name = "window",
           .num_heads = 7,
           .num_kv_heads = 1,
           .block_size = 32,
           .e4m3 = e4m3,
           .sliding_window = window,
           .sinks = window == 20,
           .context_lens = contexts,
           .query_lens = queries});
    }
    run({.name = "sinks",
         .e4m3 = e4m3,
         .sinks = true,
         .max_decode_queries = 2,
         .context_lens = contexts,
         .query_lens = queries});
    run({.name = "long prefix",
         .num_heads = 4,
         .num_kv_heads = 1,
         .e4m3 = e4m3,
         .context_lens = {2000, 5},
         .query_lens = {21, 5},
         .query_scale = 4.0F});
    run({.name = "long chunk",
         .num_heads = 4,
         .num_kv_heads = 1,
         .e4m3 = e4m3,
         .context_lens = {1500},
         .query_lens = {700}});
  }
}

// The first sequence's result must not depend on its neighbours.
void batch_invariance() {
  for (const bool e4m3 : {false, true}) {
    Case c{.name = "invariance",
           .e4m3 = e4m3,
           .batch_invariant = true,
           .context_lens = {777, 64, 1, 1500},
           .query_lens = ones(4)};
    double us = 0;
    const std::vector<float> batch = Setup(c, 7).run_device(&us);
    c.context_lens = {777};
    c.query_lens = {1};
    const std::vector<float> alone = Setup(c, 7).run_device(&us);
    const bool same =
        std::equal(alone.begin(), alone.begin() + c.num_heads * c.head_dim, batch.begin());
    failures += same ? 0 : 1;
    std::printf("%s batch invariance %s\n", same ? "ok  " : "FAIL", e4m3 ? "e4m3" : "bf16");
  }
}

}  // namespace
}  // namespace atom::gpu::device_test

int main() {
  atom::gpu::device_test::decode_cases();
  atom::gpu::device_test::prefill_cases();
  atom::gpu::device_test::batch_invariance();
  std::printf("attention: %d failures\n", atom::gpu::device_test::failures);
  return atom::gpu::device_test::failures == 0 ? 0 : 1;
}
