// WeightLoader's experts: one tensor each, or all of a layer stacked in one.
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

}  // namespace atom
