// How a Linear is stored in a quantised checkpoint: one object per form (WeightLayout), which says
// whether a layer is stored so, takes its tensors, checks them and describes them as a WeightPart.
// A scheme never computes with a weight; forms that do not store rows (GPTQ, AWQ) are transposed
// into memory of the layer's stored size that lives until the layer is packed. To add a form: a
// WeightLayout, an object (int4_schemes.cpp), its name in scheme_support.h and a row in scheme_of.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "atom/core/buffer.h"
#include "atom/model_loader/checkpoint.h"
#include "atom/model_loader/quantization_config.h"
#include "atom/model_ops/linear_weight.h"
#include "kernels/common/parallel.h"

namespace atom {

// What a scheme reads with: takes tensors out of the checkpoint and collects what is wrong.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual const CheckpointTensor* find(const std::string& name) const = 0;
  // nullptr after reporting a missing tensor or another shape
  virtual const CheckpointTensor* take(const std::string& name,
                                       std::initializer_list<int64_t> shape) = 0;
  virtual void fail(std::string message) = 0;
  virtual const ParallelFor& parallel() const = 0;
};

struct LinearShape {
  std::string prefix;  // "model.layers.0.mlp.down_proj"
  int64_t rows = 0;
  int64_t cols = 0;
};

// A weight and what keeps it alive until it is packed.
struct StoredWeight {
  WeightPart part;
  std::vector<const CheckpointTensor*> tensors;
  std::vector<Buffer> memory;
};

class WeightScheme {
 public:
  virtual ~WeightScheme() = default;
  // Whether the checkpoint holds this layer in this form.
  virtual bool stores(const TensorSource& source, const std::string& prefix,
                      const QuantizationGroup& group) const = 0;
  // false after a reported problem
  virtual bool read(TensorSource& source, const LinearShape& shape, const QuantizationGroup& group,
                    StoredWeight& out) const = 0;
};

const WeightScheme& scheme_of(WeightLayout layout);

// The weight of one Linear in whichever form of `config` the checkpoint stores it, or plain.
bool read_weight(TensorSource& source, const LinearShape& shape, const QuantizationConfig& config,
                 StoredWeight& out);

// Weights of `count` experts stacked in one tensor `name`, as one part of count * rows rows; cut it
// with part_rows. Stored as [count, cols, rows] in plain types (transposed here), or in MXFP4 as
// name_blocks [count, rows, cols / 32, 16] and name_scales [count, rows, cols / 32].
bool read_stacked_weight(TensorSource& source, const LinearShape& name, int64_t count,
                         StoredWeight& out);

}  // namespace atom
