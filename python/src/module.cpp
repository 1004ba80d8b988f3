// The native half of the Python package: atom._atom. The rest of the package (../atom) is what
// users see; names, defaults and documentation are there.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "atom/core/log.h"
#include "atom/entrypoints/cli/engine_flags.h"
#include "python/src/conversions.h"
#include "python/src/engine.h"

namespace atom::python {
namespace {

const char* value_name(cli::FlagValue value) {
  switch (value) {
    case cli::FlagValue::kNone:
      return "switch";
    case cli::FlagValue::kOnOff:
      return "on_off";
    case cli::FlagValue::kText:
      return "str";
    case cli::FlagValue::kOptionalText:
      return "optional_str";
    case cli::FlagValue::kInteger:
      return "int";
    case cli::FlagValue::kNumber:
      return "float";
    case cli::FlagValue::kIntegerList:
      return "int_list";
  }
  return "str";
}

nb::list engine_flags() {
  EngineArgs args;
  cli::FlagSet flags("", "");
  cli::add_engine_flags(flags, args);
  nb::list out;
  for (const cli::FlagRow& row : flags.rows()) {
    nb::dict entry;
    entry["name"] = row.spec.name;
    entry["alias"] = row.spec.alias;
    entry["group"] = row.group;
    entry["metavar"] = row.spec.metavar;
    entry["help"] = row.spec.help;
    entry["default"] = row.spec.default_text;
    entry["choices"] = nb::cast(row.spec.choices);
    entry["value"] = value_name(row.value);
    entry["implied"] = row.implied;
    out.append(entry);
  }
  return out;
}

void set_level(const std::string& name) {
  static constexpr std::pair<const char*, LogLevel> kLevels[] = {{"debug", LogLevel::kDebug},
                                                                 {"info", LogLevel::kInfo},
                                                                 {"warning", LogLevel::kWarning},
                                                                 {"error", LogLevel::kError},
                                                                 {"off", LogLevel::kOff}};
  for (const auto& [known, level] : kLevels) {
    if (name == known) return set_log_level(level);
  }
  throw nb::value_error(
      (name + ": not a log level; allowed: debug, info, warning, error, off").c_str());
}

}  // namespace

NB_MODULE(_atom, m) {
  m.doc() = "The native half of the package atom; use that.";
  nb::set_leak_warnings(false);  // an engine may be alive when the interpreter ends
  set_log_level(LogLevel::kWarning);
  m.attr("__version__") = ATOM_VERSION;
  nb::exception<EngineFailure>(m, "EngineError", PyExc_RuntimeError);

  nb::class_<EventQueue>(m, "EventQueue").def(nb::init<>()).def("fileno", &EventQueue::descriptor);

  nb::class_<Engine>(m, "Engine")
      .def(nb::init<const std::vector<std::string>&>(), nb::arg("flags"))
      .def("generate", &Engine::generate, nb::arg("prompts"), nb::arg("params"))
      .def("add_request", &Engine::add_request, nb::arg("prompt"), nb::arg("params"),
           nb::arg("queue"))
      .def("compile_grammar", &Engine::compile_grammar, nb::arg("params"))
      .def("abort", &Engine::abort, nb::arg("request_id"))
      .def("take_events", &Engine::take_events, nb::arg("queue"), nb::arg("seconds"))
      .def("close", &Engine::close)
      .def("encode", &Engine::encode, nb::arg("text"), nb::arg("add_special_tokens"))
      .def("decode", &Engine::decode, nb::arg("ids"), nb::arg("skip_special_tokens"))
      .def("apply_chat_template", &Engine::apply_chat_template, nb::arg("messages"),
           nb::arg("tools").none(), nb::arg("add_generation_prompt"),
           nb::arg("continue_final_message"), nb::arg("kwargs"))
      .def("start_profile", &Engine::start_profile, nb::arg("output_dir"))
      .def("stop_profile", &Engine::stop_profile)
      .def("stats", &Engine::stats)
      .def("tokenizer_info", &Engine::tokenizer_info)
      .def_prop_ro("max_model_len", &Engine::max_model_len);

  m.def("engine_flags", &engine_flags);
  m.def("set_log_level", &set_level, nb::arg("level"));
  m.def("loader_left_behind", &loader_left_behind);
}

}  // namespace atom::python
