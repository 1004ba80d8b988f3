// config.json and generation_config.json (after a NUL): a config that is accepted can be computed
// with; a refusal is one line.
#include <string_view>

#include "atom/model_loader/hf_config.h"
#include "tests/fuzz/check.h"

namespace {

using atom::fuzz::is_clean_message;

void check(const atom::ModelConfig& config) {
  FUZZ_CHECK(config.vocab_size > 0 && config.hidden_size > 0 && config.intermediate_size > 0);
  FUZZ_CHECK(config.num_hidden_layers > 0 && config.num_attention_heads > 0);
  FUZZ_CHECK(config.num_key_value_heads > 0 && config.head_dim > 0);
  FUZZ_CHECK(config.num_attention_heads % config.num_key_value_heads == 0);
  FUZZ_CHECK(config.max_position_embeddings > 0);
  FUZZ_CHECK(config.rms_norm_eps >= 0 && config.rms_norm_eps < 1e9);
  FUZZ_CHECK(config.rope.theta > 0 && config.rope.factor > 0);
  for (const int32_t id : config.eos_token_ids) FUZZ_CHECK(id >= 0);
  int64_t parameters = 0;  // sizes of weights stay far from overflow
  FUZZ_CHECK(!__builtin_mul_overflow(config.hidden_size, config.intermediate_size, &parameters));
  FUZZ_CHECK(!__builtin_mul_overflow(config.vocab_size, config.hidden_size, &parameters));
  FUZZ_CHECK(!__builtin_mul_overflow(config.num_attention_heads, config.head_dim, &parameters));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t end = text.find('\0');
  auto config = atom::parse_hf_config(text.substr(0, end));
  if (!config) {
    FUZZ_CHECK(is_clean_message(config.error().message));
    return 0;
  }
  check(*config);
  if (end == std::string_view::npos) return 0;
  atom::GenerationDefaults defaults;
  const auto more = atom::parse_generation_config(text.substr(end + 1), *config, defaults);
  if (!more) {
    FUZZ_CHECK(is_clean_message(more.error().message));
    return 0;
  }
  check(*config);
  if (defaults.temperature) FUZZ_CHECK(*defaults.temperature >= 0);
  if (defaults.top_p) FUZZ_CHECK(*defaults.top_p > 0 && *defaults.top_p <= 1);
  return 0;
}
