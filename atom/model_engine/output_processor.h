// OutputProcessor: turns what steps produced into what callers see: text (whole characters, stop
// strings held back), token ids, logprobs, finish reasons, usage and timing. The one place that
// ends a choice on a stop string; EOS, stop ids and lengths are the Scheduler's. Owned by the
// output thread of EngineCore; no lock.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "atom/model_engine/engine_metrics.h"
#include "atom/model_engine/scheduler.h"
#include "atom/model_engine/stop_matcher.h"
#include "atom/request_output.h"
#include "atom/tokenizer/tokenizer.h"

namespace atom {

// Everything the output side keeps of one request. Built on the caller's thread, then owned by the
// OutputProcessor until the last event.
class OutputRequest {
 public:
  OutputRequest(RequestId id, const GenerationRequest& request, double arrival,
                const std::shared_ptr<const Tokenizer>& tokenizer, OutputCallback callback);

  RequestId id() const { return id_; }
  // True when the update ended a choice by a stop string, which the scheduler does not know yet.
  bool apply(SequenceUpdate&& update, double now);
  // Ends every open choice.
  void fail(const Error& error, double now);
  // Hands what is new to the callback, if there is anything to say; may throw what the callback
  // throws.
  void emit();
  bool finished() const { return num_open_ == 0; }

 private:
  friend class OutputProcessor;
  struct Choice {
    std::optional<IncrementalDetokenizer> detokenizer;  // none: the engine has no tokenizer
    std::optional<StopMatcher> matcher;
    ChoiceDelta delta;
    std::vector<ControlToken> controls;  // not given out yet; offsets in the choice's whole text
    size_t text_read = 0;                // bytes of text, also those held back
    size_t text_given = 0;               // in earlier deltas
    int64_t num_tokens = 0;
    double first_token = 0;  // seconds, engine clock
    double last_token = 0;
    bool finished = false;
  };

  // Returns true when a stop string ended the choice.
  bool add_text(Choice& choice, std::string&& text);
  void give_controls(Choice& choice);
  bool is_control(int32_t token_id) const;
  bool add_token(Choice& choice, SampledToken&& token, bool is_text, double now);
  void close(Choice& choice, FinishReason reason, double now);
  void add_prompt_logprobs(PromptLogprobRows&& rows);
  void count_token(Choice& choice, double now);
  void count_end(const Choice& choice, FinishReason reason, double now);

  RequestId id_;
  OutputCallback callback_;
  bool include_stop_;
  std::vector<int32_t> control_ids_;
  bool wants_logprobs_;
  int64_t min_tokens_;
  std::vector<Choice> choices_;
  int32_t num_open_;
  std::vector<std::optional<TokenLogprobs>> prompt_logprobs_;
  int64_t num_prompt_tokens_;
  int64_t num_cached_tokens_ = 0;
  int64_t num_generated_tokens_ = 0;
  int64_t max_tokens_;
  double arrival_;
  double first_scheduled_ = -1;
  RequestTiming timing_;
  bool has_first_token_ = false;
  bool touched_ = false;  // listed for emit()
  std::optional<Error> error_;
  EngineMetrics* metrics_ = nullptr;  // nullptr: nothing is measured
};

// What the engine thread hands over after a step or an inbox round.
struct OutputBatch {
  double now = 0;  // seconds, engine clock
  std::vector<std::unique_ptr<OutputRequest>> added;
  std::vector<SequenceUpdate> updates;
  std::optional<Error> fatal;  // nothing more will come: every open request fails
  bool empty() const { return !fatal && added.empty() && updates.empty(); }
};

class OutputProcessor {
 public:
  struct Hooks {
    std::function<void(RequestId, int32_t)> stop_choice;  // a stop string ended this choice
    std::function<void(RequestId)> abort;                 // its callback or text failed
    std::function<void(RequestId)> done;                  // the last event is delivered
  };
  // `metrics` may be null and is not owned.
  explicit OutputProcessor(Hooks hooks, EngineMetrics* metrics = nullptr)
      : hooks_(std::move(hooks)), metrics_(metrics) {}

  // All batches that are waiting: a caller that fell behind gets one event, not many.
  void process(std::vector<OutputBatch>& batches);

 private:
  void apply(SequenceUpdate&& update, double now);
  void touch(OutputRequest& request);
  void emit(OutputRequest& request);

  Hooks hooks_;
  EngineMetrics* metrics_;
  std::unordered_map<RequestId, std::unique_ptr<OutputRequest>> requests_;
  std::vector<OutputRequest*> touched_;
};

}  // namespace atom
