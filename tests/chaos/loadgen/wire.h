// What a connection says to the origin: 16 bytes that name it. Everything after them is echoed as it is.
//   [0,4) run: a number drawn by the generator   [4] kind   [5,8) zero   [8,16) sequence number, little-endian
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>

namespace ebb::loadgen {

inline constexpr std::size_t kIdBytes = 16;
using IdBytes = std::array<std::uint8_t, kIdBytes>;

enum class Kind : std::uint8_t {
  once = 'O',  // the origin answers with the id and closes
  wait = 'W',  // the origin answers with the id and waits for the client to close
  stay = 'S',  // the origin echoes until the client closes
};

struct Id {
  std::uint32_t run = 0;
  Kind kind = Kind::once;
  std::uint64_t sequence = 0;
};

inline IdBytes encode(const Id& id) {
  IdBytes bytes{};
  std::memcpy(bytes.data(), &id.run, 4);
  bytes[4] = static_cast<std::uint8_t>(id.kind);
  std::memcpy(bytes.data() + 8, &id.sequence, 8);
  return bytes;
}

/// Nothing when these bytes are no id: the way to the origin mixed something up.
inline std::optional<Id> decode(std::span<const std::uint8_t> bytes) {
  if (bytes.size() < kIdBytes || bytes[5] != 0 || bytes[6] != 0 || bytes[7] != 0) return std::nullopt;
  Id id;
  std::memcpy(&id.run, bytes.data(), 4);
  id.kind = static_cast<Kind>(bytes[4]);
  std::memcpy(&id.sequence, bytes.data() + 8, 8);
  if (id.kind != Kind::once && id.kind != Kind::wait && id.kind != Kind::stay) return std::nullopt;
  return id;
}

}  // namespace ebb::loadgen
