// Lengths, slices and iteration of the values in operators.h.
#include <algorithm>

#include "atom/chat_template/operators.h"
#include "atom/chat_template/unicode.h"

namespace atom::jinja {
namespace {

struct SpanIterator final : Iterator {
  explicit SpanIterator(std::span<const Value> values) : items(values) {}
  bool next(Interpreter&, Value& out) override {
    if (position >= items.size()) return false;
    out = items[position++];
    return true;
  }
  std::span<const Value> items;
  size_t position = 0;
};

struct TextIterator final : Iterator {
  explicit TextIterator(std::string_view t) : text(t) {}
  bool next(Interpreter&, Value& out) override {
    if (position >= text.size()) return false;
    const size_t start = position;
    decode_utf8(text, position);
    out = string(text.substr(start, position - start));
    return true;
  }
  std::string_view text;
  size_t position = 0;
};

struct RangeIterator final : Iterator {
  explicit RangeIterator(const Range& r) : range(r) {}
  bool next(Interpreter&, Value& out) override {
    if (position >= range.count) return false;
    out = integer(range.at(position++));
    return true;
  }
  Range range;
  int64_t position = 0;
};

struct DictIterator final : Iterator {
  DictIterator(const Dict& d, DictView::Part p) : dict(&d), part(p) {}
  bool next(Interpreter& in, Value& out) override {
    if (position >= dict->size) return false;
    const DictEntry& e = dict->entries[position++];
    if (part == DictView::Part::kItems) {
      Value* const pair = in.arena().array<Value>(2);
      pair[0] = e.key;
      pair[1] = e.value;
      out = tuple({pair, 2});
    } else {
      out = part == DictView::Part::kKeys ? e.key : e.value;
    }
    return true;
  }
  const Dict* dict;
  DictView::Part part;
  uint32_t position = 0;
};

// Start, step and count of a slice over `length` items, as Python's slice.indices.
struct Span {
  int64_t start;
  int64_t step;
  int64_t count;
};

int64_t clamp_index(const Value& v, int64_t length, int64_t low, int64_t high, int64_t otherwise) {
  if (v.is_none() || v.is(Type::kUnset)) return otherwise;
  int64_t i = index_value(v);
  if (i < 0) i = i < -length ? low : i + length;
  return std::clamp(i, low, high);
}

Span resolve(const Slice& s, int64_t length) {
  const int64_t step = s.step.is_none() || s.step.is(Type::kUnset) ? 1 : index_value(s.step);
  if (step == 0) raise_error("ValueError: slice step cannot be zero");
  const int64_t low = step > 0 ? 0 : -1;
  const int64_t high = step > 0 ? length : length - 1;
  const int64_t start = clamp_index(s.start, length, low, high, step > 0 ? low : high);
  const int64_t stop = clamp_index(s.stop, length, low, high, step > 0 ? high : low);
  const Int128 distance = step > 0 ? Int128{stop} - start : Int128{start} - stop;
  const Int128 stride = step > 0 ? Int128{step} : -Int128{step};
  return {start, step, distance <= 0 ? 0 : static_cast<int64_t>((distance + stride - 1) / stride)};
}

Value slice_text(Interpreter& in, const Value& v, const Slice& s) {
  in.charge_text(v.size);
  const std::string_view text = v.text();
  const Span span = resolve(s, static_cast<int64_t>(count_code_points(text)));
  std::string_view result;
  if (span.step == 1) {
    const size_t from = byte_offset(text, static_cast<size_t>(std::max<int64_t>(span.start, 0)));
    const std::string_view rest = text.substr(from);
    result = rest.substr(0, byte_offset(rest, static_cast<size_t>(span.count)));
  } else {
    std::vector<size_t> offsets;  // of every code point, and the end
    for (size_t i = 0; i < text.size(); decode_utf8(text, i)) offsets.push_back(i);
    offsets.push_back(text.size());
    std::string out;
    for (int64_t i = 0; i < span.count; ++i) {
      const auto at = static_cast<size_t>(span.start + i * span.step);
      out += text.substr(offsets[at], offsets[at + 1] - offsets[at]);
    }
    result = in.arena().copy(out);
  }
  Value piece = string(result);
  piece.flags = v.flags;
  return piece;
}

}  // namespace

int64_t index_value(const Value& v) {
  if (v.is(Type::kInt) && (v.flags & Value::kUnsigned) != 0) return INT64_MAX;
  if (v.is_integral()) return static_cast<int64_t>(wide(v));
  if (v.is_undefined()) raise_undefined(v);
  raise_error("TypeError: '{}' object cannot be interpreted as an integer", type_name(v));
}

int64_t length(Interpreter& in, const Value& v) {
  switch (v.type) {
    case Type::kUndefined:
      return 0;
    case Type::kString:
      in.charge_text(v.size);
      return static_cast<int64_t>(count_code_points(v.text()));
    case Type::kList:
    case Type::kTuple:
      return v.size;
    case Type::kDict:
      return v.dict->size;
    default:
      break;
  }
  if (is_object(v, ObjectKind::kRange)) return as<Range>(v).count;
  if (is_object(v, ObjectKind::kDictView)) return as<DictView>(v).dict->size;
  if (is_object(v, ObjectKind::kLoop)) return in.loop_length(as<Loop>(v));
  raise_error("TypeError: object of type '{}' has no len()", type_name(v));
}

Value slice(Interpreter& in, const Value& v, const Slice& s) {
  if (v.is_string()) return slice_text(in, v, s);
  if (is_object(v, ObjectKind::kRange)) {
    const auto& r = as<Range>(v);
    const Span span = resolve(s, r.count);
    return object(in.arena().make<Range>(Object{ObjectKind::kRange}, r.at(span.start),
                                         span.count > 1 ? r.step * span.step : 1, span.count));
  }
  if (!v.is_sequence()) {
    if (v.is_undefined()) raise_undefined(v);
    raise_error("TypeError: '{}' object is not subscriptable", type_name(v));
  }
  const Span span = resolve(s, v.size);
  const auto count = static_cast<size_t>(span.count);
  std::span<const Value> items;
  if (span.step == 1) {
    items = v.list().subspan(static_cast<size_t>(span.start), count);
  } else {
    in.charge(span.count / 8);
    Value* const picked = in.arena().array<Value>(count);
    for (size_t i = 0; i < count; ++i)
      picked[i] = v.items[span.start + static_cast<int64_t>(i) * span.step];
    items = {picked, count};
  }
  return v.is(Type::kList) ? list(items) : tuple(items);
}

Iterator* iterate_span(Interpreter& in, std::span<const Value> items) {
  return in.arena().make<SpanIterator>(items);
}

Iterator* iterate(Interpreter& in, const Value& v) {
  Arena& arena = in.arena();
  switch (v.type) {
    case Type::kUndefined:
      return iterate_span(in, {});
    case Type::kString:
      return arena.make<TextIterator>(v.text());
    case Type::kList:
    case Type::kTuple:
      return iterate_span(in, v.list());
    case Type::kDict:
      return arena.make<DictIterator>(*v.dict, DictView::Part::kKeys);
    case Type::kObject:
      switch (v.object->kind) {
        case ObjectKind::kRange:
          return arena.make<RangeIterator>(as<Range>(v));
        case ObjectKind::kDictView:
          return arena.make<DictIterator>(*as<DictView>(v).dict, as<DictView>(v).part);
        case ObjectKind::kIterator:
          return &as<Iterator>(v);
        default:
          break;
      }
      break;
    default:
      break;
  }
  raise_error("TypeError: '{}' object is not iterable", type_name(v));
}

std::vector<Value> collect(Interpreter& in, const Value& v) {
  std::vector<Value> items;
  if (v.is_sequence()) {
    in.charge(v.size / 8);
    items.assign(v.items, v.items + v.size);
    return items;
  }
  Iterator* const source = iterate(in, v);
  for (Value item; source->next(in, item);) {
    in.charge(1);
    items.push_back(item);
  }
  in.check_size(items.size() * sizeof(Value));
  return items;
}

}  // namespace atom::jinja
