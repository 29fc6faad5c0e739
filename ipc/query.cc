#include "ipc/query.h"

#include <simdjson.h>

#include "common/base/json_writer.h"

namespace ebb::ipc {
namespace {

using simdjson::dom::object;

std::unexpected<Error> bad(std::string what) { return std::unexpected(Error{Errc::protocol, std::move(what), {}}); }

Result<Query> parse_moved(const object& from) {
  Query out;
  out.kind = Query::Kind::moved;
  simdjson::dom::array portals;
  if (from["portals"].get_array().get(portals) != simdjson::SUCCESS) return bad("\"portals\" is not a list");
  for (const simdjson::dom::element each : portals) {
    std::string_view name;
    if (each.get_string().get(name) != simdjson::SUCCESS) return bad("\"portals\" has an entry that is no text");
    out.portals.emplace(name);
  }
  return out;
}

}  // namespace

Result<Query> parse_query(std::string_view text) {
  simdjson::dom::parser parser;
  object from;
  std::string_view name;
  Query out;
  if (parser.parse(text.data(), text.size()).get_object().get(from) != simdjson::SUCCESS) return out;
  if (from["query"].get_string().get(name) != simdjson::SUCCESS) return out;
  if (name == "moved") return parse_moved(from);
  if (name == "live") out.kind = Query::Kind::live;
  return out;
}

std::string query_error(std::string_view why) {
  JsonWriter out;
  out.object().key("error").text(why).end();
  return out.str();
}

}  // namespace ebb::ipc
