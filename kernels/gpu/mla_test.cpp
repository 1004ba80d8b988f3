// Latent attention on the device against the CPU reference: cache write, attention of mixed steps
// over awkward shapes, products per head; prints error and time per row and exits with 1 when one
// is over its limit. Memory that a kernel must not read holds NaN.
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "kernels/common/convert.h"
#include "kernels/cpu/kernels.h"
#include "kernels/gpu/device_test.h"
#include "kernels/gpu/mla.h"

namespace atom::gpu::device_test {
namespace {

int failures = 0;
int passed = 0;

// Of the largest magnitude of the reference: inputs, weights and results are bf16.
constexpr double kTolerance = 1.5e-2;
constexpr double kHeadsTolerance = 6e-3;  // one rounding to bf16

struct Span {
  int context = 0, query = 0;
};

struct Case {
  const char* name = "";
  MlaShape shape{.num_heads = 16, .rank = 512, .rope = 64, .nope = 128};
  int block_size = 16;
  bool e4m3 = false;
  bool invariant = false;
  bool repeats_rows = false;  // the cache holds 64 different ones: to be made quickly
  std::vector<Span> spans;
};

float bf16(float value) { return bf16_to_f32(f32_to_bf16(value)); }

std::vector<uint16_t> to_bf16(const std::vector<float>& values) {
  std::vector<uint16_t> out(values.size());
  std::transform(values.begin(), values.end(), out.begin(), f32_to_bf16);
  return out;
}

std::vector<float> from_bf16(const std::vector<uint16_t>& values) {
  std::vector<float> out(values.size());
  std::transform(values.begin(), values.end(), out.begin(), bf16_to_f32);
  return out;
}

double error_of(const std::vector<float>& got, const std::vector<float>& wanted) {
  double worst = 0, largest = 1e-30;
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    worst = std::max(worst, static_cast<double>(std::fabs(got[i] - wanted[i])));
    largest = std::max(largest, static_cast<double>(std::fabs(wanted[i])));
  }
  return worst / largest;
}

void report(bool good, const Case& c, const char* kernel, double error, double us) {
  good ? ++passed : ++failures;
  std::printf("%s %-12s %-9s H%d rank %d rope %d page %d%s%s seqs %zu  error %.1e  %.1f us\n",
              good ? "ok  " : "FAIL", c.name, kernel, static_cast<int>(c.shape.num_heads),
              static_cast<int>(c.shape.rank), static_cast<int>(c.shape.rope), c.block_size,
              c.e4m3 ? " e4m3" : "", c.invariant ? " invariant" : "", c.spans.size(), error, us);
}

class Scene {
 public:
  Scene(const Case& c, uint32_t seed) : c_(c), random_(seed) {
    const MlaShape& shape = c.shape;
    int blocks = 0;
    for (const Span& span : c.spans) {
      stride_ = std::max(stride_, (span.context + c.block_size - 1) / c.block_size + 1);
      blocks += (span.context + c.block_size - 1) / c.block_size;
    }
    std::vector<int32_t> order(static_cast<size_t>(blocks + 2));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random_);
    size_t next = 0;
    for (const Span& span : c.spans) {
      for (int b = 0; b < stride_; ++b) {
        tables_.push_back(b * c.block_size < span.context ? order[next++] : -1);
      }
      lens_.push_back(span.context);
      starts_.push_back(starts_.back() + span.query);
      longest_query_ = std::max(longest_query_, span.query);
      const size_t row = tables_.size() - static_cast<size_t>(stride_);
      for (int p = span.context - span.query; p < span.context; ++p) {
        slots_.push_back(p < 0 ? -1
                               : int64_t{tables_[row + static_cast<size_t>(p / c.block_size)]} *
                                         c.block_size +
                                     p % c.block_size);
      }
    }
    const auto tokens = static_cast<size_t>(starts_.back());
    q_ = values(tokens * static_cast<size_t>(shape.num_heads * (shape.nope + shape.rope)));
    latent_ = values(tokens * static_cast<size_t>(row_size()));
    query_ = values(tokens * static_cast<size_t>(shape.num_heads * row_size()));
    norm_ = values(static_cast<size_t>(shape.rank));
    cos_sin_ = values(tokens * static_cast<size_t>(shape.rope));
    fill_cache(order.size() * static_cast<size_t>(c.block_size));
  }

  void check_cache_write() {
    std::vector<uint8_t> wanted = rows_;
    std::vector<float> wanted_query = query_;
    PagedKvCache cache = host_cache(wanted);
    const std::vector<float> q = q_, latent = latent_;
    cpu::reference_kernels().mla_cache_write({.shape = c_.shape,
                                              .q = q.data(),
                                              .latent = latent.data(),
                                              .query = wanted_query.data(),
                                              .norm = norm_.data(),
                                              .norm_eps = 1e-6F,
                                              .cos_sin = cos_sin_.data(),
                                              .slot_mapping = slots_.data(),
                                              .cache = cache},
                                             {0, starts_.back()});
    DeviceArray<uint8_t> rows(rows_);
    const DeviceArray<uint16_t> device_q(to_bf16(q_)), device_latent(to_bf16(padded_latent()));
    DeviceArray<uint16_t> device_query(to_bf16(query_));
    const DeviceArray<float> norm(norm_), cos_sin(cos_sin_);
    const DeviceArray<int64_t> slots(slots_);
    cache.k = rows.data();
    const MlaCacheWriteArgs args{.shape = c_.shape,
                                 .q = device_q.data(),
                                 .latent = device_latent.data(),
                                 .latent_stride = latent_stride(),
                                 .query = device_query.data(),
                                 .norm = norm.data(),
                                 .norm_eps = 1e-6F,
                                 .cos_sin = cos_sin.data(),
                                 .slot_mapping = slots.data(),
                                 .cache = cache,
                                 .num_tokens = starts_.back()};
    const double us = time_us(5, [&](int) { (void)mla_cache_write(args, stream()); });
    const double query_error = error_of(from_bf16(device_query.get()), wanted_query);
    const double cache_error = error_of(real_rows(rows.get()), real_rows(wanted));
    const double limit = c_.e4m3 ? 0.07 : 8e-3;  // one step of the cache's type
    report(query_error < 8e-3 && cache_error < limit, c_, "write",
           std::max(query_error, cache_error), us);
  }

  void check_attention() {
    const std::vector<float> wanted = reference();
    for (const bool portable : {false, true}) {
      double us = 0;
      const std::vector<float> got = run(portable, &us);
      const double error = error_of(got, wanted);
      const bool same = got == run(portable, &us);
      report(error < kTolerance && same, c_,
             portable ? "portable"
             : same   ? "attention"
                      : "CHANGES",
             error, us);
    }
  }

  // What runs in one kernel against the same in two.
  void check_fused() {
    const MlaShape& shape = c_.shape;
    const auto heads = static_cast<size_t>(shape.num_heads);
    const auto tokens = static_cast<size_t>(starts_.back());
    constexpr int kValues = 24;  // of a head
    const auto rank = static_cast<size_t>(shape.rank);
    const DeviceArray<uint16_t> keys(
        to_bf16(values(heads * ((rank + 15) / 16 * 16) * static_cast<size_t>(shape.nope))));
    const DeviceArray<uint16_t> up(to_bf16(values(heads * 32 * rank)));
    const DeviceArray<uint16_t> q(to_bf16(q_)), latent(to_bf16(padded_latent()));
    const DeviceArray<float> norm(norm_), cos_sin(cos_sin_);
    const DeviceArray<int64_t> slots(slots_);
    const DeviceArray<int32_t> tables(tables_), starts(starts_), lens(lens_);
    DeviceArray<float> partials(static_cast<size_t>(mla_partial_floats(shape)));
    DeviceArray<uint16_t> query(query_.size()), out(tokens * heads * rank);
    DeviceArray<uint8_t> rows(rows_);
    DeviceArray<uint16_t> result(tokens * heads * kValues);
    const auto token_count = starts_.back();
    const LinearHeadsArgs key_up{.x = q.data(),
                                 .weight = keys.data(),
                                 .out = query.data(),
                                 .num_tokens = token_count,
                                 .num_heads = static_cast<int32_t>(shape.num_heads),
                                 .in_features = static_cast<int32_t>(shape.nope),
                                 .out_features = static_cast<int32_t>(shape.rank),
                                 .row_stride = (shape.rank + 15) / 16 * 16,
                                 .x_stride = shape.nope + shape.rope,
                                 .out_stride = row_size()};
    const LinearHeadsArgs value_up{.x = out.data(),
                                   .weight = up.data(),
                                   .out = result.data(),
                                   .num_tokens = token_count,
                                   .num_heads = static_cast<int32_t>(shape.num_heads),
                                   .in_features = static_cast<int32_t>(shape.rank),
                                   .out_features = kValues,
                                   .row_stride = 32,
                                   .x_stride = shape.rank,
                                   .out_stride = kValues};
    MlaCacheWriteArgs write{.shape = shape,
                            .q = q.data(),
                            .latent = latent.data(),
                            .latent_stride = latent_stride(),
                            .query = query.data(),
                            .norm = norm.data(),
                            .norm_eps = 1e-6F,
                            .cos_sin = cos_sin.data(),
                            .slot_mapping = slots.data(),
                            .cache = host_cache(rows_),
                            .num_tokens = token_count};
    write.cache.k = rows.data();
    MlaAttentionArgs attention{.shape = shape,
                               .query = query.data(),
                               .out = out.data(),
                               .scale = scale(),
                               .cache = write.cache,
                               .metadata = metadata(),
                               .partials = partials.data()};
    attention.metadata.query_start = starts.data();
    attention.metadata.context_lens = lens.data();
    attention.metadata.block_tables = tables.data();
    (void)mla_cache_write(write, stream());
    (void)linear_heads(key_up, stream());
    (void)mla_attention(attention, stream());
    (void)linear_heads(value_up, stream());
    const std::vector<uint16_t> queries = query.get();
    const std::vector<uint8_t> cached = rows.get();
    const std::vector<float> wanted = from_bf16(result.get());
    for (int round = 0; round < 2; ++round) {
      query.fill(0xff);
      rows.set(rows_);
      out.fill(0xff);
      result.fill(0xff);
      (void)mla_queries(write, key_up, stream());
      const bool same = query.get() == queries && rows.get() == cached;
      (void)mla_attention_values(attention, value_up, stream());
      const double error = error_of(from_bf16(result.get()), wanted);
      const double us = time_us(5, [&](int) { (void)mla_queries(write, key_up, stream()); });
      report(same, c_, "queries", 0, us);
      const double values_us =
          time_us(5, [&](int) { (void)mla_attention_values(attention, value_up, stream()); });
      report(error < kTolerance, c_, "values", error, values_us);
    }
  }

  // Leaves the first sequences of the step.
  void keep(size_t count) {
    lens_.resize(count);
    starts_.resize(count + 1);
  }

  std::vector<float> run(bool portable, double* us) {
    const DeviceArray<uint8_t> rows(rows_);
    const DeviceArray<uint16_t> query(to_bf16(query_));
    const DeviceArray<int32_t> tables(tables_), starts(starts_), lens(lens_);
    DeviceArray<uint16_t> out(
        static_cast<size_t>(starts_.back() * c_.shape.num_heads * c_.shape.rank));
    out.fill(0xff);
    DeviceArray<float> partials(static_cast<size_t>(mla_partial_floats(c_.shape)));
    partials.fill(0xff);
    MlaAttentionArgs args{.shape = c_.shape,
                          .query = query.data(),
                          .out = out.data(),
                          .scale = scale(),
                          .cache = host_cache(rows_),
                          .metadata = metadata(),
                          .batch_invariant = c_.invariant,
                          .portable = portable,
                          .partials = partials.data()};
    args.cache.k = rows.data();
    args.metadata.query_start = starts.data();
    args.metadata.context_lens = lens.data();
    args.metadata.block_tables = tables.data();
    if (const DeviceStatus failed = mla_attention(args, stream())) {
      std::printf("     %s\n", failed);
    }
    *us = time_us(3, [&](int) { (void)mla_attention(args, stream()); });
    return from_bf16(out.get());
  }

 private:
  int64_t row_size() const { return c_.shape.rank + c_.shape.rope; }
  int64_t latent_stride() const { return row_size() + 4; }
  // Rows of latent_stride() values, as of a product whose features are rounded up.
  std::vector<float> padded_latent() const {
    std::vector<float> out;
    const auto size = static_cast<size_t>(row_size());
    for (size_t at = 0; at < latent_.size(); at += size) {
      out.insert(out.end(), latent_.begin() + static_cast<ptrdiff_t>(at),
                 latent_.begin() + static_cast<ptrdiff_t>(at + size));
      out.resize(out.size() + static_cast<size_t>(latent_stride() - row_size()), NAN);
    }
    return out;
  }
  float scale() const {
    return 1.0F / std::sqrt(static_cast<float>(c_.shape.nope + c_.shape.rope));
  }
  std::vector<float> values(size_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> out(count);
    for (float& value : out) value = bf16(normal(random_));
    return out;
  }
  AttentionMetadata metadata() const {
    return {.num_tokens = starts_.back(),
            .num_seqs = static_cast<int64_t>(lens_.size()),
            .max_query_len = longest_query_,
            .block_size = c_.block_size,
            .block_table_stride = stride_,
            .query_start = starts_.data(),
            .context_lens = lens_.data(),
            .block_tables = tables_.data()};
  }
  PagedKvCache host_cache(const std::vector<uint8_t>& rows) const {
    return {.k = const_cast<uint8_t*>(rows.data()),
            .dtype = c_.e4m3 ? DType::kF8E4M3 : DType::kBF16,
            .num_blocks = static_cast<int64_t>(rows.size()) /
                          (row_size() * c_.block_size * (c_.e4m3 ? 1 : 2)),
            .num_kv_heads = 1,
            .block_size = c_.block_size,
            .head_dim = row_size(),
            .k_scale = c_.e4m3 ? 0.05F : 1.0F};
  }
  // NaN but for the rows of contexts.
  void fill_cache(size_t slots) {
    const size_t size = static_cast<size_t>(row_size()) * (c_.e4m3 ? 1 : 2);
    rows_.assign(slots * size, 0xff);
    std::vector<std::vector<float>> made;
    for (size_t s = 0; s < lens_.size(); ++s) {
      for (int p = 0; p < lens_[s]; ++p) {
        const auto block = static_cast<size_t>(
            tables_[s * static_cast<size_t>(stride_) + static_cast<size_t>(p / c_.block_size)]);
        uint8_t* row = rows_.data() + (block * static_cast<size_t>(c_.block_size) +
                                       static_cast<size_t>(p % c_.block_size)) *
                                          size;
        if (made.size() < 64 || !c_.repeats_rows) {
          made.push_back(values(static_cast<size_t>(row_size())));
        }
        const std::vector<float>& real =
            c_.repeats_rows ? made[static_cast<size_t>(p) % made.size()] : made.back();
        for (size_t i = 0; i < real.size(); ++i) {
          if (c_.e4m3) {
            row[i] = f32_to_f8e4m3(real[i] / 0.05F);
          } else {
            const uint16_t value = f32_to_bf16(real[i]);
            std::memcpy(row + 2 * i, &value, 2);
          }
        }
      }
    }
  }
  // Of the tokens of this step.
  std::vector<float> real_rows(const std::vector<uint8_t>& rows) const {
    std::vector<float> out;
    const auto size = static_cast<size_t>(row_size());
    for (const int64_t slot : slots_) {
      for (size_t i = 0; slot >= 0 && i < size; ++i) {
        const size_t at = static_cast<size_t>(slot) * size + i;
        if (c_.e4m3) {
          out.push_back(f8e4m3_to_f32(rows[at]) * 0.05F);
        } else {
          uint16_t value = 0;
          std::memcpy(&value, rows.data() + 2 * at, 2);
          out.push_back(bf16_to_f32(value));
        }
      }
    }
    return out;
  }
  std::vector<float> reference() const {
    std::vector<float> out(
        static_cast<size_t>(starts_.back() * c_.shape.num_heads * c_.shape.rank));
    const cpu::MlaAttentionArgs args{.shape = c_.shape,
                                     .query = query_.data(),
                                     .out = out.data(),
                                     .scale = scale(),
                                     .cache = host_cache(rows_),
                                     .metadata = metadata()};
    for (size_t s = 0; s < lens_.size(); ++s) {
      if (lens_[s] > 0) {
        cpu::reference_kernels().mla_attention(args, {.sequence = static_cast<int64_t>(s),
                                                      .token_begin = starts_[s],
                                                      .token_end = starts_[s + 1],
                                                      .head_end = c_.shape.num_heads});
      }
    }
    return out;
  }

  const Case c_;
  std::mt19937 random_;
  int stride_ = 1;
  int longest_query_ = 0;
  std::vector<int32_t> tables_, lens_, starts_{0};
  std::vector<int64_t> slots_;
  std::vector<uint8_t> rows_;
  std::vector<float> q_, latent_, query_, norm_, cos_sin_;
};

const MlaShape kShapes[] = {
    {.num_heads = 16, .rank = 512, .rope = 64, .nope = 128},   // V2-Lite
    {.num_heads = 128, .rank = 512, .rope = 64, .nope = 128},  // V3
    {.num_heads = 4, .rank = 32, .rope = 8, .nope = 16},
    {.num_heads = 20, .rank = 136, .rope = 16, .nope = 32},
    {.num_heads = 3, .rank = 20, .rope = 6, .nope = 10},
};

void attention_cases() {
  const std::vector<Span> decode = {{1, 1}, {15, 1}, {16, 1}, {17, 1}, {300, 1}, {0, 1}, {63, 1}};
  const std::vector<Span> mixed = {{33, 1}, {5, 5}, {100, 37}, {64, 64}, {129, 2}};
  for (const MlaShape& shape : kShapes) {
    for (const bool e4m3 : {false, true}) {
      for (const int page : {16, 64}) {
        Scene write(
            {.name = "write", .shape = shape, .block_size = page, .e4m3 = e4m3, .spans = mixed}, 3);
        write.check_cache_write();
        Scene({.name = "decode", .shape = shape, .block_size = page, .e4m3 = e4m3, .spans = decode},
              5)
            .check_attention();
        Scene({.name = "mixed", .shape = shape, .block_size = page, .e4m3 = e4m3, .spans = mixed},
              7)
            .check_attention();
      }
      for (const std::vector<Span>& spans :
           {std::vector<Span>{{700, 1}}, {{300, 1}, {1, 1}, {65, 3}}, mixed}) {
        Scene({.name = "fused", .shape = shape, .e4m3 = e4m3, .spans = spans}, 11).check_fused();
      }
      Scene({.name = "alone", .shape = shape, .e4m3 = e4m3, .spans = {{1500, 1}}}, 9)
          .check_attention();
      Scene({.name = "one", .shape = shape, .e4m3 = e4m3, .spans = {{1, 1}}}, 9).check_attention();
    }
  }
}

// A sequence's rows are the same beside others and alone, whatever kernel a usual step would take.
void invariance_cases() {
  for (const MlaShape& shape : kShapes) {
    const Case c{.name = "invariance",
                 .shape = shape,
                 .invariant = true,
                 .spans = {{200, 1}, {77, 1}, {500, 1}}};
    double us = 0;
    Scene scene(c, 5);
    const std::vector<float> batch = scene.run(false, &us);
    scene.keep(1);
    const std::vector<float> alone = scene.run(false, &us);
    const bool same = std::equal(alone.begin(), alone.end(), batch.begin());
    report(same && !alone.empty(), c, same ? "same" : "DIFFERS", 0, us);
  }
}

void heads_cases() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const int shapes[][3] = {{16, 128, 512}, {128, 512, 128}, {4, 16, 32}, {20, 136, 24},
                           {3, 8, 8},      {3, 12, 20},     {2, 7, 5}};
  for (const auto& [heads, in, out] : shapes) {
    for (const int tokens : {1, 3, 16, 17, 65, 130}) {
      const int row_stride = (out + 15) / 16 * 16, x_stride = in + 8, out_stride = out + 8;
      std::vector<float> x(static_cast<size_t>(tokens * heads * x_stride));
      std::vector<float> weight(static_cast<size_t>(heads * row_stride * in));
      for (float& value : x) value = bf16(normal(random));
      for (float& value : weight) value = bf16(normal(random));
      const DeviceArray<uint16_t> device_x(to_bf16(x)), device_weight(to_bf16(weight));
      DeviceArray<uint16_t> result(static_cast<size_t>(tokens * heads * out_stride));
      result.fill(0);
      const LinearHeadsArgs args{.x = device_x.data(),
                                 .weight = device_weight.data(),
                                 .out = result.data(),
                                 .num_tokens = tokens,
                                 .num_heads = heads,
                                 .in_features = in,
                                 .out_features = out,
                                 .row_stride = row_stride,
                                 .x_stride = x_stride,
                                 .out_stride = out_stride};
      const double us = time_us(5, [&](int) { (void)linear_heads(args, stream()); });
      std::vector<float> wanted(result.size(), 0.0F);
      for (int t = 0; t < tokens; ++t) {
        for (int h = 0; h < heads; ++h) {
          for (int o = 0; o < out; ++o) {
            double sum = 0;
            for (int i = 0; i < in; ++i) {
              sum +=
                  static_cast<double>(x[static_cast<size_t>((t * heads + h) * x_stride + i)]) *
                  static_cast<double>(weight[static_cast<size_t>((h * row_stride + o) * in + i)]);
            }
            wanted[static_cast<size_t>((t * heads + h) * out_stride + o)] = static_cast<float>(sum);
          }
        }
      }
      const double error = error_of(from_bf16(result.get()), wanted);
      const bool good = error < kHeadsTolerance;
      good ? ++passed : ++failures;
      std::printf("%s heads %d x [%d, %d], %d tokens  error %.1e  %.1f us\n",
                  good ? "ok  " : "FAIL", heads, out, in, tokens, error, us);
    }
  }
}

// Time of decode attention alone; bytes of the cache once, and products.
void speed() {
  for (const int heads : {16, 128}) {
    for (const int page : {16, 64}) {
      for (const auto& [seqs, context] :
           {std::pair{1, 256}, {1, 4096}, {8, 4096}, {64, 4096}, {128, 1024}}) {
        Case c{.name = "speed", .shape = kShapes[0], .block_size = page, .repeats_rows = true};
        c.shape.num_heads = heads;
        c.spans.assign(static_cast<size_t>(seqs), Span{context, 1});
        double us = 0;
        Scene scene(c, 3);
        (void)scene.run(false, &us);
        const double keys = static_cast<double>(seqs) * context;
        std::printf("speed H%d page %d B%d x %d: %.1f us, %.0f GB/s, %.0f TFLOP/s\n", heads, page,
                    seqs, context, us, keys * 1152 / us * 1e-3,
                    keys * heads * 2 * (576 + 512) / us * 1e-6);
      }
    }
  }
}

}  // namespace
}  // namespace atom::gpu::device_test

int main(int argc, char** argv) {
  using namespace atom::gpu::device_test;
  (void)std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (argc > 1 && std::strcmp(argv[1], "speed") == 0) {
    speed();
    return 0;
  }
  heads_cases();
  attention_cases();
  invariance_cases();
  std::printf("mla: %d passed, %d failed\n", passed, failures);
  return failures == 0 ? 0 : 1;
}
