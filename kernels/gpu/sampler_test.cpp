// The device sampler against the CPU's, which its own tests check against a brute-force oracle: the
// same token but where the random number is too near a boundary to say, the same log probabilities
// and ranks. Then its speed. Prints a summary per group and exits with 1 on a difference. Runs
// where a device is; not a GoogleTest, so that it is one small file to take there.
#include "kernels/gpu/sampler.h"

#include <array>
#include <cmath>
#include <cstring>
#include <string>

#include "atom/model_ops/cpu/sampler_ops.h"
#include "atom/model_ops/cpu/sampler_oracle.h"
#include "kernels/gpu/device_test.h"

namespace atom::gpu::device_test {
namespace {

int failures = 0;

void expect(bool good, const char* group, const std::string& detail) {
  if (!good && ++failures < 40) {
    std::printf("FAIL %s: %s\n", group, detail.c_str());
    std::fflush(stdout);
  }
}

// What one row is sampled with, owning its lists.
struct RowSpec {
  SamplingRow row;  // spans are set by finish()
  std::vector<int32_t> prompt, output, banned;
  std::vector<std::pair<int32_t, float>> biases;
  std::vector<uint32_t> mask;  // empty = none

  void finish() {
    row.prompt_token_ids = prompt;
    row.output_token_ids = output;
    row.banned_token_ids = banned;
    row.logit_bias = biases;
  }
};

struct DeviceResult {
  std::vector<int32_t> tokens;
  std::vector<SamplerLogprob> logprobs;
  std::vector<SamplerTopToken> top;
  std::vector<uint16_t> counts;
};

// The sampler's blob: rows, then lists.
std::vector<uint8_t> make_blob(const std::vector<RowSpec>& specs) {
  std::vector<uint8_t> blob(specs.size() * sizeof(SamplerRow));
  const auto append = [&](const void* data, size_t bytes) {
    const auto at = static_cast<int32_t>(blob.size());
    const auto* from = static_cast<const uint8_t*>(data);
    blob.insert(blob.end(), from, from + bytes);
    return at;
  };
  for (size_t i = 0; i < specs.size(); ++i) {
    const RowSpec& spec = specs[i];
    const bool counted = spec.row.repetition_penalty != 1.0F ||
                         spec.row.frequency_penalty != 0.0F || spec.row.presence_penalty != 0.0F;
    SamplerRow row{.temperature = spec.row.temperature,
                   .top_p = spec.row.top_p,
                   .top_k = spec.row.top_k,
                   .min_p = spec.row.min_p,
                   .presence_penalty = spec.row.presence_penalty,
                   .frequency_penalty = spec.row.frequency_penalty,
                   .repetition_penalty = spec.row.repetition_penalty,
                   .count_slot = counted ? static_cast<int32_t>(i) : -1,
                   .seed = spec.row.seed,
                   .position = spec.row.position,
                   .num_logprobs = spec.row.num_logprobs};
    std::vector<SamplerBias> biases;
    for (const auto& [id, bias] : spec.biases) {
      biases.push_back({id, bias});
    }
    row.num_biases = static_cast<int32_t>(biases.size());
    row.biases = append(biases.data(), biases.size() * sizeof(SamplerBias));
    row.num_banned = static_cast<int32_t>(spec.banned.size());
    row.banned = append(spec.banned.data(), spec.banned.size() * 4);
    row.mask = spec.mask.empty() ? 0 : append(spec.mask.data(), spec.mask.size() * 4);
    std::memcpy(blob.data() + i * sizeof(SamplerRow), &row, sizeof(row));
  }
  return blob;
}

DeviceResult run_device(const std::vector<float>& logits, int64_t stride, int32_t vocab_size,
                        const std::vector<RowSpec>& specs,
                        const std::vector<int32_t>* targets = nullptr) {
  const auto num_rows = static_cast<int32_t>(specs.size());
  const int32_t max_rows = num_rows + 2;
  const DeviceArray<float> d_logits(logits);
  const DeviceArray<uint8_t> blob(make_blob(specs));
  DeviceArray<uint8_t> workspace(
      static_cast<size_t>(sampler_workspace_bytes(max_rows, vocab_size)));
  workspace.fill(0);
  DeviceArray<int32_t> tokens(specs.size());
  DeviceArray<SamplerLogprob> logprobs(specs.size());
  DeviceArray<SamplerTopToken> top(specs.size() * kMaxTopLogprobs);
  DeviceArray<uint16_t> counts(specs.size() * static_cast<size_t>(vocab_size));
  counts.fill(0x11);
  for (int32_t i = 0; i < num_rows; ++i) {
    const DeviceArray<int32_t> prompt(specs[static_cast<size_t>(i)].prompt);
    const DeviceArray<int32_t> output(specs[static_cast<size_t>(i)].output);
    set_token_counts({.token_counts = {counts.data(), num_rows},
                      .vocab_size = vocab_size,
                      .slot = i,
                      .prompt_token_ids = prompt.data(),
                      .num_prompt_tokens = static_cast<int64_t>(prompt.size()),
                      .output_token_ids = output.data(),
                      .num_output_tokens = static_cast<int64_t>(output.size())},
                     stream());
    ATOM_DEVICE(cudaStreamSynchronize(stream()));
  }
  const DeviceArray<int32_t> d_targets(targets != nullptr ? *targets : std::vector<int32_t>{});
  sample_tokens({.logits = d_logits.data(),
                 .logit_stride = stride,
                 .vocab_size = vocab_size,
                 .num_rows = num_rows,
                 .blob = blob.data(),
                 .targets = targets != nullptr ? d_targets.data() : nullptr,
                 .token_counts = {counts.data(), num_rows},
                 .workspace = workspace.data(),
                 .token_ids = tokens.data(),
                 .logprobs = logprobs.data(),
                 .top_logprobs = top.data()},
                max_rows, stream());
  ATOM_DEVICE(cudaGetLastError());
  return {tokens.get(), logprobs.get(), top.get(), counts.get()};
}

std::vector<SampledToken> run_cpu(const std::vector<float>& logits, int64_t stride,
                                  int32_t vocab_size, const std::vector<RowSpec>& specs) {
  std::vector<SampledToken> out(specs.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    std::vector<float> row(logits.begin() + static_cast<int64_t>(i) * stride,
                           logits.begin() + static_cast<int64_t>(i) * stride + vocab_size);
    SamplingRow params = specs[i].row;
    std::vector<int32_t> banned = specs[i].banned;
    for (int32_t id = 0; !specs[i].mask.empty() && id < vocab_size; ++id) {
      if ((specs[i].mask[static_cast<size_t>(id / 32)] >> (id % 32) & 1U) == 0) {
        banned.push_back(id);
      }
    }
    params.banned_token_ids = banned;
    sample_cpu({}, Tensor(row.data(), DType::kF32, {1, vocab_size}), {&params, 1}, {&out[i], 1});
  }
  return out;
}

// Whether the draw of a row is too near a boundary for two roundings to agree.
bool near_boundary(std::vector<float> logits, const RowSpec& spec) {
  SamplingRow row = spec.row;
  std::vector<int32_t> banned = spec.banned;
  for (size_t id = 0; !spec.mask.empty() && id < logits.size(); ++id) {
    if ((spec.mask[id / 32] >> (id % 32) & 1U) == 0) {
      banned.push_back(static_cast<int32_t>(id));
    }
  }
  row.banned_token_ids = banned;
  return oracle::token(oracle::distribution(logits, row), row) < 0;
}

void compare(const char* group, const std::vector<float>& logits, int64_t stride,
             int32_t vocab_size, const std::vector<RowSpec>& specs, int& near) {
  const DeviceResult device = run_device(logits, stride, vocab_size, specs);
  const std::vector<SampledToken> cpu = run_cpu(logits, stride, vocab_size, specs);
  for (size_t i = 0; i < specs.size(); ++i) {
    const SamplingRow& row = specs[i].row;
    const std::string where =
        "V=" + std::to_string(vocab_size) + " row " + std::to_string(i) +
        " T=" + std::to_string(row.temperature) + " k=" + std::to_string(row.top_k) +
        " p=" + std::to_string(row.top_p) + " min_p=" + std::to_string(row.min_p) + " device " +
        std::to_string(device.tokens[i]) + " cpu " + std::to_string(cpu[i].token_id);
    if (device.tokens[i] != cpu[i].token_id) {
      const std::vector<float> values(
          logits.begin() + static_cast<int64_t>(i) * stride,
          logits.begin() + static_cast<int64_t>(i) * stride + vocab_size);
      const bool boundary = device.tokens[i] >= 0 && device.tokens[i] < vocab_size &&
                            cpu[i].token_id >= 0 && near_boundary(values, specs[i]);
      near += boundary ? 1 : 0;
      expect(boundary, group, where);
      continue;
    }
    const int32_t token = device.tokens[i];
    if (token < 0) {
      continue;
    }
    const bool counted = row.repetition_penalty != 1.0F || row.frequency_penalty != 0.0F ||
                         row.presence_penalty != 0.0F;
    if (counted) {
      const auto count = static_cast<uint16_t>(
          std::count(specs[i].output.begin(), specs[i].output.end(), token) + 1);
      const uint16_t entry =
          device.counts[i * static_cast<size_t>(vocab_size) + static_cast<size_t>(token)];
      expect((entry & 0x7fffU) == count, group, where + " count");
    }
    if (row.num_logprobs >= 0) {
      const TokenLogprobs& want = cpu[i].logprobs;
      const auto close = [](float a, float b) {
        return a == b || std::abs(a - b) <= 3e-6F * (1 + std::abs(b));
      };
      expect(
          close(device.logprobs[i].logprob, want.logprob) && device.logprobs[i].rank == want.rank,
          group,
          where + " logprob " + std::to_string(device.logprobs[i].logprob) + " cpu " +
              std::to_string(want.logprob) + " rank " + std::to_string(device.logprobs[i].rank) +
              " cpu " + std::to_string(want.rank));
      for (size_t n = 0; n < std::min<size_t>(want.top.size(), kMaxTopLogprobs); ++n) {
        const SamplerTopToken& top = device.top[i * kMaxTopLogprobs + n];
        expect(top.token_id == want.top[n].first && close(top.logprob, want.top[n].second), group,
               where + " top " + std::to_string(n));
      }
    }
  }
}

void random_rows() {
  std::mt19937 random(7);
  const auto one_of = [&](auto... values) {
    const std::array list{values...};
    return list[random() % list.size()];
  };
  int near = 0;
  int rows = 0;
  for (const int32_t vocab_size :
       {1, 2, 3, 17, 127, 128, 129, 1000, 5000, 8191, 8192, 8193, 40000, 128256, 152064, 262144}) {
    const int groups = vocab_size <= 5000 ? 6 : vocab_size <= 40000 ? 3 : 1;
    for (int group = 0; group < groups; ++group) {
      const int64_t stride = (vocab_size + 3) / 4 * 4 + 4 * static_cast<int64_t>(random() % 3);
      std::vector<RowSpec> specs(48);
      std::vector<float> logits(specs.size() * static_cast<size_t>(stride),
                                std::numeric_limits<float>::quiet_NaN());
      for (size_t i = 0; i < specs.size(); ++i) {
        std::vector<float> row = oracle::random_logits(static_cast<size_t>(vocab_size), random(),
                                                       one_of(0.01F, 1.0F, 4.0F));
        if (random() % 4 == 0) {  // ties
          for (float& logit : row) {
            logit = std::round(logit);
          }
        }
        std::copy(row.begin(), row.end(), logits.begin() + static_cast<int64_t>(i) * stride);
        RowSpec& spec = specs[i];
        spec.row = {.temperature = one_of(0.0F, 1e-6F, 0.3F, 1.0F, 1.7F),
                    .top_p = one_of(1.0F, 1.0F, 0.95F, 0.5F, 0.01F),
                    .top_k = one_of(-1, 0, 1, 2, 50, 600, 30000, 1 << 30),
                    .min_p = one_of(0.0F, 0.0F, 0.05F, 1.0F),
                    .seed = random() | (uint64_t{random()} << 32),
                    .position = random() % 100,
                    .num_logprobs = one_of(-1, -1, 0, 1, 5, 20)};
        const auto id = [&] {
          return static_cast<int32_t>(random() % static_cast<uint32_t>(vocab_size));
        };
        if (i % 3 == 0) {
          for (int n = 0; n < 20; ++n) {
            spec.prompt.push_back(id());
            spec.output.push_back(id());
            spec.output.push_back(spec.output.front());
          }
          if (vocab_size > 3) {
            spec.banned = {id(), id(), -1, vocab_size};
          }
          spec.biases = {{id(), one_of(5.0F, -100.0F)}, {id(), 1.0F}, {vocab_size, 3.0F}};
          spec.biases.push_back(spec.biases.front());
          spec.row.presence_penalty = one_of(0.0F, 1.5F, -2.0F);
          spec.row.frequency_penalty = one_of(0.0F, 0.5F, -0.5F);
          spec.row.repetition_penalty = one_of(1.0F, 1.3F, 0.8F);
        }
        if (i % 5 == 0) {
          for (int32_t word = 0; word < (vocab_size + 31) / 32; ++word) {
            spec.mask.push_back(static_cast<uint32_t>(random()) | 1U);
          }
        }
      }
      for (RowSpec& spec : specs) {
        spec.finish();
        // The oracle, asked near boundaries, takes ids inside the vocabulary only.
        std::erase_if(spec.banned, [&](int32_t id) { return id < 0 || id >= vocab_size; });
        std::erase_if(spec.biases, [&](const auto& bias) { return bias.first >= vocab_size; });
        spec.finish();
      }
      compare("random", logits, stride, vocab_size, specs, near);
      rows += static_cast<int>(specs.size());
    }
  }
  std::printf("random rows: %d compared, %d near a boundary, %d failures so far\n", rows, near,
              failures);
}

void broken_rows() {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr int32_t kVocab = 20000;
  int near = 0;
  std::vector<RowSpec> specs(8);
  std::vector<float> logits;
  for (size_t i = 0; i < specs.size(); ++i) {
    std::vector<float> row = oracle::random_logits(kVocab, static_cast<uint32_t>(i));
    specs[i].row = {
        .temperature = i % 2 == 0 ? 0.0F : 1.0F, .top_p = 0.9F, .seed = i, .num_logprobs = 2};
    if (i < 2) {
      row[19000] = kNan;
    } else if (i < 4) {
      std::fill(row.begin(), row.end(), -INFINITY);
    } else if (i < 6) {
      row[777] = row[12345] = INFINITY;
    } else {
      std::fill(row.begin(), row.end(), -INFINITY);
      row[15000] = -3.0F;
    }
    logits.insert(logits.end(), row.begin(), row.end());
  }
  compare("broken", logits, kVocab, kVocab, specs, near);
  const std::vector<int32_t> tokens = run_device(logits, kVocab, kVocab, specs).tokens;
  expect(tokens[0] == -1 && tokens[1] == -1 && tokens[2] == -1 && tokens[3] == -1, "broken", "-1");
  expect(tokens[4] == 777 && tokens[6] == 15000 && tokens[7] == 15000, "broken", "one token left");
  // A row's only finite token is banned by its mask.
  std::vector<RowSpec> masked(1);
  masked[0].mask.assign((kVocab + 31) / 32, 0);
  expect(
      run_device({logits.begin(), logits.begin() + kVocab}, kVocab, kVocab, masked).tokens[0] == -1,
      "broken", "empty mask");
  std::printf("broken rows: %d failures so far\n", failures);
}

void ties_and_targets() {
  constexpr int32_t kVocab = 50000;
  const std::vector<float> logits(static_cast<size_t>(kVocab) * 4, 0.25F);
  int near = 0;
  for (const int32_t top_k : {1, 3, 513, 20000}) {
    std::vector<RowSpec> specs(4);
    for (size_t i = 0; i < specs.size(); ++i) {
      specs[i].row = {.top_p = i < 2 ? 1.0F : 0.25F, .top_k = top_k, .seed = i, .num_logprobs = 20};
    }
    compare("ties", logits, kVocab, kVocab, specs, near);
  }
  std::vector<float> random;
  std::vector<RowSpec> specs(3);
  std::vector<int32_t> targets;
  for (size_t i = 0; i < specs.size(); ++i) {
    const std::vector<float> row = oracle::random_logits(kVocab, static_cast<uint32_t>(i), 3.0F);
    random.insert(random.end(), row.begin(), row.end());
    specs[i].row.num_logprobs = 20;
    targets.push_back(static_cast<int32_t>(i * 20011));
  }
  const DeviceResult device = run_device(random, kVocab, kVocab, specs, &targets);
  std::vector<SampledToken> cpu(3);
  token_logprobs_cpu({}, Tensor(random.data(), DType::kF32, {3, kVocab}), targets, 20, cpu);
  for (size_t i = 0; i < 3; ++i) {
    expect(device.tokens[i] == targets[i] && device.logprobs[i].rank == cpu[i].logprobs.rank &&
               std::abs(device.logprobs[i].logprob - cpu[i].logprobs.logprob) < 1e-4F,
           "targets", std::to_string(i));
    for (size_t n = 0; n < 20; ++n) {
      expect(device.top[i * kMaxTopLogprobs + n].token_id == cpu[i].logprobs.top[n].first,
             "targets", "top");
    }
  }
  std::printf("ties and targets: %d failures so far\n", failures);
}

// --- speed
void benchmark() {
  constexpr int32_t kVocab = 128256;
  constexpr int32_t kMaxRows = 512;
  std::vector<float> peaked = oracle::random_logits(kVocab, 3, 2.5F);
  for (int i = 0; i < 12; ++i) {
    peaked[static_cast<size_t>(i) * 9973] = 18.0F - 0.7F * static_cast<float>(i);
  }
  std::vector<float> flat = oracle::random_logits(kVocab, 4, 0.3F);
  DeviceArray<float> logits(static_cast<size_t>(kMaxRows) * kVocab);
  DeviceArray<uint8_t> workspace(static_cast<size_t>(sampler_workspace_bytes(kMaxRows, kVocab)));
  workspace.fill(0);
  DeviceArray<int32_t> tokens(kMaxRows);
  DeviceArray<SamplerLogprob> logprobs(kMaxRows);
  DeviceArray<SamplerTopToken> top(kMaxRows * kMaxTopLogprobs);
  struct Mode {
    const char* name;
    bool flat;
    SamplingRow row;
    bool biased = false;
  };
  const std::vector<Mode> modes = {
      {"greedy", false, {.temperature = 0.0F}},
      {"temperature", false, {.temperature = 0.8F}},
      {"k20 p0.95", false, {.temperature = 0.6F, .top_p = 0.95F, .top_k = 20}},
      {"p0.9", false, {.temperature = 0.8F, .top_p = 0.9F}},
      {"min_p", false, {.temperature = 0.8F, .min_p = 0.05F}},
      {"flat p0.9", true, {.temperature = 1.0F, .top_p = 0.9F}},
      {"flat k1000", true, {.temperature = 1.0F, .top_k = 1000}},
      {"logprobs 5", false, {.temperature = 0.0F, .num_logprobs = 5}},
      {"biased", false, {.temperature = 0.8F, .top_p = 0.9F}, true}};
  std::printf("sampler, vocabulary %d, us (GB/s of logits)\n%-12s", kVocab, "rows");
  for (const int rows : {1, 8, 64, 256, 512}) {
    std::printf(" %16d", rows);
  }
  std::printf("\n");
  for (const Mode& mode : modes) {
    const std::vector<float>& one = mode.flat ? flat : peaked;
    for (int i = 0; i < kMaxRows; ++i) {
      ATOM_DEVICE(cudaMemcpy(logits.data() + static_cast<size_t>(i) * kVocab, one.data(),
                             one.size() * 4, cudaMemcpyHostToDevice));
    }
    std::vector<RowSpec> specs(kMaxRows);
    for (size_t i = 0; i < specs.size(); ++i) {
      specs[i].row = mode.row;
      specs[i].row.seed = i;
      if (mode.biased) {
        specs[i].biases = {{5, 1.0F}, {70000, 2.0F}};
      }
    }
    const DeviceArray<uint8_t> blob(make_blob(specs));
    std::printf("%-12s", mode.name);
    for (const int rows : {1, 8, 64, 256, 512}) {
      const double us = time_us(10, [&](int) {
        sample_tokens({.logits = logits.data(),
                       .logit_stride = kVocab,
                       .vocab_size = kVocab,
                       .num_rows = rows,
                       .blob = blob.data(),
                       .greedy_only = mode.row.temperature == 0.0F && mode.row.num_logprobs < 0,
                       .workspace = workspace.data(),
                       .token_ids = tokens.data(),
                       .logprobs = logprobs.data(),
                       .top_logprobs = top.data()},
                      kMaxRows, stream());
      });
      std::printf(" %8.1f (%5.0f)", us, static_cast<double>(rows) * kVocab * 4 / us * 1e-3);
    }
    std::printf("\n");
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace atom::gpu::device_test

int main() {
  using namespace atom::gpu::device_test;
  broken_rows();
  ties_and_targets();
  random_rows();
  std::printf("sampler: %d failures\n", failures);
  std::fflush(stdout);
  benchmark();
  return failures == 0 ? 0 : 1;
}
