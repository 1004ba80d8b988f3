// The component chains of a tokenizer.json: normalizer, pre_tokenizer, decoder, post_processor.
// To add a component: its struct in normalizer.h / pre_tokenizer.h / decoder.h and a branch here.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <vector>

#include "atom/core/error.h"
#include "atom/tokenizer/decoder.h"
#include "atom/tokenizer/normalizer.h"
#include "atom/tokenizer/pre_tokenizer.h"

namespace atom {

// `root`: the whole document. Absent and null parts leave the chain empty (decoder: tokens joined
// by spaces). Errors name the dotted key and, for an unknown component, its type and the supported
// ones.
Status read_normalizer(const boost::json::object& root, Normalizer& out);
// byte_level: the chain ends in ByteLevel, so words are encoded as bytes.
Status read_pre_tokenizer(const boost::json::object& root, PreTokenizer& out, bool& byte_level);
Status read_decoder(const boost::json::object& root, Decoder& out);
Status read_post_processor(const boost::json::object& root, std::vector<int32_t>& prefix,
                           std::vector<int32_t>& suffix);

}  // namespace atom
