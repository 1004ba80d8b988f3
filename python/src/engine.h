// Engine: LLMEngine as the Python package sees it. Releases the interpreter's lock wherever it
// waits or computes, asks for Ctrl-C while it waits, and refuses to work in a forked child, which
// has none of the engine's threads. Methods may be called from several Python threads.
#pragma once

#include <nanobind/nanobind.h>
#include <sys/types.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "atom/model_engine/llm_engine.h"
#include "python/src/event_queue.h"

namespace atom::python {

namespace nb = nanobind;

// EngineArgs of the flags as the program takes them, loaded; the one way to an LLMEngine here.
class Engine {
 public:
  explicit Engine(const std::vector<std::string>& flags);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  nb::list generate(const nb::list& prompts, const nb::list& params);
  RequestId add_request(nb::handle prompt, nb::dict params, std::shared_ptr<EventQueue> queue);
  // What add_request() would do with `structured_outputs`, which may take seconds; kept for it.
  void compile_grammar(nb::dict params);
  void abort(RequestId id);
  // Events of `queue` (conversions.h); waits `seconds` for the first one, for ever when negative.
  nb::list take_events(EventQueue& queue, double seconds);
  // Aborts what runs and stops the engine's threads; idempotent.
  void close();

  std::vector<int32_t> encode(const std::string& text, bool add_special_tokens) const;
  std::string decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const;
  std::string apply_chat_template(nb::list messages, nb::handle tools, bool add_generation_prompt,
                                  bool continue_final_message, nb::dict kwargs) const;
  void start_profile(const std::string& output_dir) const;
  std::vector<std::string> stop_profile() const;
  nb::dict stats() const;
  nb::dict tokenizer_info() const;
  int64_t max_model_len() const { return engine()->max_model_len(); }

 private:
  std::shared_ptr<LLMEngine> engine() const;  // raises when closed or forked
  bool forked() const;
  std::vector<int32_t> prompt_ids(const LLMEngine& engine,
                                  std::variant<std::string, std::vector<int32_t>>&& prompt) const;

  mutable std::mutex mutex_;  // of engine_
  std::shared_ptr<LLMEngine> engine_;
  pid_t process_;
};

// True when the program was interrupted while a model was loading, and its loader still runs.
bool loader_left_behind();

}  // namespace atom::python
