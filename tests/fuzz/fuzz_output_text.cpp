// From token ids to the text of a choice: incremental detokeniser, stop strings, hold-back, events.
// Whatever the ids and wherever the steps are cut, the concatenation of the events is the text that
// the whole list of ids decodes to, cut at the first stop string; every event is whole UTF-8, and
// the choice ends exactly once. The reference is naive: decode everything, search from the front.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "atom/model_engine/output_processor.h"
#include "tests/fuzz/check.h"
#include "tests/support/byte_tokenizer.h"

namespace {

using namespace atom;

struct Case {
  GenerationRequest request;
  std::vector<int32_t> ids;
  std::vector<uint8_t> cuts;  // tokens between two events, in turn
};

// flags, number of stops, stops (each ends with 0xff), cuts (until 0xff), then one id a byte. In
// the ids 0xfd, 0xfe and 0xff followed by a byte below 0x80 stand for the special tokens.
Case read_case(const uint8_t* data, size_t size) {
  size_t at = 0;
  const auto next = [&]() -> uint8_t { return at < size ? data[at++] : 0xff; };
  Case out;
  out.request.prompt_token_ids = {'a'};
  SamplingParams& params = out.request.sampling;
  const uint8_t flags = next();
  params.include_stop_str_in_output = (flags & 1) != 0;
  params.skip_special_tokens = (flags & 2) != 0;
  params.spaces_between_special_tokens = (flags & 4) != 0;
  params.min_tokens = flags >> 5;
  for (int stops = next() % 4; stops > 0; --stops) {
    std::string text;
    for (uint8_t byte = next(); byte != 0xff; byte = next()) text += static_cast<char>(byte);
    params.stop_strings.push_back(fuzz::well_formed(text));
  }
  for (uint8_t byte = next(); byte != 0xff; byte = next()) out.cuts.push_back(byte % 8 + 1);
  while (at < size && out.ids.size() < 4096) {
    const uint8_t byte = next();
    const bool special = byte >= 0xfd && at < size && data[at] < 0x80;
    out.ids.push_back(special ? 256 + (byte - 0xfd) : byte);
    if (special) ++at;
  }
  return out;
}

struct Seen {
  std::string text;
  int ends = 0;
  std::optional<FinishReason> reason;
  size_t num_tokens = 0;
  bool stopped = false;
};

Seen run(const Case& input, const std::shared_ptr<const Tokenizer>& tokenizer, bool whole) {
  Seen seen;
  const auto callback = [&seen](RequestOutput&& output) {
    FUZZ_CHECK(seen.ends == 0);  // nothing follows the last event
    FUZZ_CHECK(output.choices.size() == 1 && !output.error);
    const ChoiceDelta& delta = output.choices[0];
    FUZZ_CHECK(fuzz::is_utf8(delta.text));
    FUZZ_CHECK(!delta.text.empty() || delta.finish_reason);
    seen.text += delta.text;
    seen.num_tokens += delta.token_ids.size();
    seen.ends += delta.finish_reason ? 1 : 0;
    FUZZ_CHECK(output.finished == delta.finish_reason.has_value());
    seen.reason = delta.finish_reason;
  };
  OutputProcessor processor({.stop_choice = [&seen](RequestId, int32_t) { seen.stopped = true; },
                             .abort = [](RequestId) { FUZZ_CHECK(!"aborted"); },
                             .done = [](RequestId) {}});
  std::vector<OutputBatch> batches(1);
  batches[0].added.push_back(
      std::make_unique<OutputRequest>(1, input.request, 0.0, tokenizer, callback));
  size_t cut = 0;
  size_t left = input.cuts.empty() ? 1 : input.cuts[0];
  for (size_t i = 0; i < input.ids.size(); ++i) {
    SequenceUpdate update{.request_id = 1, .token = SampledToken{.token_id = input.ids[i]}};
    if (i + 1 == input.ids.size()) update.finish_reason = FinishReason::kLength;
    batches.back().updates.push_back(std::move(update));
    if (whole || --left > 0) continue;
    processor.process(batches);
    batches.clear();
    batches.emplace_back();
    if (!input.cuts.empty()) left = input.cuts[++cut % input.cuts.size()];
    if (left == 0) left = 1;
  }
  processor.process(batches);
  return seen;
}

// Cuts at the first stop string to be completed; of several that end together the longest counts.
bool cut_at_stop(std::string& text, size_t from, const SamplingParams& params) {
  for (size_t end = from + 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : params.stop_strings) {
      if (!stop.empty() && end - from >= stop.size() &&
          std::string_view(text).substr(0, end).ends_with(stop))
        longest = std::max(longest, stop.size());
    }
    if (longest == 0) continue;
    text.resize(params.include_stop_str_in_output ? end : end - longest);
    return true;
  }
  return false;
}

// The text that the first min_tokens tokens made certain is exempt from stop strings.
size_t exempt_bytes(const Case& input, const std::shared_ptr<const Tokenizer>& tokenizer) {
  const SamplingParams& params = input.request.sampling;
  IncrementalDetokenizer detokenizer(tokenizer, params.skip_special_tokens,
                                     params.spaces_between_special_tokens);
  size_t bytes = 0;
  const size_t count = std::min<size_t>(static_cast<size_t>(params.min_tokens), input.ids.size());
  for (size_t i = 0; i < count; ++i) bytes += detokenizer.push(input.ids[i]).size();
  if (count == input.ids.size()) bytes += detokenizer.flush().size();
  return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::shared_ptr<const Tokenizer> tokenizer = testing_support::make_byte_tokenizer();
  const Case input = read_case(data, size);
  if (input.ids.empty()) return 0;
  const SamplingParams& params = input.request.sampling;
  const Seen seen = run(input, tokenizer, false);
  FUZZ_CHECK(seen.ends == 1);
  std::string expected = tokenizer->decode(input.ids, params.skip_special_tokens);
  FUZZ_CHECK(fuzz::is_utf8(expected));
  const bool stopped = cut_at_stop(expected, exempt_bytes(input, tokenizer), params);
  FUZZ_CHECK(seen.text == expected);
  FUZZ_CHECK(seen.reason == (stopped ? FinishReason::kStop : FinishReason::kLength));
  FUZZ_CHECK(stopped || seen.num_tokens == input.ids.size());
  const Seen at_once = run(input, tokenizer, true);
  FUZZ_CHECK(at_once.text == seen.text && at_once.reason == seen.reason && at_once.ends == 1);
  FUZZ_CHECK(at_once.num_tokens == seen.num_tokens);
  return 0;
}
