#include "atom/benchmark/speculation.h"

#include <boost/json.hpp>
#include <charconv>
#include <string_view>

namespace atom {
namespace {

namespace json = boost::json;

std::optional<int64_t> integer(const json::object& from, std::string_view key) {
  const json::value* value = from.if_contains(key);
  if (value == nullptr || !value->is_int64() || value->get_int64() < 0) return std::nullopt;
  return value->get_int64();
}

double number(const json::object& from, std::string_view key) {
  const json::value* value = from.if_contains(key);
  return value != nullptr && value->is_number() ? value->to_number<double>() : 0;
}

std::map<int64_t, int64_t> distribution_of(const json::object& from) {
  constexpr int64_t kMost = 1024;  // accepted tokens of a forward; more is no distribution
  std::map<int64_t, int64_t> out;
  const json::value* value = from.if_contains("distribution");
  if (value == nullptr || !value->is_object()) return out;
  for (const auto& [key, forwards] : value->get_object()) {
    int64_t accepted = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), accepted);
    const bool whole = error == std::errc() && end == key.data() + key.size();
    if (!whole || accepted < 0 || accepted > kMost || !forwards.is_int64()) return {};
    out[accepted] = forwards.get_int64();
  }
  return out;
}

}  // namespace

std::optional<SpeculationCounters> read_speculation(const json::value& answer) {
  const json::object* from = answer.if_object();
  if (from == nullptr) return std::nullopt;
  const json::value* enabled = from->if_contains("enabled");
  if (enabled == nullptr || !enabled->is_bool() || !enabled->get_bool()) return std::nullopt;
  SpeculationCounters out{.drafts = integer(*from, "total_drafts"),
                          .distribution = distribution_of(*from),
                          .acceptance_rate = number(*from, "acceptance_rate"),
                          .tokens_per_forward = number(*from, "average_tokens_per_forward")};
  const auto drafted = integer(*from, "total_draft_tokens");
  const auto accepted = integer(*from, "total_accepted_tokens");
  out.counted = drafted && accepted;
  out.draft_tokens = drafted.value_or(0);
  out.accepted_tokens = accepted.value_or(0);
  return out;
}

std::optional<SpeculationStats> speculation_between(const SpeculationCounters& before,
                                                    const SpeculationCounters& after) {
  if (!before.counted || !after.counted) {
    if (after.tokens_per_forward == 0) return std::nullopt;
    return SpeculationStats{.acceptance_rate = after.acceptance_rate,
                            .tokens_per_forward = after.tokens_per_forward,
                            .acceptance_length = after.tokens_per_forward};
  }
  const int64_t drafted = after.draft_tokens - before.draft_tokens;
  const int64_t accepted = after.accepted_tokens - before.accepted_tokens;
  if (drafted <= 0 || accepted < 0) return std::nullopt;
  std::map<int64_t, int64_t> distribution = after.distribution;
  for (const auto& [count, forwards] : before.distribution) distribution[count] -= forwards;
  int64_t forwards = 0;
  for (const auto& [count, times] : distribution) forwards += times;
  int64_t drafts = forwards;  // a server that does not tell always drafts
  if (before.drafts && after.drafts) drafts = *after.drafts - *before.drafts;
  const auto length_of = [&](int64_t of) {
    return of > 0 ? 1.0 + static_cast<double>(accepted) / static_cast<double>(of) : 0.0;
  };
  SpeculationStats out{
      .acceptance_rate = static_cast<double>(accepted) / static_cast<double>(drafted),
      .tokens_per_forward = forwards > 0 ? length_of(forwards) : after.tokens_per_forward,
      .acceptance_length = drafts > 0 ? length_of(drafts) : after.tokens_per_forward,
      .draft_tokens = drafted,
      .accepted_tokens = accepted};
  if (drafts <= 0) return out;
  out.drafts = drafts;
  const int64_t longest = distribution.empty() ? 0 : distribution.rbegin()->first;
  int64_t reached = 0;  // forwards that accepted token i and maybe more
  for (int64_t i = longest; i >= 1; --i) {
    reached += distribution[i];
    out.per_position.insert(out.per_position.begin(),
                            static_cast<double>(reached) / static_cast<double>(drafts));
  }
  return out;
}

}  // namespace atom
