// Identifiers that cannot be swapped for one another.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>

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
  std::size_t operator()(const ebb::Strong<Rep, Kind>& id) const noexcept {
    if constexpr (std::is_default_constructible_v<std::hash<Rep>>) {
      return std::hash<Rep>{}(id.value);
    } else {  // bytes
      static_assert(std::has_unique_object_representations_v<Rep>);
      return std::hash<std::string_view>{}({reinterpret_cast<const char*>(id.value.data()), sizeof id.value});
    }
  }
};
