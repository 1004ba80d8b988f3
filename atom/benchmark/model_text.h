// The text side of a model: its tokenizer and chat template, for programs that never compute with
// it.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "atom/benchmark/dataset.h"
#include "atom/chat_template/chat_template.h"
#include "atom/tokenizer/tokenizer.h"

namespace atom {

struct ModelText {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat_template;  // nullptr: the model has none

  // One user message through the template; an error where there is no template.
  Result<std::string> render(std::string_view user_text) const;
};

// `model`: directory, .gguf file or hub name. A directory may hold the tokenizer alone.
Result<ModelText> load_model_text(const std::string& model);

}  // namespace atom
