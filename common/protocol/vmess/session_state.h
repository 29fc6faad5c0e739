// A server's connection as a blob: what travels with the fd when it moves to another process. spec/processes.md 8.
#pragma once

#include <array>
#include <cstdint>

#include "common/base/bytes.h"
#include "common/base/result.h"
#include "common/protocol/vmess/body.h"
#include "common/protocol/vmess/session_keys.h"

namespace ebb::vmess {

/// The server's end: it opens the request body and seals the response body. Unread bytes travel beside it.
struct SessionState {
  SessionKeys keys;
  BodyState request;           // BodyOpener::save()
  BodyState response;          // BodySealer::save()
  bool response_sent = false;  // the response header went out
  friend bool operator==(const SessionState&, const SessionState&) = default;
};

inline constexpr std::size_t kSessionStateBytes = 110;

/// SHAKE128 can be moved only by squeezing it again up to the old position. Above this one, 16 million chunks and 0.2
/// s, a connection stays where it is.
inline constexpr std::uint64_t kMaxMovableMaskPosition = 64u << 20;

/// Can this connection move?
bool movable(const SessionState& state);

/// Fixed layout, big-endian, version 1. Response keys are derived again, not carried.
///   [0] version  [1] options  [2] security  [3] command  [4] response auth  [5] flags: 1 legacy, 2 response sent
///   [6,22) request key  [22,38) request IV  [38,74) request direction  [74,110) response direction; a direction is
///   [0] flags: 1 ended, 2 length known  [1] chunk padding  [2,4) counter  [4,6) length counter  [6,14) mask position
///   [14,16) chunk bytes  [16,18) raw left  [18] CFB offset  [19] zero  [20,36) CFB feedback
std::array<std::uint8_t, kSessionStateBytes> encode_state(const SessionState& state);

/// Errors: bad_length, bad_option (unknown version or values out of range): nothing in a blob is trusted.
Decoded<SessionState> decode_state(ConstSpan blob);

}  // namespace ebb::vmess
