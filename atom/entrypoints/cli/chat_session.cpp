#include "atom/entrypoints/cli/chat_session.h"

#include <boost/json.hpp>
#include <utility>

namespace atom::cli {

struct ChatSession::Turns {
  boost::json::array messages;  // without the system message
};

ChatSession::ChatSession(LLMEngine& engine, SamplingParams sampling, std::string system)
    : engine_(engine),
      sampling_(std::move(sampling)),
      system_(std::move(system)),
      turns_(std::make_unique<Turns>()) {}

ChatSession::~ChatSession() = default;

void ChatSession::reset() { turns_->messages.clear(); }
void ChatSession::set_system(std::string system) { system_ = std::move(system); }

Result<std::string> ChatSession::render() const {
  boost::json::value messages = boost::json::array{};
  boost::json::array& list = messages.as_array();
  if (!system_.empty()) list.push_back({{"role", "system"}, {"content", system_}});
  list.insert(list.end(), turns_->messages.begin(), turns_->messages.end());
  const Tokenizer& tokenizer = *engine_.tokenizer();
  ChatRenderRequest request;
  request.messages = &messages;
  request.bos_token = tokenizer.bos_token();
  request.eos_token = tokenizer.eos_token();
  auto text = engine_.chat_template()->render_chat(request);
  if (text) return std::move(*text);
  return make_error(ErrorCode::kInvalidArgument, "chat template: {}", text.error().message);
}

Result<Generation> ChatSession::answer(const std::string& text, const TextSink& sink) {
  turns_->messages.push_back({{"role", "user"}, {"content", text}});
  const auto taken_back = [this](Error error) {
    turns_->messages.pop_back();
    return std::unexpected(std::move(error));
  };
  auto prompt = render();
  if (!prompt) return taken_back(std::move(prompt.error()));
  GenerationRequest request;
  request.prompt_token_ids = engine_.tokenizer()->encode(*prompt, false);
  request.sampling = sampling_;
  if (std::ssize(request.prompt_token_ids) >= engine_.max_model_len()) {
    return taken_back(
        {.code = ErrorCode::kInvalidArgument,
         .message = str_format("the conversation has {} tokens, the maximum context length "
                               "is {} tokens; /reset starts anew",
                               request.prompt_token_ids.size(), engine_.max_model_len()),
         .param = {}});
  }
  auto generation = run_generation(engine_, std::move(request), sink);
  if (!generation) return taken_back(std::move(generation.error()));
  turns_->messages.push_back({{"role", "assistant"}, {"content", generation->answers[0].text}});
  return generation;
}

}  // namespace atom::cli
