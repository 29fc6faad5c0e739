#include "common/crypto/uuid.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>

#include "common/base/bytes.h"
#include "common/crypto/hash.h"

namespace ebb::crypto {
namespace {

constexpr std::size_t kMaxFreeText = 30;  // Xray's limit
constexpr std::size_t kGroupBytes[] = {4, 2, 2, 2, 6};

std::optional<UserId> parse_groups(std::string_view text) {
  UserId id;
  std::size_t filled = 0;
  for (const std::size_t bytes : kGroupBytes) {
    if (text.starts_with('-')) text.remove_prefix(1);
    if (text.size() < 2 * bytes) return std::nullopt;
    const auto group = from_hex(text.substr(0, 2 * bytes));
    if (!group) return std::nullopt;
    std::ranges::copy(*group, id.value.begin() + static_cast<std::ptrdiff_t>(filled));
    filled += bytes;
    text.remove_prefix(2 * bytes);
  }
  return id;
}

/// RFC 4122 version 5 in the nil namespace.
UserId map_text(std::string_view text) {
  const std::array<std::uint8_t, 16> nil{};
  const Digest20 digest = sha1({nil, as_bytes(text)});
  UserId id;
  std::copy_n(digest.begin(), id.value.size(), id.value.begin());
  id.value[6] = static_cast<std::uint8_t>((id.value[6] & 0x0F) | 0x50);
  id.value[8] = static_cast<std::uint8_t>((id.value[8] & 0x3F) | 0x80);
  return id;
}

}  // namespace

bool is_mapped_user_id(std::string_view text) { return !text.empty() && text.size() <= kMaxFreeText; }

Result<UserId> parse_user_id(std::string_view text) {
  if (is_mapped_user_id(text)) return map_text(text);
  if (const auto id = parse_groups(text)) return *id;
  if (text.empty()) return std::unexpected(Error{Errc::config, "id is empty, a UUID is expected", {}});
  const std::string shown(text.substr(0, 64));
  return std::unexpected(Error{Errc::config,
                               "id \"" + shown + "\" is not a UUID (32 hex digits in groups of 8-4-4-4-12)" +
                                   (text.size() == 31 ? ", and free text may have 30 bytes at most" : ""),
                               {}});
}

std::string uuid_text(const UserId& id) {
  std::string text = to_hex(id.value);
  for (const std::size_t dash : {8u, 13u, 18u, 23u}) text.insert(dash, 1, '-');
  return text;
}

}  // namespace ebb::crypto
