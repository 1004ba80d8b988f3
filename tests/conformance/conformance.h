// What the conformance tests share: the op tables of this machine, an execution context that owns
// its memory, random weights of every format, and the metric (normalised mean squared error against
// the reference). To add an op: a file *_test.cpp here that runs every table against
// `reference_table()`.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "atom/core/thread_pool.h"
#include "atom/model_ops/cpu/cpu_ops.h"

namespace atom::conformance {

// The reference first, then every instruction set that this processor can run.
const std::vector<std::unique_ptr<CpuOpTable>>& all_tables();
const CpuOpTable& reference_table();

class Context {
 public:
  explicit Context(const CpuOpTable& table, int num_threads = 1);
  ExecContext& operator*() { return ctx_; }
  ExecContext* operator->() { return &ctx_; }

 private:
  std::unique_ptr<ThreadPool> pool_;
  Arena arena_;
  ExecContext ctx_;
};

using Rng = std::mt19937_64;

// Normal values with a few that are a hundred times larger, as activations have.
std::vector<float> random_floats(Rng& rng, int64_t count, float spread = 1.0F);

// Stored bytes of `rows` x `cols` values; block types get random quants and scales of both signs.
std::vector<uint8_t> random_weight(Rng& rng, DType dtype, int64_t rows, int64_t cols);

// sum (got - want)^2 / sum want^2; infinite where got is not finite.
double nmse(const std::vector<float>& got, const std::vector<float>& want);

inline Tensor matrix(std::vector<float>& values, int64_t rows, int64_t cols) {
  return Tensor(values.data(), DType::kF32, {rows, cols});
}

}  // namespace atom::conformance
