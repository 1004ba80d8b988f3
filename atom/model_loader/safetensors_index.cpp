#include "atom/model_loader/safetensors_index.h"

#include <boost/json.hpp>

#include "atom/model_loader/json_fields.h"
#include "atom/model_loader/text.h"

namespace atom {
namespace json = boost::json;

Result<SafetensorsIndex> parse_safetensors_index(std::string_view text) {
  ATOM_ASSIGN_OR_RETURN(const json::object object, parse_json_object(text));
  const json::value* map = json_field(object, "weight_map");
  if (map == nullptr || !map->is_object()) {
    return make_error(ErrorCode::kInvalidArgument,
                      "weight_map: missing or not an object (found {})",
                      map == nullptr ? "nothing" : describe_json(*map));
  }
  SafetensorsIndex index;
  for (const auto& [name, shard] : map->get_object()) {
    const std::string where = "weight_map: tensor \"" + printable(std::string_view(name)) + "\"";
    if (!shard.is_string()) {
      return make_error(ErrorCode::kInvalidArgument,
                        "{}: wrong type (found {}, expected a file name)", where,
                        describe_json(shard));
    }
    const std::string_view file = shard.get_string();
    if (!is_plain_file_name(file) || !file.ends_with(".safetensors")) {
      return make_error(
          ErrorCode::kInvalidArgument,
          "{}: not a file name inside the directory (found \"{}\", expected NAME.safetensors)",
          where, printable(file));
    }
    index.shard_of.emplace(std::string_view(name), file);
    index.shards.emplace(file);
  }
  if (index.shards.empty()) return make_error(ErrorCode::kInvalidArgument, "weight_map: empty");
  if (const json::value* metadata = json_field(object, "metadata");
      metadata != nullptr && metadata->is_object()) {
    const json::value* size = json_field(metadata->get_object(), "total_size");
    if (size != nullptr && size->is_int64()) index.total_size = size->get_int64();
  }
  return index;
}

}  // namespace atom
