// `atom render`: chat templates for those who debug them. JSON lines in, JSON lines out
// (render_lines.h).
#include <cerrno>
#include <iostream>
#include <map>

#include "atom/chat_template/render_lines.h"
#include "atom/config.h"
#include "atom/entrypoints/cli/command.h"
#include "atom/model_loader/checkpoint.h"
#include "atom/model_loader/hub.h"

namespace atom::cli {
namespace {

Result<ModelTemplate> load_template(const std::string& model) {
  ATOM_ASSIGN_OR_RETURN(const EngineConfig config, make_engine_config({.model = model}));
  ATOM_ASSIGN_OR_RETURN(const std::filesystem::path path,
                        resolve_model(config.model, {.weights = false}));
  ATOM_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::open(path, CheckpointWeights::kIgnored));
  ATOM_ASSIGN_OR_RETURN(const auto text, checkpoint->chat_template());
  if (!text) return make_error(ErrorCode::kNotFound, "{}: the model has no chat template", model);
  ATOM_ASSIGN_OR_RETURN(const auto tokenizer, checkpoint->load_tokenizer());
  return ModelTemplate{.text = *text,
                       .bos_token = std::string(tokenizer->bos_token()),
                       .eos_token = std::string(tokenizer->eos_token())};
}

}  // namespace

int render_command(const Arguments& arguments) {
  FlagSet flags(
      "atom render < LINES",
      "Renders chat templates. Each line of stdin is a JSON object: {\"template\": text or "
      "\"model\": "
      "MODEL, \"messages\", \"tools\", \"add_generation_prompt\", \"continue_final_message\", "
      "\"chat_template_kwargs\", \"bos_token\", \"eos_token\", \"now\"} or {\"template\", "
      "\"context\": {...}, "
      "\"now\"}. Each answer is one line: {\"text\": ...} or {\"error\": {\"kind\": raise, syntax, "
      "runtime, "
      "value or limit, \"message\"}}. It has no flags.");
  int status = kExitOk;
  if (!parse_or_exit(flags, arguments, status)) return status;
  std::map<std::string, Result<ModelTemplate>> templates;  // many lines name the same model
  std::ios::sync_with_stdio(false);
  errno = 0;
  status = run_render_lines(std::cin, std::cout, [&templates](const std::string& model) {
    const auto found = templates.find(model);
    return found != templates.end() ? found->second
                                    : templates.emplace(model, load_template(model)).first->second;
  });
  return std::cout ? status : report_unwritten();
}

}  // namespace atom::cli
