#include "atom/entrypoints/openai/page.h"

#include <vector>

#include "atom/core/check.h"
#include "atom/entrypoints/openai/api_server.h"
#include "atom/model_loader/digest.h"

namespace atom::embedded {
extern const std::string_view index_html;
extern const std::string_view style_css;
extern const std::string_view markdown_js;
extern const std::string_view metrics_js;
extern const std::string_view chat_js;
}  // namespace atom::embedded

namespace atom::openai {
namespace {

std::string base64(std::string_view bytes) {
  static constexpr char kDigits[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k) {
      const uint32_t byte = i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0;
      group = group << 8 | byte;
    }
    for (size_t k = 0; k < 4; ++k)
      out += i + k <= bytes.size() ? kDigits[group >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

std::string bytes_of_hex(std::string_view hex) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::string out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    out += static_cast<char>(digit(hex[i]) * 16 + digit(hex[i + 1]));
  return out;
}

// As CSP names the text of an inline element.
std::string source_hash(std::string_view text) {
  Digest digest(Digest::Kind::kSha256);
  digest.update(std::as_bytes(std::span(text)));
  return "'sha256-" + base64(bytes_of_hex(digest.finish())) + "'";
}

void fill(std::string& html, std::string_view element, std::string_view text) {
  const size_t at = html.find(element);
  ATOM_CHECK(at != std::string::npos) << "the page has no " << element;
  html.insert(at + element.find('>') + 1, text);
}

}  // namespace

Page make_page(std::string_view html, std::string_view css, std::string_view script) {
  Page page{.html = std::string(html)};
  fill(page.html, "<style></style>", css);
  fill(page.html, "<script></script>", script);
  page.content_security_policy =
      "default-src 'none'; script-src " + source_hash(script) + "; style-src " + source_hash(css) +
      "; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
      "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
  return page;
}

const Page& ui_page() {
  static const Page page =
      make_page(embedded::index_html, embedded::style_css,
                std::string(embedded::markdown_js) + std::string(embedded::metrics_js) +
                    std::string(embedded::chat_js));
  return page;
}

std::optional<http::Response> ApiServer::page(Call& call) {
  if (!options_.ui) {
    return error_response({.status = 404, .message = "no such path: /; the page is off (--no-ui)"});
  }
  const Page& page = ui_page();
  call.headers.emplace_back("Content-Security-Policy", page.content_security_policy);
  call.headers.emplace_back("X-Content-Type-Options", "nosniff");
  call.headers.emplace_back("Referrer-Policy", "no-referrer");
  call.headers.emplace_back("Cache-Control", "no-cache");
  return http::Response{.content_type = "text/html; charset=utf-8", .body = page.html};
}

}  // namespace atom::openai
