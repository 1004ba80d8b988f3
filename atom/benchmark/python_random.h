// The generators that benchmark_serving draws from, number for number: numpy's legacy global
// generator (np.random.seed) and Python's random module, both MT19937. With equal seeds the same
// prompts, lengths and arrival times come out here and there. Not for sampling tokens.
#pragma once

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

namespace atom {

// np.random.RandomState(seed). One thread.
class NumpyRandom {
 public:
  explicit NumpyRandom(uint32_t seed) : engine_(seed) {}

  // randint(low, high): uniform in [low, high); draws nothing when only one value is possible.
  int64_t randint(int64_t low, int64_t high);
  std::vector<int64_t> randint(int64_t low, int64_t high, int64_t count);
  double random_sample();  // uniform in [0, 1), 53 bits
  double standard_exponential();
  double gamma(double shape, double scale);
  // permutation(n): Fisher-Yates from the end, as RandomState.shuffle does on arange(n).
  std::vector<int64_t> permutation(int64_t n);

 private:
  double standard_normal();
  double standard_gamma(double shape);
  uint64_t masked(uint64_t range);  // uniform in [0, range]

  std::mt19937 engine_;
  bool has_normal_ = false;
  double normal_ = 0;
};

// random.Random(seed) for a non-negative integer seed below 2^32. One thread.
class PythonRandom {
 public:
  explicit PythonRandom(uint32_t seed);

  uint64_t randbelow(uint64_t n);  // uniform in [0, n), n > 0
  template <class T>
  void shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i-- > 1;) std::swap(values[i], values[randbelow(i + 1)]);
  }
  // random.choices(range(n), k=count): with replacement.
  std::vector<int64_t> choices(int64_t n, int64_t count);

 private:
  double random();
  std::mt19937 engine_;
};

}  // namespace atom
