#include "atom/chat_template/interpreter.h"

#include <algorithm>

#include "atom/chat_template/operators.h"
#include "atom/chat_template/text.h"

namespace atom::jinja {

// The values of a filtered loop: {% for x in items if condition %}, tested as the loop asks for
// them.
class ConditionIterator final : public Iterator {
 public:
  ConditionIterator(Iterator* source, const ForStmt& stmt, Scope* around)
      : source_(source), stmt_(&stmt), around_(around) {}

  bool next(Interpreter& in, Value& out) override {
    Scope* const inner = in.new_scope(around_);
    Scope* const outer = std::exchange(in.scope_, inner);
    bool found = false;
    while (!found && source_->next(in, out)) {
      inner->count = 0;
      in.charge(1);
      in.assign(*stmt_->target, out, *inner);
      found = truth(in.evaluate(*stmt_->condition));
    }
    in.scope_ = outer;
    return found;
  }

 private:
  Iterator* source_;
  const ForStmt* stmt_;
  Scope* around_;
};

Interpreter::Interpreter(const Program& program, const RenderLimits& limits, int64_t now_unix)
    : program_(program),
      limits_(limits),
      now_unix_(now_unix),
      arena_(limits.max_memory_bytes),
      context_(program.symbols.size()),
      deadline_(std::chrono::steady_clock::now() + limits.max_time) {
  scope_ = new_scope(nullptr);
  check_budget();
}

void Interpreter::set_variable(std::string_view name, const Value& value) {
  const auto at = program_.symbol_ids.find(name);
  if (at != program_.symbol_ids.end()) context_[at->second] = value;
}

std::string Interpreter::run() {
  execute(program_.body);
  return std::move(out_);
}

void Interpreter::check_budget() {
  constexpr int64_t kStepsBetweenChecks = 1024;
  if (steps_ > limits_.max_steps) raise_limit("more than {} steps", limits_.max_steps);
  if (std::chrono::steady_clock::now() > deadline_) {
    raise_limit("took longer than {} ms", limits_.max_time.count());
  }
  next_check_ = std::min(steps_ + kStepsBetweenChecks, limits_.max_steps + 1);
}

void Interpreter::check_size(size_t bytes) const {
  if (static_cast<int64_t>(bytes) > limits_.max_memory_bytes) raise_limit("memory limit exceeded");
}

Scope* Interpreter::new_scope(Scope* parent) {
  Scope* const scope = arena_.make<Scope>();
  scope->parent = parent;
  return scope;
}

void Interpreter::set_slot(Scope& scope, SymbolId symbol, const Value& value) {
  for (uint32_t i = 0; i < scope.count; ++i) {
    if (scope.slots[i].symbol == symbol) {
      scope.slots[i].value = value;
      return;
    }
  }
  if (scope.count == scope.capacity) {
    const uint32_t capacity = std::max<uint32_t>(4, scope.capacity * 2);
    auto* const slots = arena_.array<Scope::Slot>(capacity);
    std::copy_n(scope.slots, scope.count, slots);
    scope.slots = slots;
    scope.capacity = capacity;
  }
  scope.slots[scope.count++] = {symbol, value};
}

const Value* Interpreter::find_slot(const Scope& scope, SymbolId symbol) const {
  for (uint32_t i = 0; i < scope.count; ++i) {
    if (scope.slots[i].symbol == symbol) return &scope.slots[i].value;
  }
  return nullptr;
}

SymbolId Interpreter::symbol_of(std::string_view name) {
  const auto known = program_.symbol_ids.find(name);
  if (known != program_.symbol_ids.end()) return known->second;
  const auto extra = std::ranges::find(extra_symbols_, name);
  const auto index = static_cast<size_t>(extra - extra_symbols_.begin());
  charge(static_cast<int64_t>(index / 8));
  if (extra == extra_symbols_.end()) extra_symbols_.push_back(arena_.copy(name));
  return static_cast<SymbolId>(program_.symbols.size() + index);
}

std::string_view Interpreter::symbol_text(SymbolId symbol) const {
  const size_t known = program_.symbols.size();
  return symbol < known ? program_.symbols[symbol].text : extra_symbols_[symbol - known];
}

Value Interpreter::undefined(Undefined::Cause cause, const Value& owner, const Value& name) {
  Value v = of_type(Type::kUndefined);
  v.undefined = arena_.make<Undefined>(cause, owner, name);
  return v;
}

void Interpreter::write(std::string_view text) {
  if (static_cast<int64_t>(out_.size() + text.size()) > limits_.max_output_bytes) {
    raise_limit("output longer than {} bytes", limits_.max_output_bytes);
  }
  out_ += text;
}

void Interpreter::write(const Value& value) {
  if (value.is_string()) {
    charge_text(value.size);
    return write(value.text());
  }
  append_str(*this, out_, value);
  write(std::string_view());
}

// Runs a body with its output going into a value. The text passes through the end of the output
// buffer.
Value Interpreter::capture(Body body, Scope* scope) {
  const size_t start = out_.size();
  Scope* const outer = std::exchange(scope_, scope);
  execute(body);
  scope_ = outer;
  const Value text = new_string(std::string_view(out_).substr(start));
  out_.resize(start);
  return text;
}

Interpreter::Flow Interpreter::execute(Body body) {
  const DepthGuard guard(nesting_);
  for (const Stmt* const stmt : body) {
    if (const Flow flow = execute(*stmt); flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute(const Stmt& stmt) {
  charge(1);
  line_ = stmt.line;
  switch (stmt.kind) {
    case StmtKind::kText:
      write(static_cast<const TextStmt&>(stmt).text);
      break;
    case StmtKind::kOutput:
      write(evaluate(*static_cast<const OutputStmt&>(stmt).value));
      break;
    case StmtKind::kIf:
      return execute_if(static_cast<const IfStmt&>(stmt));
    case StmtKind::kFor:
      execute_for(static_cast<const ForStmt&>(stmt));
      break;
    case StmtKind::kSet: {
      const auto& set = static_cast<const SetStmt&>(stmt);
      assign(*set.target, evaluate(*set.value), *scope_);
      break;
    }
    case StmtKind::kSetBlock:
      execute_set_block(static_cast<const SetBlockStmt&>(stmt));
      break;
    case StmtKind::kMacro: {
      const auto& macro = static_cast<const MacroStmt&>(stmt);
      set_slot(*scope_, macro.symbol,
               object(arena_.make<Macro>(Object{ObjectKind::kMacro}, &macro, scope_)));
      break;
    }
    case StmtKind::kCallBlock:
      execute_call_block(static_cast<const CallBlockStmt&>(stmt));
      break;
    case StmtKind::kFilterBlock:
      execute_filter_block(static_cast<const FilterBlockStmt&>(stmt));
      break;
    case StmtKind::kWith:
      execute_with(static_cast<const WithStmt&>(stmt));
      break;
    case StmtKind::kScope:
      execute_scope(static_cast<const ScopeStmt&>(stmt).body);
      break;
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
    case StmtKind::kUnsupported:
      raise_error("{}", static_cast<const UnsupportedStmt&>(stmt).message);
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute_if(const IfStmt& stmt) {
  const size_t conditions = stmt.conditions.size();
  for (size_t i = 0; i < conditions; ++i) {
    if (truth(evaluate(*stmt.conditions[i]))) return execute(stmt.bodies[i]);
  }
  return stmt.bodies.size() > conditions ? execute(stmt.bodies[conditions]) : Flow::kNext;
}

void Interpreter::execute_for(const ForStmt& stmt) {
  run_loop(stmt, evaluate(*stmt.iterable), scope_, 0);
}

void Interpreter::run_loop(const ForStmt& stmt, const Value& iterable, Scope* around, int depth0) {
  Loop* const loop = arena_.make<Loop>();
  loop->kind = ObjectKind::kLoop;
  loop->source = iterate(*this, iterable);
  if (stmt.condition != nullptr) {
    loop->source = arena_.make<ConditionIterator>(loop->source, stmt, around);
  } else if (!is_object(iterable, ObjectKind::kIterator)) {
    loop->length =
        iterable.is_undefined() || iterable.is_string() ? -1 : jinja::length(*this, iterable);
  }
  loop->stmt = &stmt;
  loop->scope = around;
  loop->depth0 = depth0;

  Scope* const inner = new_scope(around);
  Scope* const outer = std::exchange(scope_, inner);
  const Value loop_value = object(loop);
  while (loop_peek(*loop)) {
    charge(1);
    loop->has_peeked = false;
    loop->previous = loop->current;
    loop->current = loop->peeked;
    ++loop->index0;
    inner->count = 0;
    set_slot(*inner, kSymbolLoop, loop_value);
    assign(*stmt.target, loop->current, *inner);
    if (execute(stmt.body) == Flow::kBreak) break;
  }
  inner->count = 0;
  if (loop->index0 < 0) execute(stmt.else_body);
  scope_ = outer;
}

bool Interpreter::loop_peek(Loop& loop) {
  if (!loop.has_peeked) loop.has_peeked = loop.source->next(*this, loop.peeked);
  return loop.has_peeked;
}

// Items of the whole loop; draws what is left of a source that does not know its length.
int64_t Interpreter::loop_length(Loop& loop) {
  if (loop.length >= 0) return loop.length;
  std::vector<Value> rest;
  if (loop.has_peeked) rest.push_back(loop.peeked);
  for (Value v; loop.source->next(*this, v);) {
    charge(1);
    rest.push_back(v);
  }
  loop.has_peeked = false;
  loop.source = iterate_span(*this, arena_.copy(rest));
  loop.length = loop.index0 + 1 + static_cast<int64_t>(rest.size());
  return loop.length;
}

void Interpreter::assign(const Target& target, const Value& value, Scope& scope) {
  if (target.kind == Target::Kind::kName) return set_slot(scope, target.symbol, value);
  if (target.kind == Target::Kind::kNamespace) {
    const Value owner = evaluate_name(target.symbol);
    if (!is_object(owner, ObjectKind::kNamespace)) {
      raise_error("cannot assign attribute on non-namespace object");
    }
    const std::string_view name = symbol_text(target.attribute);
    if (name.starts_with('_'))
      raise_error("namespace attributes cannot start with an underscore: '{}'", name);
    return set_slot(*as<Namespace>(owner).attributes, target.attribute, value);
  }
  Iterator* const items = iterate(*this, value);
  Value item;
  for (size_t i = 0; i < target.parts.size(); ++i) {
    if (!items->next(*this, item)) {
      raise_error("ValueError: not enough values to unpack (expected {}, got {})",
                  target.parts.size(), i);
    }
    assign(*target.parts[i], item, scope);
  }
  if (items->next(*this, item))
    raise_error("ValueError: too many values to unpack (expected {})", target.parts.size());
}

void Interpreter::execute_set_block(const SetBlockStmt& stmt) {
  Value text = capture(stmt.body, new_scope(scope_));
  if (stmt.filter != nullptr) {
    const Value* const outer = std::exchange(filter_input_, &text);
    const Value filtered = evaluate(*stmt.filter);
    filter_input_ = outer;
    text = filtered;
  }
  assign(*stmt.target, text, *scope_);
}

void Interpreter::execute_call_block(const CallBlockStmt& stmt) {
  const Value caller = object(arena_.make<Macro>(Object{ObjectKind::kMacro}, stmt.caller, scope_));
  write(evaluate_call(*stmt.call, &caller));
}

void Interpreter::execute_filter_block(const FilterBlockStmt& stmt) {
  const Value text = capture(stmt.body, new_scope(scope_));
  const Value* const outer = std::exchange(filter_input_, &text);
  const Value filtered = evaluate(*stmt.filter);
  filter_input_ = outer;
  write(filtered);
}

void Interpreter::execute_with(const WithStmt& stmt) {
  Scope* const inner = new_scope(scope_);
  for (size_t i = 0; i < stmt.targets.size(); ++i)
    assign(*stmt.targets[i], evaluate(*stmt.values[i]), *inner);
  Scope* const outer = std::exchange(scope_, inner);
  execute(stmt.body);
  scope_ = outer;
}

void Interpreter::execute_scope(Body body) {
  Scope* const outer = std::exchange(scope_, new_scope(scope_));
  execute(body);
  scope_ = outer;
}

}  // namespace atom::jinja
