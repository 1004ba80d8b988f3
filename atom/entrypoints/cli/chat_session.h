// ChatSession: the conversation of `atom chat`: messages, rendering, one answer at a time. The
// terminal is the caller's business. One thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "atom/entrypoints/cli/generation.h"
#include "atom/model_engine/llm_engine.h"

namespace atom::cli {

class ChatSession {
 public:
  ChatSession(LLMEngine& engine, SamplingParams sampling, std::string system);
  ~ChatSession();

  // Adds the user's turn and the answer, whole or as far as it came. On an error the turn is taken
  // back.
  Result<Generation> answer(const std::string& text, const TextSink& sink);
  void reset();                         // forgets all turns, keeps the system message
  void set_system(std::string system);  // empty: none; takes effect with the next turn

 private:
  Result<std::string> render() const;

  LLMEngine& engine_;
  SamplingParams sampling_;
  std::string system_;
  struct Turns;  // boost::json stays in the .cpp
  std::unique_ptr<Turns> turns_;
};

}  // namespace atom::cli
