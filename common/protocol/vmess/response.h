// The response header: V echoed, rarely a command. Source: spec/vmess.md 7.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "common/base/bytes.h"
#include "common/base/result.h"
#include "common/base/strong_id.h"
#include "common/protocol/vmess/body.h"
#include "common/protocol/vmess/session_keys.h"

namespace ebb::vmess {

inline constexpr std::size_t kMaxResponseBytes = 38;                // of those we send
inline constexpr std::size_t kMaxSealedResponse = 18 + 65535 + 16;  // of those we take
/// Of the one that a server of ours sends with these keys.
inline std::size_t response_bytes(const SessionKeys& keys) { return keys.legacy ? 4 : kMaxResponseBytes; }

/// Writes the header a server sends in front of its first body bytes; returns its size (38, legacy 4).
std::size_t encode_response(const SessionKeys& keys, MutSpan out);

/// Command 1 of V2Ray servers with a detour: another server to use. Verified, logged, never followed.
struct SwitchAccount {
  std::string host;  // empty: the same host
  std::uint16_t port = 0;
  UserId id;
  std::uint16_t alter_id = 0;
  std::uint8_t level = 0;
  std::uint8_t valid_minutes = 0;
};

struct ResponseHeader {
  std::optional<SwitchAccount> switch_account;  // absent for none, unknown or damaged commands: these are skipped
  BodyState body;                               // for the opener of what follows the header
};

/// Takes a response header from the front of `in`. Errors: bad_tag (AEAD), bad_length (sealed length below 4),
/// bad_command (V is not the request's), truncated (command data longer than the sealed header).
Decoded<Step<ResponseHeader>> decode_response(const SessionKeys& keys, ConstSpan in);

}  // namespace ebb::vmess
