// `atom inspect`: what a checkpoint is and what it would need, read from its headers alone.
#include <boost/json.hpp>

#include "atom/core/json.h"
#include "atom/core/json_text.h"
#include "atom/entrypoints/cli/command.h"
#include "atom/entrypoints/cli/engine_flags.h"
#include "atom/entrypoints/cli/terminal.h"
#include "atom/model_engine/memory_plan.h"
#include "atom/model_loader/hub.h"
#include "atom/model_loader/inspect.h"

namespace atom::cli {
namespace {

boost::json::value plan_json(const Result<MemoryPlan>& plan) {
  if (!plan) return {{"error", plan.error().message}};
  return {{"available", plan->available},        {"weights", plan->weights},
          {"workspace", plan->workspace},        {"kv_cache", plan->kv_cache},
          {"num_blocks", plan->num_blocks},      {"bytes_per_block", plan->bytes_per_block},
          {"max_model_len", plan->max_model_len}};
}

// A plan that does not fit this machine is part of the answer, not a failure of inspect.
Result<std::string> inspect(const EngineArgs& args, bool json) {
  ATOM_ASSIGN_OR_RETURN(const EngineConfig config, make_engine_config(args));
  ATOM_ASSIGN_OR_RETURN(const std::filesystem::path path, resolve_model(config.model));
  ATOM_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::open(path));
  const auto plan = plan_memory(config, *checkpoint);
  std::string text = inspect_checkpoint(*checkpoint, json);
  if (!json) return text + "memory plan: " + (plan ? describe(*plan) : plan.error().message) + "\n";
  ATOM_ASSIGN_OR_RETURN(boost::json::value object, parse_json(text));
  object.as_object()["memory_plan"] = plan_json(plan);
  return json_text(object) + "\n";
}

}  // namespace

int inspect_command(const Arguments& arguments) {
  EngineArgs args;
  bool json = false;
  FlagSet flags(
      "atom inspect MODEL [FLAGS]",
      "Prints architecture, formats, sizes and the memory plan of a checkpoint without loading "
      "it. The engine flags change the plan.");
  flags.group("Output");
  flags.add_switch({.name = "--json", .help = "one JSON object; sizes in bytes"}, &json);
  add_engine_flags(flags, args);
  flags.positional("--model");
  int status = kExitOk;
  if (!parse_or_exit(flags, arguments, status)) return status;
  const auto text = inspect(args, json);
  if (!text) return report_error(text.error());
  return write_out(*text) ? kExitOk : kExitFailure;
}

}  // namespace atom::cli
