// Identifiers that cannot be swapped for one another.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <string>

namespace ebb {

template <class Rep, class Kind>
struct Strong {
  Rep value{};
  friend auto operator<=>(const Strong&, const Strong&) = default;
};

using StreamId = Strong<std::uint16_t, struct StreamIdKind>;             // Mux.cool session id
using Tag = Strong<std::string, struct TagKind>;                         // inbound or outbound name
using UserId = Strong<std::array<std::uint8_t, 16>, struct UserIdKind>;  // UUID, wire order
using TunnelId = Strong<std::uint64_t, struct TunnelIdKind>;             // one tunnel, unique per process

}  // namespace ebb

template <class Rep, class Kind>
struct std::hash<ebb::Strong<Rep, Kind>> {
  std::size_t operator()(const ebb::Strong<Rep, Kind>& id) const noexcept { return std::hash<Rep>{}(id.value); }
};
