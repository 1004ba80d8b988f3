#include "atom/model_loader/checkpoint_base.h"

#include "atom/model_loader/text.h"

namespace atom {

const CheckpointTensor* CheckpointBase::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

const MappedFile* CheckpointBase::file_of(const void* data) const {
  const auto* at = static_cast<const std::byte*>(data);
  for (const auto& file : files_) {
    const auto bytes = file->bytes();
    if (at >= bytes.data() && at < bytes.data() + bytes.size()) return file.get();
  }
  return nullptr;
}

void CheckpointBase::release(const CheckpointTensor& tensor) const {
  if (const MappedFile* file = file_of(tensor.data)) file->release(tensor.data, tensor.nbytes);
}

void CheckpointBase::prefetch(const CheckpointTensor& tensor) const {
  if (const MappedFile* file = file_of(tensor.data)) file->prefetch(tensor.data, tensor.nbytes);
}

Status CheckpointBase::verify_unchanged() const {
  for (const auto& file : files_) {
    ATOM_RETURN_IF_ERROR(file->verify_unchanged());
  }
  return {};
}

Status CheckpointBase::set_tensors(std::vector<CheckpointTensor> tensors,
                                   const std::filesystem::path& source) {
  tensors_ = std::move(tensors);
  by_name_.reserve(tensors_.size());
  for (const CheckpointTensor& tensor : tensors_) {
    by_name_.emplace(tensor.name, &tensor);
    total_bytes_ += tensor.nbytes;
  }
  const CheckpointTensor* embedding = find("model.embed_tokens.weight");
  if (embedding != nullptr && !embedding->shape.empty() &&
      embedding->shape[0] != config_.vocab_size) {
    return make_error(ErrorCode::kDataLoss,
                      "{}: vocab_size: does not match tensor \"{}\" of {} (found {}, expected {})",
                      printable(source), embedding->name, printable(embedding->file),
                      config_.vocab_size, embedding->shape[0]);
  }
  return {};
}

}  // namespace atom
