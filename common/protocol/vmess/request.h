// The request header: plaintext, and its two sealed forms.
#pragma once

#include <array>
#include <cstdint>

#include "common/base/address.h"
#include "common/base/bytes.h"
#include "common/base/result.h"
#include "common/base/time.h"
#include "common/crypto/aead.h"
#include "common/protocol/vmess/account.h"
#include "common/protocol/vmess/session_keys.h"

namespace ebb::vmess {

struct RequestHeader {
  SessionKeys keys;
  Target target;  // for Command::mux: tcp v1.mux.cool port 0
};

inline constexpr std::string_view kMuxHost = "v1.mux.cool";
inline constexpr std::size_t kFixedRequestBytes = 38;  // up to and including the command
inline constexpr std::size_t kMaxRequestPlain = 316;
inline constexpr std::size_t kMaxSealedPlain = 2048;  // longest plaintext we open: room for bytes after the checksum
inline constexpr std::size_t kAeadHeadBytes = 16 + 18 + 8;
inline constexpr std::size_t kMaxRequestBytes = kAeadHeadBytes + kMaxSealedPlain + crypto::kTagBytes;

/// Writes the plaintext of spec/vmess.md 3 with its checksum; `padding` has 0..15 bytes; `out` kMaxRequestPlain.
/// Returns the bytes written. Errors: bad_address for a name that is empty or above 255 bytes.
Decoded<std::size_t> encode_request(const RequestHeader& header, ConstSpan padding, MutSpan out);

/// How long a plaintext that begins with `so_far` has to be before more can be said: returns so_far.size() or less once
/// it holds the whole header, checksum included.
std::size_t request_bytes_needed(ConstSpan so_far);

/// Parses a plaintext; bytes after the checksum are ignored. Does not look at `legacy`: the caller says which form it
/// was, since the response keys depend on it.
/// Errors, in the order in which stock servers decide: truncated, bad_tag (checksum), bad_address, bad_command,
/// bad_option (security, or padding without masking).
Decoded<RequestHeader> parse_request(ConstSpan plain, bool legacy);

/// spec/vmess.md 4.3: `auth_id` || sealed length || `nonce` || sealed plaintext. Returns the bytes written; `out` needs
/// kAeadHeadBytes + plain.size() + 16.
std::size_t seal_request(const Block16& cmd_key, const Block16& auth_id, const std::array<std::uint8_t, 8>& nonce,
                         ConstSpan plain, MutSpan out);

/// The two steps of opening it. `head`: the first kAeadHeadBytes. Errors: bad_tag.
Decoded<std::uint16_t> open_request_length(const Block16& cmd_key, ConstSpan head);
/// `sealed`: what follows the head, opened in place. Errors: bad_tag.
Decoded<MutSpan> open_request(const Block16& cmd_key, ConstSpan head, MutSpan sealed);

/// spec/vmess.md 5.1: auth || CFB(plaintext), with one of the user's ids and a time already jittered.
/// Returns the bytes written; `out` needs 16 + plain.size().
std::size_t seal_legacy_request(const Block16& cmd_key, const UserId& with_id, UnixSeconds time, ConstSpan plain,
                                MutSpan out);

}  // namespace ebb::vmess
