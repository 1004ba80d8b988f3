// What the forms of quantised weights (weight_schemes.h) share when they read: tensors of a type,
// scales, groups, memory, transposing; and the schemes themselves, one function each.
#pragma once

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <string>

#include "atom/models/weight_schemes.h"

namespace atom {

const WeightScheme& scaled_scheme();  // scaled_scheme.cpp; the others: int4_schemes.cpp
const WeightScheme& packed_int4_scheme();
const WeightScheme& gptq_scheme();
const WeightScheme& gptq_v2_scheme();
const WeightScheme& awq_scheme();

namespace schemes {

bool is_float(DType dtype);

void wrong_type(TensorSource& source, const CheckpointTensor& tensor, const std::string& expected);

// A tensor of one type; nullptr after reporting.
const CheckpointTensor* take_typed(TensorSource& source, const std::string& name,
                                   std::initializer_list<int64_t> shape, DType dtype);

// Scales of any float type, or bytes that are powers of two where `mx`; every one a finite number.
const CheckpointTensor* take_scales(TensorSource& source, const std::string& name,
                                    std::initializer_list<int64_t> shape, bool mx,
                                    StoredWeight& out);

// Groups along a row, all of one size; 0 after reporting.
int64_t whole_groups(TensorSource& source, const LinearShape& shape, int64_t group);

// Memory that lives as long as `out`; nullptr after reporting.
uint8_t* allocate(TensorSource& source, int64_t bytes, StoredWeight& out);

uint32_t word_at(const CheckpointTensor& tensor, int64_t index);

// Runs body(begin, end) over [0, count) in pieces on all threads.
template <class Body>
void in_pieces(TensorSource& source, int64_t count, int64_t piece, const Body& body) {
  source.parallel()((count + piece - 1) / piece,
                    [&](int64_t i) { body(i * piece, std::min(count, (i + 1) * piece)); });
}

// out [cols][rows] = in [rows][cols], of values of kSize bytes, in tiles that stay in the cache.
template <int64_t kSize>
void transpose(TensorSource& source, const void* from, int64_t rows, int64_t cols, uint8_t* out) {
  constexpr int64_t kTile = 16;
  const auto* in = static_cast<const uint8_t*>(from);
  in_pieces(source, cols, kTile, [&](int64_t begin, int64_t end) {
    for (int64_t r0 = 0; r0 < rows; r0 += kTile) {
      for (int64_t c = begin; c < end; ++c) {
        for (int64_t r = r0; r < std::min(rows, r0 + kTile); ++r) {
          std::memcpy(out + (c * rows + r) * kSize, in + (r * cols + c) * kSize, kSize);
        }
      }
    }
  });
}

}  // namespace schemes
}  // namespace atom
