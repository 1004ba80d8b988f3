// `atom chat`: a conversation in the terminal, or one user turn a line through a pipe. Commands
// begin with /.
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "atom/entrypoints/cli/chat_session.h"
#include "atom/entrypoints/cli/command.h"
#include "atom/entrypoints/cli/engine_flags.h"
#include "atom/entrypoints/cli/line_editor.h"
#include "atom/entrypoints/cli/sampling_flags.h"
#include "atom/entrypoints/cli/terminal.h"

namespace atom::cli {
namespace {

constexpr float kDefaultTemperature = 0.6F;  // the guide's simple_inference
constexpr const char* kBlockMark = "\"\"\"";
constexpr const char* kHelp =
    "/reset        forget the conversation\n"
    "/system TEXT  set the system message; without TEXT: none\n"
    "/help         this list\n"
    "/exit         leave, as Ctrl-D does\n"
    "A \\ at the end of a line continues it; \"\"\" begins and ends a text of several lines.\n"
    "Ctrl-C stops the answer.\n";

struct Options {
  EngineArgs engine;
  SamplingFlags sampling;
  std::string system;
  bool verbose = false;
};

FlagSet make_flags(Options& options) {
  FlagSet flags(
      "atom chat [MODEL] [FLAGS]",
      "A conversation through the model's chat template. On a terminal with line editing and "
      "history; in a pipe every line is one turn of the user. /help lists the commands.");
  flags.group("Conversation");
  flags.add({.name = "--system",
             .metavar = "TEXT",
             .help = "system message",
             .default_text = "none",
             .allow_empty = true},
            &options.system);
  flags.add_switch({.name = "--verbose", .help = "log the start-up phases and the memory plan"},
                   &options.verbose);
  options.sampling.max_tokens = 1024;
  add_sampling_flags(flags, options.sampling);
  add_engine_flags(flags, options.engine);
  flags.positional("--model");
  return flags;
}

// The dialogue of one session with one LineEditor.
class Dialogue {
 public:
  Dialogue(ChatSession& session, LineEditor& editor)
      : session_(session), editor_(editor), colour_(use_colour()) {}

  int run() {
    if (editor_.is_terminal()) std::fputs("/help lists the commands, Ctrl-D leaves.\n", stderr);
    while (true) {
      clear_interrupt();
      std::string text;
      const LineEnd end = read_turn(text);
      if (end == LineEnd::kEnd) return failed_ ? kExitFailure : kExitOk;
      if (end == LineEnd::kInterrupt && !editor_.is_terminal()) return kExitInterrupted;
      if (end == LineEnd::kInterrupt || text.find_first_not_of(" \t\n") == std::string::npos)
        continue;
      editor_.add_history(text);
      if (text == "/exit" || text == "/quit") return failed_ ? kExitFailure : kExitOk;
      if (text.starts_with('/') && run_command(text)) continue;
      if (!answer(text)) return kExitFailure;
      if (interrupted() && !editor_.is_terminal()) return kExitInterrupted;
    }
  }

 private:
  // One turn: a line, lines continued with a backslash, or a block between triple quotes.
  LineEnd read_turn(std::string& text) {
    std::string line;
    LineEnd end = editor_.read_line("> ", line);
    if (end != LineEnd::kLine) return end;
    if (!line.starts_with(kBlockMark)) {
      text = line;
      while (text.ends_with('\\')) {
        text.back() = '\n';
        end = editor_.read_line(". ", line);
        if (end == LineEnd::kInterrupt) return end;
        if (end == LineEnd::kEnd) break;
        text += line;
      }
      return LineEnd::kLine;
    }
    text = line.substr(3);
    while (!text.ends_with(kBlockMark)) {
      end = editor_.read_line(". ", line);
      if (end == LineEnd::kInterrupt) return end;
      if (end == LineEnd::kEnd) return LineEnd::kLine;
      text += (text.empty() ? "" : "\n") + line;
    }
    text.resize(text.size() - 3);
    return LineEnd::kLine;
  }

  // True when `text` was one of our commands; other texts with a slash are for the model.
  bool run_command(const std::string& text) {
    const std::string name = text.substr(0, text.find_first_of(" \n"));
    const std::string rest = name.size() < text.size() ? text.substr(name.size() + 1) : "";
    if (name == "/help") {
      std::fputs(kHelp, stderr);
    } else if (name == "/reset") {
      session_.reset();
      if (editor_.is_terminal()) std::fputs("The conversation is forgotten.\n", stderr);
    } else if (name == "/system") {
      session_.set_system(rest);
      if (editor_.is_terminal()) {
        std::fputs(rest.empty() ? "No system message.\n" : "The system message is set.\n", stderr);
      }
    } else {
      if (text.find_first_of(" \n") != std::string::npos || text.find('/', 1) != std::string::npos)
        return false;
      std::fprintf(stderr, "%s: unknown command; /help lists them\n", shown(name).c_str());
    }
    return true;
  }

  // False when nobody reads our output any more.
  bool answer(const std::string& text) {
    bool readable = true;
    const TextSink sink = [&](std::string_view piece) {
      readable = write_out(editor_.is_terminal() ? harmless(piece) : std::string(piece));
      return readable;
    };
    const auto generation = session_.answer(text, sink);
    if (!generation) {
      failed_ = !editor_.is_terminal();
      report_error(generation.error());
      return true;
    }
    if (!readable || !write_out("\n")) return false;
    if (editor_.is_terminal()) {
      std::fprintf(stderr, "%s%s%s%s\n", colour_ ? "\x1b[2m" : "",
                   generation->stopped ? "(stopped) " : "", describe_speed(*generation).c_str(),
                   colour_ ? "\x1b[0m" : "");
    }
    return true;
  }

  ChatSession& session_;
  LineEditor& editor_;
  bool colour_;
  bool failed_ = false;  // in a pipe: one turn could not be answered
};

Result<int> run(const Options& options, bool seed_given) {
  ATOM_ASSIGN_OR_RETURN(const EngineConfig config, make_engine_config(options.engine));
  ATOM_ASSIGN_OR_RETURN(const auto engine, start_engine(config, options.verbose));
  if (engine->chat_template() == nullptr) {
    return make_error(ErrorCode::kUnsupported,
                      "{}: the model has no chat template; atom generate "
                      "continues a plain prompt",
                      options.engine.model);
  }
  SamplingParams sampling =
      make_sampling_params(options.sampling, engine->generation_defaults(), kDefaultTemperature);
  if (seed_given) sampling.seed = options.engine.seed;
  catch_interrupts();
  LineEditor editor;
  ChatSession session(*engine, std::move(sampling), options.system);
  return Dialogue(session, editor).run();
}

}  // namespace

int chat_command(const Arguments& arguments) { return run_with_flags(arguments, make_flags, run); }

}  // namespace atom::cli
