#include "atom/model_ops/traced_ops.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <type_traits>

#include "atom/core/format.h"
#include "atom/core/trace.h"

namespace atom {
namespace {

// Kineto's members "Input Dims" and "Input type" of what an op is called with.
class Shapes {
 public:
  void add(const Tensor& tensor) {
    if (!tensor.defined()) {
      return;
    }
    std::string dims;
    for (int i = 0; i < tensor.rank(); ++i) {
      dims += str_format("{}{}", i > 0 ? "," : "", tensor.dim(i));
    }
    add(dims, dtype_name(tensor.dtype()));
  }
  void add(const LinearWeight& weight) {
    if (weight.defined()) {
      add(str_format("{},{}", weight.out_features, weight.in_features),
          dtype_name(weight.segments[0].format.dtype));
    }
  }
  void add(const HeadsWeight& heads) { add(heads.weight); }
  void add(const ExpertsWeight& experts) {
    if (experts.num_experts() > 0 && experts.gate_up[0].defined()) {
      const LinearWeight& first = experts.gate_up[0];
      add(str_format("{},{},{}", experts.num_experts(), first.out_features, first.in_features),
          dtype_name(first.segments[0].format.dtype));
    }
  }
  void add(const QkNormRopeKvWriteParams& params) { add(params.qkv); }
  void add(const PagedAttentionParams& params) { add_all(params.qkv, params.out); }
  void add(const MlaCacheWriteParams& params) { add_all(params.q, params.latent); }
  void add(const MlaAttentionParams& params) { add_all(params.query, params.out); }
  void add(const LinearHeadsParams& params) { add_all(params.x, params.out); }
  void add(const RouterParams& params) { add_all(params.logits, params.ids); }
  void add(const FusedExpertsParams& params) { add_all(params.x, params.ids); }
  template <class Other>
  void add(const Other& /*neither tensor nor weight*/) {}

  template <class... Args>
  void add_all(const Args&... args) {
    (add(args), ...);
  }
  std::string text() const {
    return "\"Input Dims\":[" + dims_ + "],\"Input type\":[" + types_ + "]";
  }

 private:
  void add(const std::string& dims, std::string_view dtype) {
    const char* comma = dims_.empty() ? "" : ",";
    dims_ += str_format("{}[{}]", comma, dims);
    types_ += str_format("{}\"{}\"", comma, dtype);
  }

  std::string dims_, types_;
};

// What is taken of the step arena once an op has run, where that is not what it was before.
class ArenaUse {
 public:
  explicit ArenaUse(const ExecContext& ctx) : ctx_(ctx) {}
  ~ArenaUse() {
    thread_local int64_t last = 0;
    if (!trace::is_detailed() || ctx_.arena == nullptr || ctx_.arena->mark() == last) [[likely]] {
      return;
    }
    const int64_t total = ctx_.arena->mark();
    trace::memory_changed({.bytes = total - last,
                           .total_allocated = total,
                           .total_reserved = ctx_.arena->capacity(),
                           .device = ctx_.runtime != nullptr ? ctx_.device.index : -1});
    last = total;
  }
  ArenaUse(const ArenaUse&) = delete;
  ArenaUse& operator=(const ArenaUse&) = delete;

 private:
  const ExecContext& ctx_;
};

template <size_t N>
struct OpName {
  char text[N];
  constexpr OpName(const char (&name)[N]) { std::copy_n(name, N, text); }  // NOLINT: implicit
};

template <OpName Name, auto Field, class Type = decltype(Field)>
struct TracedOp;

template <OpName Name, auto Field, class R, class... Args>
struct TracedOp<Name, Field, R (*OpTable::*)(const ExecContext&, Args...)> {
  static R call(const ExecContext& ctx, Args... args) {
    const trace::Zone zone(Name.text, [&] {
      Shapes shapes;
      shapes.add_all(args...);
      return shapes.text();
    });
    const ArenaUse use(ctx);
    // Backends find what is theirs through the table that they made.
    ExecContext own = ctx;
    own.ops = static_cast<const TracedOps*>(ctx.ops)->base;
    return (own.ops->*Field)(own, args...);
  }
};

template <OpName Name, auto Field>
void trace_op(TracedOps& table) {
  if (table.*Field != nullptr) {
    table.*Field = TracedOp<Name, Field>::call;
  }
}

}  // namespace

TracedOps make_traced_ops(const OpTable& base) {
  TracedOps table;
  static_cast<OpTable&>(table) = base;
  table.base = &base;
  trace_op<"atom::begin_step", &OpTable::begin_step>(table);
  trace_op<"atom::linear", &OpTable::linear>(table);
  trace_op<"atom::embedding", &OpTable::embedding>(table);
  trace_op<"atom::rms_norm", &OpTable::rms_norm>(table);
  trace_op<"atom::add_rms_norm", &OpTable::add_rms_norm>(table);
  trace_op<"atom::norm_concat", &OpTable::norm_concat>(table);
  trace_op<"atom::silu_mul", &OpTable::silu_mul>(table);
  trace_op<"atom::rope_cos_sin", &OpTable::rope_cos_sin>(table);
  trace_op<"atom::qk_norm_rope_kv_write", &OpTable::qk_norm_rope_kv_write>(table);
  trace_op<"atom::paged_attention", &OpTable::paged_attention>(table);
  trace_op<"atom::mla_cache_write", &OpTable::mla_cache_write>(table);
  trace_op<"atom::mla_attention", &OpTable::mla_attention>(table);
  trace_op<"atom::linear_heads", &OpTable::linear_heads>(table);
  trace_op<"atom::mla_queries", &OpTable::mla_queries>(table);
  trace_op<"atom::mla_values", &OpTable::mla_values>(table);
  trace_op<"atom::norm_linear", &OpTable::norm_linear>(table);
  trace_op<"atom::norm_linear_silu_mul", &OpTable::norm_linear_silu_mul>(table);
  trace_op<"atom::linear_add", &OpTable::linear_add>(table);
  trace_op<"atom::route", &OpTable::route>(table);
  trace_op<"atom::norm_route", &OpTable::norm_route>(table);
  trace_op<"atom::fused_experts", &OpTable::fused_experts>(table);
  trace_op<"atom::rope_paged_attention", &OpTable::rope_paged_attention>(table);
  trace_op<"atom::gather_rows", &OpTable::gather_rows>(table);
  trace_op<"atom::sample", &OpTable::sample>(table);
  trace_op<"atom::token_logprobs", &OpTable::token_logprobs>(table);
  return table;
}

}  // namespace atom
