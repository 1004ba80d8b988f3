#include "atom/chat_template/render_lines.h"

#include <boost/json.hpp>
#include <charconv>
#include <chrono>
#include <cmath>
#include <unordered_map>
#include <utility>

#include "atom/chat_template/chat_template.h"
#include "atom/core/json.h"

namespace atom {
namespace json = boost::json;
namespace {

constexpr std::string_view kKinds[] = {"raise", "syntax", "runtime", "value", "limit"};
constexpr size_t kMaxCached = 64;  // parsed templates kept between lines

using Rendered = std::expected<std::string, TemplateError>;

template <class... Args>
[[nodiscard]] std::unexpected<TemplateError> bad_value(fmt::format_string<Args...> text,
                                                       Args&&... args) {
  return std::unexpected(TemplateError{.kind = TemplateError::Kind::kValue,
                                       .message = str_format(text, std::forward<Args>(args)...)});
}

std::string_view view(const json::string& s) { return {s.data(), s.size()}; }

// Digits at `pos`, exactly `count` of them, into `number`.
bool read_digits(std::string_view text, size_t& pos, size_t count, int& number) {
  if (pos + count > text.size()) return false;
  const char* const begin = text.data() + pos;
  const auto [end, error] = std::from_chars(begin, begin + count, number);
  if (error != std::errc() || end != begin + count || *begin == '-') return false;
  pos += count;
  return true;
}

bool skip(std::string_view text, size_t& pos, char c) {
  return pos < text.size() && text[pos] == c && ++pos > 0;
}

// The fields of one line, each checked for its type. A null is as good as no field.
class Fields {
 public:
  explicit Fields(const json::object& line) : line_(line) {}

  const json::value* find(std::string_view name) const {
    const json::value* const v = line_.if_contains(name);
    return v == nullptr || v->is_null() ? nullptr : v;
  }
  const json::value* typed(std::string_view name, json::kind kind, std::string_view wanted) {
    const json::value* const v = find(name);
    if (v == nullptr || v->kind() == kind) return v;
    if (problem_.empty()) problem_ = str_format("\"{}\" must be {}", name, wanted);
    return nullptr;
  }
  std::string_view text(std::string_view name) {
    const json::value* const v = typed(name, json::kind::string, "a string");
    return v == nullptr ? std::string_view() : view(v->get_string());
  }
  bool flag(std::string_view name, bool otherwise) {
    const json::value* const v = typed(name, json::kind::bool_, "true or false");
    return v == nullptr ? otherwise : v->get_bool();
  }
  std::optional<int64_t> moment(std::string_view name) {
    const json::value* const v = find(name);
    if (v == nullptr) return std::nullopt;
    constexpr double kLargest = 253402300799;  // the year 9999
    if (v->is_string()) {
      const auto seconds = parse_wall_time(view(v->get_string()));
      if (!seconds) problem_ = str_format("\"{}\" is not a time like 2026-11-22 12:34:56", name);
      return seconds;
    }
    json::error_code error;
    const double seconds = v->to_number<double>(error);
    if (error || !(std::abs(seconds) <= kLargest)) {
      problem_ = str_format("\"{}\" must be a time or seconds since 1970", name);
      return std::nullopt;
    }
    return static_cast<int64_t>(std::floor(seconds));
  }
  const std::string& problem() const { return problem_; }

 private:
  const json::object& line_;
  std::string problem_;
};

class LineRenderer {
 public:
  explicit LineRenderer(const ModelTemplateLoader& load_model) : load_model_(load_model) {}

  Rendered render(std::string_view line) {
    const auto parsed = parse_json(line);
    if (!parsed) return bad_value("{}", parsed.error().message);
    if (!parsed->is_object()) return bad_value("a line must be a JSON object");
    return render(parsed->get_object());
  }

 private:
  Rendered render(const json::object& line) {
    Fields fields(line);
    ModelTemplate model;
    if (const std::string_view dir = fields.text("model"); !dir.empty()) {
      auto loaded = load_model_(std::string(dir));
      if (!loaded) return bad_value("{}", loaded.error().message);
      model = std::move(*loaded);
    }
    if (fields.find("template") != nullptr) model.text = fields.text("template");
    if (!fields.problem().empty()) return bad_value("{}", fields.problem());
    if (fields.find("template") == nullptr && fields.find("model") == nullptr) {
      return bad_value("a line needs \"template\" or \"model\"");
    }
    const auto chat = parse(model.text);
    if (!chat) return std::unexpected(chat.error());
    return fields.find("context") != nullptr ? render_context(**chat, fields)
                                             : render_chat(**chat, fields, model);
  }

  static Rendered render_context(const ChatTemplate& chat, Fields& fields) {
    const json::value* const context = fields.typed("context", json::kind::object, "an object");
    const auto now = fields.moment("now");
    if (!fields.problem().empty()) return bad_value("{}", fields.problem());
    return chat.render(context->get_object(), now);
  }

  static Rendered render_chat(const ChatTemplate& chat, Fields& fields,
                              const ModelTemplate& model) {
    const bool continues = fields.flag("continue_final_message", false);
    const json::value* const kwargs =
        fields.typed("chat_template_kwargs", json::kind::object, "an object");
    const ChatRenderRequest request{
        .messages = fields.typed("messages", json::kind::array, "an array"),
        .tools = fields.typed("tools", json::kind::array, "an array"),
        .chat_template_kwargs = kwargs == nullptr ? nullptr : &kwargs->get_object(),
        .add_generation_prompt = fields.flag("add_generation_prompt", !continues),
        .continue_final_message = continues,
        .bos_token =
            fields.find("bos_token") != nullptr ? fields.text("bos_token") : model.bos_token,
        .eos_token =
            fields.find("eos_token") != nullptr ? fields.text("eos_token") : model.eos_token,
        .now_unix = fields.moment("now"),
    };
    if (!fields.problem().empty()) return bad_value("{}", fields.problem());
    if (request.messages == nullptr) return bad_value("a line needs \"messages\" or \"context\"");
    return chat.render_chat(request);
  }

  std::expected<const ChatTemplate*, TemplateError> parse(const std::string& text) {
    if (const auto known = parsed_.find(text); known != parsed_.end()) return &known->second;
    auto chat = ChatTemplate::parse(text);
    if (!chat) return std::unexpected(std::move(chat.error()));
    if (parsed_.size() >= kMaxCached) parsed_.clear();
    return &parsed_.emplace(text, std::move(*chat)).first->second;
  }

  const ModelTemplateLoader& load_model_;
  std::unordered_map<std::string, ChatTemplate> parsed_;
};

json::object to_json(const Rendered& result) {
  if (result) return {{"text", *result}};
  const TemplateError& e = result.error();
  json::object error{{"kind", kKinds[static_cast<int>(e.kind)]}, {"message", e.message}};
  if (e.line > 0) error["line"] = e.line;
  return {{"error", std::move(error)}};
}

}  // namespace

std::optional<int64_t> parse_wall_time(std::string_view text) {
  int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0;
  size_t pos = 0;
  const bool date = read_digits(text, pos, 4, year) && skip(text, pos, '-') &&
                    read_digits(text, pos, 2, month) && skip(text, pos, '-') &&
                    read_digits(text, pos, 2, day);
  if (!date) return std::nullopt;
  if (pos < text.size()) {
    if (!skip(text, pos, ' ') && !skip(text, pos, 'T')) return std::nullopt;
    if (!read_digits(text, pos, 2, hour) || !skip(text, pos, ':') ||
        !read_digits(text, pos, 2, minute))
      return std::nullopt;
    if (skip(text, pos, ':') && !read_digits(text, pos, 2, second)) return std::nullopt;
    if (skip(text, pos, '.')) {
      const size_t end = text.find_first_not_of("0123456789", pos);
      pos = end == text.npos ? text.size() : end;
    }
    const std::string_view zone = text.substr(pos);
    const bool offset = !zone.empty() && (zone[0] == '+' || zone[0] == '-') &&
                        zone.find_first_not_of("0123456789:", 1) == zone.npos && zone.size() <= 9;
    if (!zone.empty() && zone != "Z" && !offset) return std::nullopt;
  }
  using namespace std::chrono;
  const year_month_day ymd{std::chrono::year{year},
                           std::chrono::month{static_cast<unsigned>(month)},
                           std::chrono::day{static_cast<unsigned>(day)}};
  if (!ymd.ok() || hour > 23 || minute > 59 || second > 59) return std::nullopt;
  return duration_cast<seconds>(sys_days{ymd}.time_since_epoch()).count() + hour * 3600 +
         minute * 60 + second;
}

int run_render_lines(std::istream& in, std::ostream& out, const ModelTemplateLoader& load_model) {
  LineRenderer renderer(load_model);
  for (std::string line; std::getline(in, line);) {
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    out << json::serialize(to_json(renderer.render(line))) << '\n' << std::flush;
    if (!out) return 1;
  }
  return 0;
}

}  // namespace atom
