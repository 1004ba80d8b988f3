// A decode step's layer as the engine chains it (norm + qkv, attention, o + residual, norm +
// gate_up
// + SiLU * mul, down + residual) in graphs over weights that lie in memory: microseconds a layer
// and percent of the read roof of the same run, for every reader of weights and both forms of
// attention. Arguments: none, or the numbers of tokens.
#include <cstring>
#include <string>

#include "kernels/gpu/attention.h"
#include "kernels/gpu/linear_benchmark_support.h"

namespace atom::gpu::device_test {
namespace {

constexpr int kPage = 16;
constexpr int kKvHeads = 8;
constexpr int kDim = 128;
constexpr int64_t kMaxSeqs = 16;
constexpr int kContext = 4096;

struct Model {
  const char* name;
  const BenchmarkShape* shapes;
  int num_heads;
  bool norms;
};
constexpr Model kModels[] = {{"0.6B", kQwen06B, 16, true}, {"8B", kLlama8B, 32, false}};

struct Variant {
  const char* name;
  bool fused;     // attention
  char reader;    // 'c' as chosen, 's' registers, 'r' ring
  int tiles = 0;  // of a ring; 0: as measured best for each shape alone
};
constexpr Variant kVariants[] = {
    {"split", false, 'c'},         {"fused", true, 'c'},
    {"registers", true, 's'},      {"ring", true, 'r'},
    {"ring 1 tile", true, 'r', 1}, {"ring 2 tiles", true, 'r', 2},
    {"no attention", true, 'C'},   {"no attention, ring 2", true, 'R', 2}};

struct Buffers {
  DeviceArray<uint16_t> x{size_t{16} * 16384};
  DeviceArray<uint16_t> qkv{size_t{16} * 16384};
  DeviceArray<uint16_t> heads{size_t{16} * 16384};
  DeviceArray<uint16_t> hidden{size_t{16} * 32768};
  DeviceArray<float> residual{size_t{16} * 16384};
  DeviceArray<float> ones{std::vector<float>(160000, 1.0F)};
  DeviceArray<uint8_t> cache_k{size_t{512} << 20};
  DeviceArray<uint8_t> cache_v{size_t{512} << 20};
  DeviceArray<uint8_t> workspace{size_t{128} << 20};

  Buffers() {
    (void)fill_random(3, 1.0F, x.data(), static_cast<int64_t>(x.size()), stream());
    for (DeviceArray<uint8_t>* cache : {&cache_k, &cache_v}) {
      (void)fill_random(5, 1.0F, reinterpret_cast<uint16_t*>(cache->data()),
                        static_cast<int64_t>(cache->size() / 2), stream());
    }
    residual.fill(0);
    workspace.fill(0);
  }
};

class Layer {
 public:
  Layer(const WeightPool& pool, const Buffers& buffers, const Model& model, bool e4m3, int64_t m,
        int context)
      : pool_(pool), b_(buffers), model_(model), e4m3_(e4m3), m_(m) {
    const int blocks = (context + kPage - 1) / kPage;
    std::vector<int> starts, tables;
    std::vector<int64_t> slots;
    for (int s = 0; s <= m; ++s) starts.push_back(s);
    for (int s = 0; s < m; ++s) {
      for (int i = 0; i < blocks; ++i)
        tables.push_back((s * blocks + i) * 7 % (blocks * static_cast<int>(m)));
      slots.push_back(int64_t{tables.back()} * kPage + (context - 1) % kPage);
    }
    starts_.set(starts);
    tables_.set(tables);
    slots_.set(slots);
    lens_.set(std::vector<int>(static_cast<size_t>(m), context));
    one_layer_ = m * blocks * kPage * kKvHeads * kDim * 2;
    blocks_ = blocks;
    for (int i = 0; i < 4; ++i) bytes_ += model.shapes[i].n * model.shapes[i].k * (e4m3 ? 1 : 2);
  }
  int64_t bytes() const { return bytes_; }

  void launch(const Variant& variant, int i) {
    const uint8_t* weights = pool_.copy(i, bytes_);
    product(variant, 0, weights, b_.x.data(), b_.qkv.data());
    if (variant.reader != 'C' && variant.reader != 'R') attention(variant.fused, i);
    product(variant, 1, weights, b_.heads.data(), b_.residual.data());
    product(variant, 2, weights, nullptr, b_.hidden.data());
    product(variant, 3, weights, b_.hidden.data(), b_.residual.data());
  }

 private:
  void product(const Variant& variant, int index, const uint8_t*& weights, const uint16_t* x,
               void* out) const {
    const BenchmarkShape& shape = model_.shapes[index];
    const bool normed = index == 0 || index == 2;
    LinearArgs args{.x = x,
                    .weight = weights,
                    .weight_dtype = e4m3_ ? DType::kF8E4M3 : DType::kBF16,
                    .scales = e4m3_ ? b_.ones.data() : nullptr,
                    .num_tokens = m_,
                    .out_features = shape.n,
                    .in_features = shape.k,
                    .epilogue = index == 0   ? LinearEpilogue::kStore
                                : index == 2 ? LinearEpilogue::kSiluMul
                                             : LinearEpilogue::kAddResidual,
                    .out = out,
                    .norm_input = normed ? b_.residual.data() : nullptr,
                    .norm_weight = b_.ones.data(),
                    .norm_eps = 1e-5F};
    SmallLinearPlan plan = choose_small_plan(args);
    if (variant.reader != 'c' && variant.reader != 'C') {
      plan.ring = variant.reader != 's';
      plan.blocks_per_multiprocessor = 2;
      if (plan.ring) {
        const bool two = index == 2 || shape.k < 2048 || shape.n <= 2048;
        plan.row_tiles = variant.tiles != 0 && index != 2 ? variant.tiles : two ? 2 : 1;
      }
    }
    if (linear_small(args, plan, stream()) != nullptr) {  // x and the ring do not fit
      (void)linear_small(args, choose_small_plan(args), stream());
    }
    weights += shape.n * shape.k * (e4m3_ ? 1 : 2);
  }

  void attention(bool fused, int i) const {
    const int layers = static_cast<int>(static_cast<int64_t>(b_.cache_k.size()) / one_layer_);
    const int64_t at = i % layers * one_layer_;
    const PagedKvCache cache{.k = b_.cache_k.data() + at,
                             .v = b_.cache_v.data() + at,
                             .num_blocks = m_ * blocks_,
                             .num_kv_heads = kKvHeads,
                             .block_size = kPage,
                             .head_dim = kDim};
    const QkNormRopeKvWriteArgs rope{.qkv = b_.qkv.data(),
                                     .num_tokens = m_,
                                     .num_heads = model_.num_heads,
                                     .num_kv_heads = kKvHeads,
                                     .head_dim = kDim,
                                     .rotary_dim = kDim,
                                     .cos_sin = b_.ones.data(),
                                     .q_norm = model_.norms ? b_.ones.data() : nullptr,
                                     .k_norm = model_.norms ? b_.ones.data() : nullptr,
                                     .slot_mapping = slots_.data(),
                                     .cache = cache};
    PagedAttentionArgs args{.q = b_.qkv.data(),
                            .q_stride = (model_.num_heads + 2 * kKvHeads) * kDim,
                            .out = b_.heads.data(),
                            .num_heads = model_.num_heads,
                            .num_kv_heads = kKvHeads,
                            .head_dim = kDim,
                            .scale = 0.0884F,
                            .cache = cache,
                            .max_seqs = kMaxSeqs,
                            .workspace = b_.workspace.data()};
    args.metadata.num_tokens = args.metadata.num_seqs = m_;
    args.metadata.max_query_len = 1;
    args.metadata.block_size = kPage;
    args.metadata.block_table_stride = blocks_;
    args.metadata.query_start = starts_.data();
    args.metadata.context_lens = lens_.data();
    args.metadata.block_tables = tables_.data();
    if (fused && step_attention(rope, args, stream())) return;
    (void)qk_norm_rope_kv_write(rope, stream());
    decode_attention(args, stream());
  }

  const WeightPool& pool_;
  const Buffers& b_;
  const Model& model_;
  const bool e4m3_;
  const int64_t m_;
  int64_t bytes_ = 0;
  int64_t one_layer_ = 0;
  int blocks_ = 0;
  DeviceArray<int> starts_{kMaxSeqs + 1}, lens_{kMaxSeqs};
  DeviceArray<int> tables_{kMaxSeqs * (kContext / kPage + 1)};
  DeviceArray<int64_t> slots_{kMaxSeqs};
};

void measure(const WeightPool& pool, const Buffers& buffers, double roof, int64_t m, int context) {
  for (const bool e4m3 : {false, true}) {
    for (const Model& model : kModels) {
      std::printf("layer %-4s %s M%d ctx %-4d", model.name, e4m3 ? "e4m3" : "bf16",
                  static_cast<int>(m), context);
      Layer layer(pool, buffers, model, e4m3, m, context);
      for (const Variant& variant : kVariants) {
        const double us = time_us(32, [&](int i) { layer.launch(variant, i); });
        std::printf(" | %s %.1f (%.0f%%)", variant.name, us,
                    static_cast<double>(layer.bytes()) / us / 10.0 / roof);
      }
      std::printf("\n");
      std::fflush(stdout);
    }
  }
}

void run_all(int argc, char** argv) {
  const WeightPool pool;
  const Buffers buffers;
  const double roof = read_roof(pool);
  std::printf("read roof %.0f GB/s; us a layer (weights / time, of the roof)\n", roof);
  if (argc > 1) {
    for (int i = 1; i < argc; ++i) measure(pool, buffers, roof, std::atoi(argv[i]), 200);
    return;
  }
  for (const int64_t m : {1, 2, 4, 8}) measure(pool, buffers, roof, m, 200);
  measure(pool, buffers, roof, 1, 2000);
}

}  // namespace
}  // namespace atom::gpu::device_test

int main(int argc, char** argv) {
  atom::gpu::device_test::run_all(argc, argv);
  return 0;
}
