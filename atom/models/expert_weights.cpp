// WeightLoader's experts: one tensor each, or all of a layer stacked in one.
#include <cmath>
#include <cstring>
#include <utility>

#include "atom/model_ops/device_experts.h"
#include "atom/models/weight_loader.h"

namespace atom {

void WeightLoader::experts(ExpertsWeight& out, const ExpertsParts& parts) {
  make_room(out, parts.num_experts, parts.intermediate_size, parts.hidden_size);
  if (make_up_experts(out)) {
    return;
  }
  if (has(parts.prefix + parts.gate + ".weight")) {
    return stacked_experts(out, parts);
  }
  for (int64_t e = 0; e < parts.num_experts; ++e) {
    const std::string prefix = parts.prefix + std::to_string(e) + ".";
    load_expert(out.gate_up, out.stacked_gate_up, e,
                {{.prefix = prefix + parts.gate, .rows = parts.intermediate_size},
                 {.prefix = prefix + parts.up, .rows = parts.intermediate_size}},
                parts.hidden_size);
    load_expert(out.down, out.stacked_down, e,
                {{.prefix = prefix + parts.down, .rows = parts.hidden_size}},
                parts.intermediate_size);
  }
}

void WeightLoader::make_room(ExpertsWeight& out, int64_t count, int64_t inner, int64_t hidden) {
  if (ctx_.ops->pack_linear != nullptr) {
    out.gate_up.resize(static_cast<size_t>(count));
    out.down.resize(static_cast<size_t>(count));
    return;
  }
  out.stacked_gate_up.num_experts = out.stacked_down.num_experts = count;
  out.stacked_gate_up.rows = 2 * inner;
  out.stacked_gate_up.cols = out.stacked_down.rows = hidden;
  out.stacked_down.cols = inner;
}

bool WeightLoader::make_up_experts(ExpertsWeight& out) {
  const QuantizationConfig& config = checkpoint_.config().quantization;
  const bool mxfp4 = config.method == "mxfp4";  // of stacked experts, see read_stacked_weight
  if (options_.dummy == DummyWeights::kNone || ctx_.ops->pack_linear != nullptr ||
      (config.groups.empty() && !mxfp4)) {
    return false;
  }
  const DataFormat stored = mxfp4 ? DataFormat{.dtype = DType::kF4E2M1,
                                               .block_n = 1,
                                               .block_k = 32,
                                               .scale_dtype = DType::kF8E8M0}
                                  : config.groups[0].format;
  for (StackedExperts* stack : {&out.stacked_gate_up, &out.stacked_down}) {
    const uint8_t none = 0;
    const WeightPart part{.data = &none,
                          .format = stored,
                          .rows = stack->rows / 2,
                          .cols = stack->cols,
                          .scales = &none};
    const DataFormat format = device_expert_format({&part, 1});
    if (format.dtype == DType::kBF16) {
      return false;
    }
    const auto sizes = static_cast<float>(stack->rows + stack->cols);
    Status made =
        allocate_experts(ctx_, format, stack->num_experts, stack->rows, stack->cols, *stack);
    if (made) {
      made = place_dummy_experts(ctx_, std::sqrt(6.0F / sizes), *stack);
    }
    if (!made) {
      fail(str_format("experts: {}", made.error().message));
    }
  }
  return true;
}

void WeightLoader::pack_expert(std::vector<LinearWeight>& packed, StackedExperts& stack, int64_t e,
                               std::span<const WeightPart> parts, const std::string& name) {
  if (ctx_.ops->pack_linear != nullptr) {
    return pack_parts(packed[static_cast<size_t>(e)], parts, name);
  }
  Status placed;
  if (stack.values.data() == nullptr) {
    placed = allocate_experts(ctx_, device_expert_format(parts), stack.num_experts, stack.rows,
                              stack.cols, stack);
  }
  if (placed) {
    placed = place_expert(ctx_, parts, e, stack);
  }
  if (!placed) {
    fail(str_format("{}: {}", name, placed.error().message));
  }
}

void WeightLoader::load_expert(std::vector<LinearWeight>& packed, StackedExperts& stack, int64_t e,
                               const std::vector<LinearPart>& parts, int64_t in_features) {
  std::vector<WeightPart> sources;
  std::vector<StoredWeight> stored;
  // What a device makes up here it keeps as bf16 (see make_up_experts).
  const Precision dummies = ctx_.runtime == nullptr ? Precision::kMayQuantize : Precision::kKeep;
  if (find_sources(parts, in_features, dummies, sources, stored)) {
    pack_expert(packed, stack, e, sources, parts.front().prefix);
  }
  for (const StoredWeight& weight : stored) {
    done_with(weight);
  }
  clear_dummies();
}

void WeightLoader::stacked_experts(ExpertsWeight& out, const ExpertsParts& parts) {
  const int64_t inner = parts.intermediate_size;
  const int64_t hidden = parts.hidden_size;
  const auto gate = stacked_weight(parts.prefix + parts.gate, parts.num_experts, inner, hidden);
  const auto up = stacked_weight(parts.prefix + parts.up, parts.num_experts, inner, hidden);
  const auto down = stacked_weight(parts.prefix + parts.down, parts.num_experts, hidden, inner);
  if (!gate || !up || !down) {
    return;
  }
  for (int64_t e = 0; e < parts.num_experts; ++e) {
    const std::string name = parts.prefix + std::to_string(e);
    const WeightPart gate_up[] = {part_rows(gate->part, e * inner, inner),
                                  part_rows(up->part, e * inner, inner)};
    const WeightPart one_down[] = {part_rows(down->part, e * hidden, hidden)};
    pack_expert(out.gate_up, out.stacked_gate_up, e, gate_up, name);
    pack_expert(out.down, out.stacked_down, e, one_down, name);
  }
  done_with(*gate);
  done_with(*up);
  done_with(*down);
}

void WeightLoader::interleaved_experts(ExpertsWeight& out, const ExpertsParts& parts) {
  const int64_t count = parts.num_experts;
  const int64_t inner = parts.intermediate_size;
  const int64_t hidden = parts.hidden_size;
  make_room(out, count, inner, hidden);
  const Buffer gate_up_bias = host_values(parts.prefix + "gate_up_proj_bias", {count, 2 * inner});
  const Buffer down_bias = host_values(parts.prefix + "down_proj_bias", {count, hidden});
  if (gate_up_bias.data() == nullptr || down_bias.data() == nullptr) {
    return;
  }
  std::vector<float> biases(static_cast<size_t>(count * 2 * inner));
  for (int64_t e = 0; e < count; ++e) {
    const float* stored = static_cast<const float*>(gate_up_bias.data()) + e * 2 * inner;
    float* bias = biases.data() + e * 2 * inner;
    for (int64_t i = 0; i < inner; ++i) {
      bias[i] = stored[2 * i];
      bias[inner + i] = stored[2 * i + 1];
    }
  }
  if (!make_up_experts(out) && !interleaved_matrices(out, parts)) {
    return;
  }
  place_biases(biases.data(), 2 * inner, out.gate_up, out.stacked_gate_up);
  place_biases(static_cast<const float*>(down_bias.data()), hidden, out.down, out.stacked_down);
}

bool WeightLoader::interleaved_matrices(ExpertsWeight& out, const ExpertsParts& parts) {
  const int64_t count = parts.num_experts;
  const int64_t inner = parts.intermediate_size;
  const int64_t hidden = parts.hidden_size;
  const auto gate_up = stacked_weight(parts.prefix + "gate_up_proj", count, 2 * inner, hidden);
  const auto down = stacked_weight(parts.prefix + "down_proj", count, hidden, inner);
  if (!gate_up || !down) {
    return false;
  }
  for (int64_t e = 0; e < count; ++e) {
    const std::string name = parts.prefix + std::to_string(e);
    const WeightPart rows[] = {part_rows(gate_up->part, e * 2 * inner, inner, 2),
                               part_rows(gate_up->part, e * 2 * inner + 1, inner, 2)};
    const WeightPart one_down[] = {part_rows(down->part, e * hidden, hidden)};
    pack_expert(out.gate_up, out.stacked_gate_up, e, rows, name);
    pack_expert(out.down, out.stacked_down, e, one_down, name);
  }
  done_with(*gate_up);
  done_with(*down);
  return true;
}

void WeightLoader::place_biases(const float* values, int64_t rows,
                                std::vector<LinearWeight>& packed, StackedExperts& stack) {
  if (stack.num_experts > 0) {
    return place_values(values, stack.num_experts * rows, stack.bias);
  }
  for (size_t e = 0; e < packed.size(); ++e) {
    place_values(values + static_cast<int64_t>(e) * rows, rows, packed[e].bias);
  }
}

void WeightLoader::place_values(const float* values, int64_t size, Buffer& out) {
  const int64_t bytes = size * static_cast<int64_t>(sizeof(float));
  auto buffer = Buffer::allocate(bytes);
  if (!buffer) {
    return fail(buffer.error().message);
  }
  std::memcpy(buffer->data(), values, static_cast<size_t>(bytes));
  place(std::move(*buffer), out);
}

}  // namespace atom
