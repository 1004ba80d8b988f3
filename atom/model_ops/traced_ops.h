// TracedOps: an op table whose every op is a trace zone around the op of another table, with shapes
// and arena use when a capture is detailed. Only a profiled engine has one. A new op: one row in
// traced_ops.cpp.
#pragma once

#include "atom/model_ops/ops.h"

namespace atom {

struct TracedOps : OpTable {
  const OpTable* base = nullptr;
};

// `base` stays where it is. ExecContext::ops must be the result's address wherever its ops are
// called.
TracedOps make_traced_ops(const OpTable& base);

}  // namespace atom
