// Speculative decoding of the server during a run, from GET /debug/mtp_stats of an ATOM server
// before and after it. Pure; who asks and prints is elsewhere.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace atom {

// What the server counted since its start. An older server tells the two averages alone.
struct SpeculationCounters {
  bool counted = false;  // draft_tokens and accepted_tokens were told
  int64_t draft_tokens = 0;
  int64_t accepted_tokens = 0;
  std::optional<int64_t> drafts = {};            // verified
  std::map<int64_t, int64_t> distribution = {};  // accepted tokens -> forwards
  double acceptance_rate = 0;                    // 0 to 1
  double tokens_per_forward = 0;
};

struct SpeculationStats {
  double acceptance_rate = 0;     // accepted of drafted tokens, 0 to 1
  double tokens_per_forward = 0;  // of all forwards, those without a draft included
  double acceptance_length = 0;   // of the forwards with a draft, where the server tells them apart
  std::optional<int64_t> drafts = {};
  std::optional<int64_t> draft_tokens = {};
  std::optional<int64_t> accepted_tokens = {};
  std::vector<double> per_position = {};  // of the drafts, those whose token i was accepted; 0 to 1
};

// nullopt: the answer is none of an ATOM server that speculates.
std::optional<SpeculationCounters> read_speculation(const boost::json::value& answer);
// nullopt: nothing was drafted between the two, or the server started anew.
std::optional<SpeculationStats> speculation_between(const SpeculationCounters& before,
                                                    const SpeculationCounters& after);

}  // namespace atom
