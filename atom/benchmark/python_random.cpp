#include "atom/benchmark/python_random.h"

#include <array>
#include <bit>
#include <cmath>
#include <numeric>

#include "atom/core/check.h"

namespace atom {
namespace {

double next_double(std::mt19937& engine) {
  const uint32_t high = static_cast<uint32_t>(engine()) >> 5;
  const uint32_t low = static_cast<uint32_t>(engine()) >> 6;
  return (high * 67108864.0 + low) / 9007199254740992.0;
}

// Serves the words that std::mt19937 takes from a seed sequence: the state of MT19937's
// init_by_array for a key of one word, which is how Python seeds from an integer.
class ArraySeed {
 public:
  using result_type = uint32_t;
  explicit ArraySeed(uint32_t key) : key_(key) {}

  template <class Iterator>
  void generate(Iterator begin, Iterator end) const {
    constexpr uint32_t kSize = std::mt19937::state_size;
    std::array<uint32_t, kSize> state;
    state[0] = 19650218U;
    for (uint32_t i = 1; i < kSize; ++i)
      state[i] = 1812433253U * (state[i - 1] ^ (state[i - 1] >> 30)) + i;
    uint32_t at = 1;
    const auto advance = [&] {
      if (++at < kSize) return;
      state[0] = state[kSize - 1];
      at = 1;
    };
    for (uint32_t n = 0; n < kSize; ++n, advance())
      state[at] = (state[at] ^ ((state[at - 1] ^ (state[at - 1] >> 30)) * 1664525U)) + key_;
    for (uint32_t n = 1; n < kSize; ++n, advance())
      state[at] = (state[at] ^ ((state[at - 1] ^ (state[at - 1] >> 30)) * 1566083941U)) - at;
    state[0] = 0x80000000U;
    for (size_t i = 0; begin != end; ++begin, ++i) *begin = state[i];
  }

 private:
  uint32_t key_;
};

std::mt19937 seeded_by_array(uint32_t seed) {
  ArraySeed words(seed);
  return std::mt19937(words);
}

}  // namespace

uint64_t NumpyRandom::masked(uint64_t range) {
  ATOM_CHECK(range <= UINT32_MAX) << range;
  if (range == 0) return 0;
  const uint64_t mask = std::bit_ceil(range + 1) - 1;
  while (true) {
    const uint64_t value = static_cast<uint32_t>(engine_()) & mask;
    if (value <= range) return value;
  }
}

int64_t NumpyRandom::randint(int64_t low, int64_t high) {
  ATOM_CHECK(low < high) << low << high;
  return low + static_cast<int64_t>(masked(static_cast<uint64_t>(high - low - 1)));
}

std::vector<int64_t> NumpyRandom::randint(int64_t low, int64_t high, int64_t count) {
  std::vector<int64_t> values(static_cast<size_t>(count));
  for (int64_t& value : values) value = randint(low, high);
  return values;
}

double NumpyRandom::random_sample() { return next_double(engine_); }

double NumpyRandom::standard_exponential() { return -std::log(1.0 - random_sample()); }

// Marsaglia's polar method; the second value of a pair is kept.
double NumpyRandom::standard_normal() {
  if (has_normal_) {
    has_normal_ = false;
    return normal_;
  }
  double x = 0, y = 0, r2 = 0;
  do {
    x = 2.0 * random_sample() - 1.0;
    y = 2.0 * random_sample() - 1.0;
    r2 = x * x + y * y;
  } while (r2 >= 1.0 || r2 == 0.0);
  const double f = std::sqrt(-2.0 * std::log(r2) / r2);
  normal_ = f * x;
  has_normal_ = true;
  return f * y;
}

// Shape 1: exponential; above: Marsaglia and Tsang 2000; below: Ahrens and Dieter 1974 (GS).
double NumpyRandom::standard_gamma(double shape) {
  if (shape == 1.0) return standard_exponential();
  if (shape < 1.0) {
    while (true) {
      const double u = random_sample();
      const double v = standard_exponential();
      if (u <= 1.0 - shape) {
        const double x = std::pow(u, 1.0 / shape);
        if (x <= v) return x;
      } else {
        const double y = -std::log((1.0 - u) / shape);
        const double x = std::pow(1.0 - shape + shape * y, 1.0 / shape);
        if (x <= v + y) return x;
      }
    }
  }
  const double b = shape - 1.0 / 3.0;
  const double c = 1.0 / std::sqrt(9.0 * b);
  while (true) {
    double x = 0, v = 0;
    do {
      x = standard_normal();
      v = 1.0 + c * x;
    } while (v <= 0.0);
    v = v * v * v;
    const double u = random_sample();
    if (u < 1.0 - 0.0331 * (x * x) * (x * x)) return b * v;
    if (std::log(u) < 0.5 * x * x + b * (1.0 - v + std::log(v))) return b * v;
  }
}

double NumpyRandom::gamma(double shape, double scale) { return scale * standard_gamma(shape); }

std::vector<int64_t> NumpyRandom::permutation(int64_t n) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); i-- > 1;) std::swap(order[i], order[masked(i)]);
  return order;
}

PythonRandom::PythonRandom(uint32_t seed) : engine_(seeded_by_array(seed)) {}

double PythonRandom::random() { return next_double(engine_); }

uint64_t PythonRandom::randbelow(uint64_t n) {
  ATOM_CHECK(n > 0 && n <= UINT32_MAX) << n;
  const int bits = static_cast<int>(std::bit_width(n));
  while (true) {
    const uint64_t value = static_cast<uint32_t>(engine_()) >> (32 - bits);
    if (value < n) return value;
  }
}

std::vector<int64_t> PythonRandom::choices(int64_t n, int64_t count) {
  std::vector<int64_t> picked(static_cast<size_t>(count));
  for (int64_t& value : picked)
    value = static_cast<int64_t>(std::floor(random() * static_cast<double>(n)));
  return picked;
}

}  // namespace atom
