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

Result<Query> parse_choice(Query::Kind kind, const object& from) {
  Query out;
  out.kind = kind;
  std::uint64_t tunnel = 0;
  std::string_view user;
  const bool by_tunnel = from["tunnel"].get_uint64().get(tunnel) == simdjson::SUCCESS;
  const bool by_user = from["user"].get_string().get(user) == simdjson::SUCCESS && !user.empty();
  if (by_tunnel == by_user) return bad("either a \"tunnel\" or a \"user\" is needed");
  if (by_tunnel) out.tunnel = tunnel;
  out.user = user;
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
  if (name == "kick") return parse_choice(Query::Kind::kick, from);
  if (name == "drain") return parse_choice(Query::Kind::drain, from);
  if (name == "live") out.kind = Query::Kind::live;
  return out;
}

std::string query_counts(std::size_t tunnels, std::size_t visitors) {
  JsonWriter out;
  out.object().key("tunnels").number(static_cast<std::int64_t>(tunnels));
  out.key("visitors").number(static_cast<std::int64_t>(visitors)).end();
  return out.str();
}

std::string query_error(std::string_view why) {
  JsonWriter out;
  out.object().key("error").text(why).end();
  return out.str();
}

}  // namespace ebb::ipc
