// For tests only: temporary directories and writers of tiny safetensors and GGUF files, correct by
// default and wrong where a test says so.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace atom::testing {

class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "atom_loader_XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline void write_file(const std::filesystem::path& path, std::string_view content) {
  std::ofstream stream(path, std::ios::binary | std::ios::trunc);
  stream.write(content.data(), static_cast<std::streamsize>(content.size()));
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

inline std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << "no " << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

template <class T>
std::string raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// ---- safetensors ----

inline std::string safetensors_file(std::string_view header, std::string_view data) {
  return raw<uint64_t>(header.size()) + std::string(header) + std::string(data);
}

struct NamedShape {
  std::string name;
  std::vector<int64_t> shape;
};

// BF16 tensors one after the other, all zero.
inline std::string safetensors_of(const std::vector<NamedShape>& tensors) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}";
  int64_t offset = 0;
  for (const auto& [name, shape] : tensors) {
    int64_t bytes = 2;
    std::string dims;
    for (const int64_t dim : shape) {
      bytes *= dim;
      dims += (dims.empty() ? "" : ",") + std::to_string(dim);
    }
    header += ",\"" + name + "\":{\"dtype\":\"BF16\",\"shape\":[" + dims + "],\"data_offsets\":[" +
              std::to_string(offset) + "," + std::to_string(offset + bytes) + "]}";
    offset += bytes;
  }
  return safetensors_file(header + "}", std::string(static_cast<size_t>(offset), '\0'));
}

inline const char* kTinyConfig =
    R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":8,"intermediate_size":16,
"num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,"vocab_size":12,"rms_norm_eps":1e-05,"rope_theta":500000.0,
"rope_scaling":null,"max_position_embeddings":64,"tie_word_embeddings":true,"torch_dtype":"bfloat16","bos_token_id":0,"eos_token_id":2})";

inline std::vector<NamedShape> tiny_tensors() {
  return {{"model.embed_tokens.weight", {12, 8}}, {"model.norm.weight", {8}}};
}

// A directory that Checkpoint::open accepts.
inline void write_tiny_model(const std::filesystem::path& dir) {
  write_file(dir / "config.json", kTinyConfig);
  write_file(dir / "model.safetensors", safetensors_of(tiny_tensors()));
}

// ---- GGUF ----

inline std::string gguf_string(std::string_view text) {
  return raw<uint64_t>(text.size()) + std::string(text);
}

class GgufBuilder {
 public:
  uint32_t version = 3;
  uint64_t alignment = 32;
  std::string data;
  std::string magic = "GGUF";
  int64_t extra_tensors = 0, extra_metadata = 0;  // added to the counts only

  void put(std::string_view key, uint32_t type, std::string_view payload) {
    metadata_.push_back(gguf_string(key) + raw(type) + std::string(payload));
  }
  void put_u32(std::string_view key, uint32_t value) { put(key, 4, raw(value)); }
  void put_f32(std::string_view key, float value) { put(key, 6, raw(value)); }
  void put_bool(std::string_view key, bool value) { put(key, 7, raw<uint8_t>(value)); }
  void put_string(std::string_view key, std::string_view value) { put(key, 8, gguf_string(value)); }
  void put_strings(std::string_view key, const std::vector<std::string>& values) {
    std::string payload = raw<uint32_t>(8) + raw<uint64_t>(values.size());
    for (const std::string& value : values) {
      payload += gguf_string(value);
    }
    put(key, 9, payload);
  }
  void put_i32s(std::string_view key, const std::vector<int32_t>& values) {
    std::string payload = raw<uint32_t>(5) + raw<uint64_t>(values.size());
    for (const int32_t value : values) {
      payload += raw(value);
    }
    put(key, 9, payload);
  }
  void put_f32s(std::string_view key, const std::vector<float>& values) {
    std::string payload = raw<uint32_t>(6) + raw<uint64_t>(values.size());
    for (const float value : values) {
      payload += raw(value);
    }
    put(key, 9, payload);
  }
  void remove(std::string_view key) {
    std::erase_if(metadata_,
                  [&](const std::string& entry) { return entry.starts_with(gguf_string(key)); });
  }
  void replace_u32(std::string_view key, uint32_t value) {
    remove(key);
    put_u32(key, value);
  }

  // `dims` fastest first, as the file has them.
  void tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
              std::string_view content) {
    data.resize((data.size() + alignment - 1) / alignment * alignment);
    tensor_at(name, dims, type, data.size());
    data += content;
  }
  void tensor_at(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                 uint64_t offset) {
    std::string info = gguf_string(name) + raw<uint32_t>(static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) {
      info += raw(dim);
    }
    tensors_.push_back(info + raw(type) + raw(offset));
  }
  void tensor_f32(std::string_view name, const std::vector<uint64_t>& dims) {
    uint64_t bytes = 4;
    for (const uint64_t dim : dims) {
      bytes *= dim;
    }
    tensor(name, dims, 0, std::string(bytes, '\0'));
  }
  void remove_tensors() { tensors_.clear(), data.clear(); }

  std::string build() const {
    std::string file = magic + raw(version) +
                       raw<uint64_t>(tensors_.size() + static_cast<uint64_t>(extra_tensors)) +
                       raw<uint64_t>(metadata_.size() + static_cast<uint64_t>(extra_metadata));
    for (const std::string& entry : metadata_) {
      file += entry;
    }
    for (const std::string& info : tensors_) {
      file += info;
    }
    file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + data;
  }

 private:
  std::vector<std::string> metadata_, tensors_;
};

// A llama file of one layer, hidden 8, two heads of 4, one KV head, 12 tokens.
inline GgufBuilder tiny_gguf(const std::string& arch = "llama") {
  GgufBuilder gguf;
  gguf.put_string("general.architecture", arch);
  gguf.put_u32(arch + ".block_count", 1);
  gguf.put_u32(arch + ".context_length", 64);
  gguf.put_u32(arch + ".embedding_length", 8);
  gguf.put_u32(arch + ".feed_forward_length", 16);
  gguf.put_u32(arch + ".attention.head_count", 2);
  gguf.put_u32(arch + ".attention.head_count_kv", 1);
  gguf.put_u32(arch + ".attention.key_length", 4);
  gguf.put_f32(arch + ".rope.freq_base", 500000.0F);
  gguf.put_f32(arch + ".attention.layer_norm_rms_epsilon", 1e-5F);
  gguf.put_string("tokenizer.ggml.model", "gpt2");
  gguf.put_string("tokenizer.ggml.pre", "smollm");
  gguf.put_strings("tokenizer.ggml.tokens",
                   {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "ab"});
  gguf.put_i32s("tokenizer.ggml.token_type", std::vector<int32_t>(12, 1));
  gguf.put_strings("tokenizer.ggml.merges", {"a b"});
  gguf.put_u32("tokenizer.ggml.eos_token_id", 2);
  gguf.put_u32("tokenizer.ggml.eot_token_id", 3);
  gguf.put_u32("tokenizer.ggml.bos_token_id", 1);
  gguf.tensor_f32("token_embd.weight", {8, 12});
  gguf.tensor_f32("blk.0.attn_q.weight", {8, 8});
  gguf.tensor_f32("blk.0.attn_k.weight", {8, 4});
  gguf.tensor_f32("blk.0.ffn_down.weight", {16, 8});
  gguf.tensor_f32("output_norm.weight", {8});
  return gguf;
}

// ATOM_SHARED_DIR, else ../shared beside the source tree; empty when absent.
inline std::filesystem::path shared_dir() {
  const char* given = getenv("ATOM_SHARED_DIR");
  const std::filesystem::path dir = given != nullptr ? given : "../shared";
  return std::filesystem::exists(dir / "parity") ? dir : std::filesystem::path();
}

}  // namespace atom::testing

// One line, with every part somewhere in it.
#define EXPECT_REFUSED(result, ...)                                                   \
  do {                                                                                \
    auto&& refused_ = (result);                                                       \
    if (refused_.has_value()) {                                                       \
      ADD_FAILURE() << "accepted";                                                    \
      break;                                                                          \
    }                                                                                 \
    const std::string& message_ = refused_.error().message;                           \
    EXPECT_EQ(message_.find('\n'), std::string::npos) << message_;                    \
    for (const std::string part_ : std::initializer_list<std::string>{__VA_ARGS__}) { \
      EXPECT_NE(message_.find(part_), std::string::npos)                              \
          << "no \"" << part_ << "\" in: " << message_;                               \
    }                                                                                 \
  } while (0)
