#include "atom/benchmark/model_text.h"

#include <boost/json.hpp>

#include "atom/config.h"
#include "atom/core/printable.h"
#include "atom/model_loader/checkpoint.h"
#include "atom/model_loader/hub.h"

namespace atom {

Result<std::string> ModelText::render(std::string_view user_text) const {
  if (chat_template == nullptr)
    return make_error(ErrorCode::kUnsupported, "the model has no chat template");
  const boost::json::value messages = {{{"role", "user"}, {"content", user_text}}};
  auto text = chat_template->render_chat({.messages = &messages,
                                          .bos_token = tokenizer->bos_token(),
                                          .eos_token = tokenizer->eos_token()});
  if (text) return *std::move(text);
  return make_error(ErrorCode::kInvalidArgument, "chat template: {}",
                    printable(text.error().message));
}

Result<ModelText> load_model_text(const std::string& model) {
  ATOM_ASSIGN_OR_RETURN(const EngineConfig config, make_engine_config({.model = model}));
  ATOM_ASSIGN_OR_RETURN(const std::filesystem::path path, resolve_model(config.model, kHubText));
  ModelText text;
  auto opened = Checkpoint::open(path, CheckpointWeights::kIgnored);
  if (!opened && std::filesystem::is_directory(path)) {  // a model that others serve
    ATOM_ASSIGN_OR_RETURN(text.tokenizer, Tokenizer::from_directory(path));
    return text;
  }
  if (!opened) return std::unexpected(opened.error());
  const auto& checkpoint = *opened;
  ATOM_ASSIGN_OR_RETURN(text.tokenizer, checkpoint->load_tokenizer());
  ATOM_ASSIGN_OR_RETURN(const auto source, checkpoint->chat_template());
  if (!source) return text;
  auto parsed = ChatTemplate::parse(*source);
  if (!parsed) {
    return make_error(ErrorCode::kInvalidArgument, "{}: chat template: line {}: {}", model,
                      parsed.error().line, printable(parsed.error().message));
  }
  text.chat_template = std::make_shared<ChatTemplate>(*std::move(parsed));
  return text;
}

}  // namespace atom
