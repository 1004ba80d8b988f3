// What both kinds of Checkpoint share: the tensor table, look-up by name, and page advice on mapped
// files.
#pragma once

#include <memory>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "atom/model_loader/checkpoint.h"
#include "atom/model_loader/mapped_file.h"

namespace atom {

class CheckpointBase : public Checkpoint {
 public:
  const ModelConfig& config() const override { return config_; }
  std::span<const CheckpointTensor> tensors() const override { return tensors_; }
  const CheckpointTensor* find(std::string_view name) const override;
  void release(const CheckpointTensor& tensor) const override;
  void prefetch(const CheckpointTensor& tensor) const override;
  const GenerationDefaults& generation_defaults() const override { return generation_; }
  int64_t total_bytes() const override { return total_bytes_; }
  Status verify_unchanged() const override;

 protected:
  // Takes the table; checks what needs config and tensors together. `source` is the file the config
  // is from.
  Status set_tensors(std::vector<CheckpointTensor> tensors, const std::filesystem::path& source);

  ModelConfig config_;
  GenerationDefaults generation_;
  std::vector<std::shared_ptr<const MappedFile>> files_;  // in order of address once opened

 private:
  const MappedFile* file_of(const void* data) const;

  std::vector<CheckpointTensor> tensors_;
  std::unordered_map<std::string_view, const CheckpointTensor*> by_name_;
  int64_t total_bytes_ = 0;
};

}  // namespace atom
