// What a QUERY of the supervisor asks: JSON text. The answers are each child's own.
#pragma once

#include <cstdint>
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
  };
  Kind kind = Kind::status;
  std::set<std::string> portals;  // "TAG DOMAIN"
};

/// `{"query":"live"}`, `{"query":"moved","portals":["TAG DOMAIN", …]}`; anything else, JSON or not, asks for the
/// status. Errors: protocol, a query that is known and lacks what it needs.
Result<Query> parse_query(std::string_view text);

/// The answer that says why there is none: `{"error":"…"}`.
std::string query_error(std::string_view why);

}  // namespace ebb::ipc
