// WeightLoader's experts: one tensor each, or all of a layer stacked in one.
#include <cstring>
#include <utility>

#include "atom/models/weight_loader.h"

namespace atom {

void WeightLoader::experts(ExpertsWeight& out, const ExpertsParts& parts) {
  out.gate_up.resize(static_cast<size_t>(parts.num_experts));
  out.down.resize(static_cast<size_t>(parts.num_experts));
  if (has(parts.prefix + parts.gate + ".weight")) {
    return stacked_experts(out, parts);
  }
  for (int64_t e = 0; e < parts.num_experts; ++e) {
    const std::string prefix = parts.prefix + std::to_string(e) + ".";
    Linear gate_up, down;
    linear(gate_up,
           {{.prefix = prefix + parts.gate, .rows = parts.intermediate_size},
            {.prefix = prefix + parts.up, .rows = parts.intermediate_size}},
           parts.hidden_size);
    linear(down, {{.prefix = prefix + parts.down, .rows = parts.hidden_size}},
           parts.intermediate_size);
    out.gate_up[static_cast<size_t>(e)] = std::move(gate_up.weight);
    out.down[static_cast<size_t>(e)] = std::move(down.weight);
  }
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
    pack_parts(out.gate_up[static_cast<size_t>(e)], gate_up, name);
    pack_parts(out.down[static_cast<size_t>(e)], one_down, name);
  }
  done_with(*gate);
  done_with(*up);
  done_with(*down);
}

void WeightLoader::interleaved_experts(ExpertsWeight& out, const ExpertsParts& parts) {
  const int64_t count = parts.num_experts;
  const int64_t inner = parts.intermediate_size;
  const int64_t hidden = parts.hidden_size;
  out.gate_up.resize(static_cast<size_t>(count));
  out.down.resize(static_cast<size_t>(count));
  const auto gate_up = stacked_weight(parts.prefix + "gate_up_proj", count, 2 * inner, hidden);
  const auto down = stacked_weight(parts.prefix + "down_proj", count, hidden, inner);
  const Buffer gate_up_bias = host_values(parts.prefix + "gate_up_proj_bias", {count, 2 * inner});
  const Buffer down_bias = host_values(parts.prefix + "down_proj_bias", {count, hidden});
  if (!gate_up || !down || gate_up_bias.data() == nullptr || down_bias.data() == nullptr) {
    return;
  }
  for (int64_t e = 0; e < count; ++e) {
    const std::string name = parts.prefix + std::to_string(e);
    LinearWeight& first = out.gate_up[static_cast<size_t>(e)];
    LinearWeight& second = out.down[static_cast<size_t>(e)];
    const WeightPart rows[] = {part_rows(gate_up->part, e * 2 * inner, inner, 2),
                               part_rows(gate_up->part, e * 2 * inner + 1, inner, 2)};
    const WeightPart one_down[] = {part_rows(down->part, e * hidden, hidden)};
    pack_parts(first, rows, name);
    pack_parts(second, one_down, name);
    const float* stored = static_cast<const float*>(gate_up_bias.data()) + e * 2 * inner;
    std::vector<float> bias(static_cast<size_t>(2 * inner));
    for (int64_t i = 0; i < inner; ++i) {
      bias[static_cast<size_t>(i)] = stored[2 * i];
      bias[static_cast<size_t>(inner + i)] = stored[2 * i + 1];
    }
    place_values(bias.data(), 2 * inner, first.bias);
    place_values(static_cast<const float*>(down_bias.data()) + e * hidden, hidden, second.bias);
  }
  done_with(*gate_up);
  done_with(*down);
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
