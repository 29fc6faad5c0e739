// Byte spans and big-endian integers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ebb {

using Bytes = std::vector<std::uint8_t>;
using ConstSpan = std::span<const std::uint8_t>;
using MutSpan = std::span<std::uint8_t>;

inline std::uint16_t load_be16(ConstSpan b) { return static_cast<std::uint16_t>(b[0] << 8 | b[1]); }
inline std::uint32_t load_be32(ConstSpan b) {
  return std::uint32_t{b[0]} << 24 | std::uint32_t{b[1]} << 16 | std::uint32_t{b[2]} << 8 | b[3];
}
inline std::uint64_t load_be64(ConstSpan b) { return std::uint64_t{load_be32(b)} << 32 | load_be32(b.subspan(4)); }
inline void store_be16(MutSpan b, std::uint16_t v) {
  b[0] = static_cast<std::uint8_t>(v >> 8);
  b[1] = static_cast<std::uint8_t>(v);
}
inline void store_be32(MutSpan b, std::uint32_t v) {
  store_be16(b, static_cast<std::uint16_t>(v >> 16));
  store_be16(b.subspan(2), static_cast<std::uint16_t>(v));
}
inline void store_be64(MutSpan b, std::uint64_t v) {
  store_be32(b, static_cast<std::uint32_t>(v >> 32));
  store_be32(b.subspan(4), static_cast<std::uint32_t>(v));
}

inline ConstSpan as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}
inline std::string_view as_text(ConstSpan bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

/// Lower-case hexadecimal, two digits a byte.
std::string to_hex(ConstSpan bytes);
/// The reverse; nullopt for an odd length or a character that is not a hex digit.
std::optional<Bytes> from_hex(std::string_view hex);

}  // namespace ebb
