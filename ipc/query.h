// What a QUERY of the supervisor asks: JSON text. The answers are each child's own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace ebb::ipc {

struct Query {
  enum class Kind : std::uint8_t {
    status,  // figures; and whatever is not known here
    live,    // brokers: which portals serve
    moved,   // brokers that leave: `portals` serve in a successor, and no others do
    kick,    // ends what `tunnel` or `user` names
    drain,   // asks the other ends of such tunnels to use others
  };
  Kind kind = Kind::status;
  std::set<std::string> portals;        // "TAG DOMAIN"
  std::optional<std::uint64_t> tunnel;  // kick and drain have either: its id in the status,
  std::string user;                     // or an e-mail or a UUID
};

/// `{"query":"live"}`, `{"query":"moved","portals":["TAG DOMAIN", …]}`, `{"query":"kick","tunnel":7}`,
/// `{"query":"kick","user":"nas@home"}`, and the same with "drain"; anything else, JSON or not, asks for the status.
/// Errors: protocol, a query that is known and lacks what it needs.
Result<Query> parse_query(std::string_view text);

/// The answer to kick and drain: `{"tunnels":N,"visitors":M}`, how many were meant.
std::string query_counts(std::size_t tunnels, std::size_t visitors);

/// The answer that says why there is none: `{"error":"…"}`.
std::string query_error(std::string_view why);

}  // namespace ebb::ipc
