#include "atom/model_loader/gguf_checkpoint.h"

#include "atom/core/log.h"
#include "atom/model_loader/checkpoint_base.h"
#include "atom/model_loader/gguf.h"
#include "atom/model_loader/gguf_arch.h"
#include "atom/model_loader/text.h"

namespace atom {
namespace {

class GgufCheckpoint final : public CheckpointBase {
 public:
  Status load(const std::filesystem::path& path) {
    ATOM_ASSIGN_OR_RETURN(auto file, MappedFile::open(path));
    files_.push_back(file);
    auto status = parse(*file);
    return status ? std::move(status) : with_file(path, std::move(status.error()));
  }

  Result<std::shared_ptr<const Tokenizer>> load_tokenizer() const override {
    auto vocab = read_gguf_vocab(gguf_);
    if (!vocab) return with_file(path(), std::move(vocab.error()));
    if (static_cast<int64_t>(vocab->tokens.size()) > config_.vocab_size) {
      log_warning("{}: the tokenizer has more tokens ({}) than the model ({})", printable(path()),
                  vocab->tokens.size(), config_.vocab_size);
    }
    auto tokenizer = Tokenizer::from_gguf(*vocab);
    if (!tokenizer) return with_file(path(), std::move(tokenizer.error()));
    return tokenizer;
  }

  Result<std::optional<std::string>> chat_template() const override {
    const GgufValue* value = gguf_.find("tokenizer.chat_template");
    if (value == nullptr) return std::nullopt;
    const auto text = value->as_string();
    if (!text)
      return make_error(ErrorCode::kInvalidArgument, "{}: tokenizer.chat_template: not a string",
                        printable(path()));
    return std::string(*text);
  }

  std::string format_name() const override { return str_format("GGUF v{}", gguf_.version); }

 private:
  const std::filesystem::path& path() const { return files_.front()->path(); }

  Status parse(const MappedFile& file) {
    ATOM_ASSIGN_OR_RETURN(gguf_, parse_gguf(file.bytes()));
    ATOM_ASSIGN_OR_RETURN(config_, read_gguf_config(gguf_, file.bytes()));
    ATOM_ASSIGN_OR_RETURN(auto tensors, translate_gguf_tensors(gguf_, config_, file.bytes().data(),
                                                               file.path().native()));
    return set_tensors(std::move(tensors), file.path());
  }

  GgufFile gguf_;  // views into the mapped file
};

}  // namespace

Result<std::unique_ptr<Checkpoint>> open_gguf_file(const std::filesystem::path& path) {
  auto checkpoint = std::make_unique<GgufCheckpoint>();
  ATOM_RETURN_IF_ERROR(checkpoint->load(path));
  return checkpoint;
}

}  // namespace atom
