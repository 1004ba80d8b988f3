// The chat page at /: the files of entrypoints/ui put together into one document without any
// outside resource, and the Content-Security-Policy that lets exactly these styles and scripts run.
#pragma once

#include <string>
#include <string_view>

namespace atom::openai {

struct Page {
  std::string html;
  std::string content_security_policy;
};

// `html` with a <style> and a <script> element, both empty, that `css` and `script` fill.
Page make_page(std::string_view html, std::string_view css, std::string_view script);
// That of the program; made once.
const Page& ui_page();

}  // namespace atom::openai
