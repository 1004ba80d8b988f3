// LLMEngine::create: from a model's name to running threads, with the time of every phase.
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "atom/core/log.h"
#include "atom/model_engine/llm_engine.h"
#include "atom/model_engine/model_runner.h"
#include "atom/model_loader/hub.h"

namespace atom {
namespace {

// Collects "name 0.12 s" for the one line that start-up prints.
class PhaseTimes {
 public:
  void end(const char* name) {
    const auto now = std::chrono::steady_clock::now();
    text_ += str_format("{}{} {:.2f} s", text_.empty() ? "" : ", ", name,
                        std::chrono::duration<double>(now - last_).count());
    last_ = now;
  }
  const std::string& text() const { return text_; }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
  std::string text_;
};

// Fills both template fields; one that does not parse is a warning, for chat alone needs it.
Status load_chat_template(const Checkpoint& checkpoint, EngineParts& parts) {
  ATOM_ASSIGN_OR_RETURN(std::optional<std::string> source, checkpoint.chat_template());
  if (!source) {
    return {};
  }
  std::expected<ChatTemplate, TemplateError> parsed = ChatTemplate::parse(*source);
  if (parsed) {
    parts.chat_template = std::make_shared<const ChatTemplate>(std::move(*parsed));
  } else {
    log_warning("chat template, line {}: {} (chat requests need --chat-template)",
                parsed.error().line, parsed.error().message);
  }
  parts.chat_template_source = std::move(*source);
  return {};
}

}  // namespace

Result<std::unique_ptr<LLMEngine>> LLMEngine::create(const EngineConfig& config) {
  PhaseTimes times;
  ATOM_ASSIGN_OR_RETURN(const std::filesystem::path path, resolve_model(config.model));
  times.end("resolve");
  ATOM_ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> opened,
                        Checkpoint::open(path, config.model.load_dummy == DummyWeights::kNone
                                                   ? CheckpointWeights::kRequired
                                                   : CheckpointWeights::kIgnored));
  const std::shared_ptr<const Checkpoint> checkpoint = std::move(opened);
  times.end("open");
  EngineParts parts{.model = checkpoint->config(),
                    .generation_defaults = checkpoint->generation_defaults(),
                    .scheduler = config.scheduler,
                    .speculative = config.speculative,
                    .profiler = config.profiler,
                    .enable_prefix_caching = config.cache.enable_prefix_caching,
                    .seed = static_cast<uint64_t>(config.seed)};
  ATOM_ASSIGN_OR_RETURN(parts.tokenizer, checkpoint->load_tokenizer());
  ATOM_RETURN_IF_ERROR(load_chat_template(*checkpoint, parts));
  times.end("tokenizer");
  MemoryPlan plan;
  ATOM_ASSIGN_OR_RETURN(parts.executor, make_model_runner(config, checkpoint, plan));
  times.end("weights");
  parts.scheduler.max_model_len = plan.max_model_len;

  log_info("{}: {}, {} layers, {}", path.string(), checkpoint->config().architecture,
           checkpoint->config().num_hidden_layers, checkpoint->format_name());
  for (const std::string& row : memory_table(plan)) {
    log_info("memory: {}", row);
  }
  if (plan.weights + plan.workspace + plan.kv_cache > plan.available) {
    log_warning("the KV cache that was asked for is more than the free memory holds");
  }
  log_info("loaded: {}", times.text());
  return create_with(std::move(parts));
}

}  // namespace atom
