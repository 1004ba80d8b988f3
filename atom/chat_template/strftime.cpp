#include "atom/chat_template/strftime.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "atom/core/format.h"

namespace atom::jinja {
namespace {

constexpr std::string_view kDays[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                      "Thursday", "Friday", "Saturday"};
constexpr std::string_view kMonths[] = {"January",   "February", "March",    "April",
                                        "May",       "June",     "July",     "August",
                                        "September", "October",  "November", "December"};

struct Moment {
  int64_t unix_seconds;
  int year, month, day, hour, minute, second;
  int weekday;   // 0 = Sunday
  int year_day;  // 1 = 1 January
  int monday_based() const { return (weekday + 6) % 7; }
  int hour12() const { return hour % 12 == 0 ? 12 : hour % 12; }
};

struct IsoWeek {
  int year;
  int week;
};

// ISO 8601: week 1 is the one with the year's first Thursday.
IsoWeek iso_week(const Moment& m) {
  const int week = (m.year_day - m.monday_based() + 9) / 7;
  const auto weeks_in = [](int year) {
    const auto p = [](int y) { return (y + y / 4 - y / 100 + y / 400) % 7; };
    return p(year) == 4 || p(year - 1) == 3 ? 53 : 52;
  };
  if (week < 1) return {m.year - 1, weeks_in(m.year - 1)};
  if (week > weeks_in(m.year)) return {m.year + 1, 1};
  return {m.year, week};
}

Moment split(int64_t unix_seconds) {
  using namespace std::chrono;
  const sys_seconds at{seconds{unix_seconds}};
  const sys_days date = floor<days>(at);
  const year_month_day ymd{date};
  const hh_mm_ss time{at - date};
  const sys_days new_year = ymd.year() / January / 1;
  return {.unix_seconds = unix_seconds,
          .year = static_cast<int>(ymd.year()),
          .month = static_cast<int>(static_cast<unsigned>(ymd.month())),
          .day = static_cast<int>(static_cast<unsigned>(ymd.day())),
          .hour = static_cast<int>(time.hours().count()),
          .minute = static_cast<int>(time.minutes().count()),
          .second = static_cast<int>(time.seconds().count()),
          .weekday = static_cast<int>(weekday{date}.c_encoding()),
          .year_day = static_cast<int>((date - new_year).count()) + 1};
}

struct Number {
  char conversion;
  int width;
  char pad;
  int64_t (*get)(const Moment& m);
};

constexpr Number kNumbers[] = {
    {'d', 2, '0', [](const Moment& m) -> int64_t { return m.day; }},
    {'e', 2, ' ', [](const Moment& m) -> int64_t { return m.day; }},
    {'m', 2, '0', [](const Moment& m) -> int64_t { return m.month; }},
    {'Y', 1, '0', [](const Moment& m) -> int64_t { return m.year; }},
    {'y', 2, '0', [](const Moment& m) -> int64_t { return m.year % 100; }},
    {'C', 2, '0', [](const Moment& m) -> int64_t { return m.year / 100; }},
    {'H', 2, '0', [](const Moment& m) -> int64_t { return m.hour; }},
    {'k', 2, ' ', [](const Moment& m) -> int64_t { return m.hour; }},
    {'I', 2, '0', [](const Moment& m) -> int64_t { return m.hour12(); }},
    {'l', 2, ' ', [](const Moment& m) -> int64_t { return m.hour12(); }},
    {'M', 2, '0', [](const Moment& m) -> int64_t { return m.minute; }},
    {'S', 2, '0', [](const Moment& m) -> int64_t { return m.second; }},
    {'f', 6, '0', [](const Moment&) -> int64_t { return 0; }},
    {'j', 3, '0', [](const Moment& m) -> int64_t { return m.year_day; }},
    {'w', 1, '0', [](const Moment& m) -> int64_t { return m.weekday; }},
    {'u', 1, '0', [](const Moment& m) -> int64_t { return m.monday_based() + 1; }},
    {'U', 2, '0', [](const Moment& m) -> int64_t { return (m.year_day + 6 - m.weekday) / 7; }},
    {'W', 2, '0',
     [](const Moment& m) -> int64_t { return (m.year_day + 6 - m.monday_based()) / 7; }},
    {'V', 2, '0', [](const Moment& m) -> int64_t { return iso_week(m).week; }},
    {'G', 1, '0', [](const Moment& m) -> int64_t { return iso_week(m).year; }},
    {'g', 2, '0', [](const Moment& m) -> int64_t { return iso_week(m).year % 100; }},
    {'s', 1, '0', [](const Moment& m) -> int64_t { return m.unix_seconds; }},
};

struct Text {
  char conversion;
  std::string_view expansion;  // another format
};

constexpr Text kTexts[] = {
    {'c', "%a %b %e %H:%M:%S %Y"},
    {'x', "%m/%d/%y"},
    {'X', "%H:%M:%S"},
    {'D', "%m/%d/%y"},
    {'F', "%Y-%m-%d"},
    {'T', "%H:%M:%S"},
    {'R', "%H:%M"},
    {'r', "%I:%M:%S %p"},
    {'n', "\n"},
    {'t', "\t"},
    {'Z', ""},
    {'z', ""},
    {'%', "%%"},
};

void append_number(std::string& out, const Number& row, const Moment& m, char flag) {
  const char pad = flag == '_' ? ' ' : flag == '0' ? '0' : row.pad;
  const std::string digits = std::to_string(row.get(m));
  const auto width = static_cast<size_t>(row.width);
  if (flag != '-' && digits.size() < width) out.append(width - digits.size(), pad);
  out += digits;
}

std::string upper(std::string text) {
  std::ranges::transform(text, text.begin(), [](char c) {
    return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
  });
  return text;
}

std::string expand(std::string_view format, const Moment& m);

std::string conversion(char c, char flag, const Moment& m) {
  const auto* const number = std::ranges::find(kNumbers, c, &Number::conversion);
  std::string out;
  if (number != std::end(kNumbers)) {
    append_number(out, *number, m, flag);
    return out;
  }
  switch (c) {
    case 'a':
      out = kDays[m.weekday].substr(0, 3);
      break;
    case 'A':
      out = kDays[m.weekday];
      break;
    case 'b':
    case 'h':
      out = kMonths[m.month - 1].substr(0, 3);
      break;
    case 'B':
      out = kMonths[m.month - 1];
      break;
    case 'p':
      out = m.hour < 12 ? "AM" : "PM";
      break;
    case 'P':
      out = m.hour < 12 ? "am" : "pm";
      break;
    case '%':
      return "%";
    default: {
      const auto* const text = std::ranges::find(kTexts, c, &Text::conversion);
      if (text == std::end(kTexts)) return std::string("%") + c;
      out = expand(text->expansion, m);
    }
  }
  return flag == '^' ? upper(std::move(out)) : out;
}

std::string expand(std::string_view format, const Moment& m) {
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 >= format.size()) {
      out.push_back(format[i]);
      continue;
    }
    const bool flagged = std::string_view("-_0^#").find(format[i + 1]) != std::string_view::npos &&
                         i + 2 < format.size();
    const char flag = flagged ? format[i + 1] : '\0';
    i += flagged ? 2 : 1;
    out += conversion(format[i], flag, m);
  }
  return out;
}

}  // namespace

std::string format_time(std::string_view format, int64_t unix_seconds) {
  return expand(format, split(unix_seconds));
}

}  // namespace atom::jinja
