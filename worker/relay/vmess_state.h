// A VMess server connection as bytes: the VMESS part of an OFFER's state blob. spec/processes.md 8.
#pragma once

#include <memory>

#include "common/base/bytes.h"
#include "common/base/result.h"
#include "common/crypto/random.h"
#include "common/protocol/vmess/body.h"
#include "common/protocol/vmess/session_keys.h"
#include "worker/relay/codec.h"

namespace ebb::relay {

struct VmessState {
  vmess::SessionKeys keys;
  vmess::BodyState reading;  // of the request body
  vmess::BodyState writing;  // of the response body
  bool response_sent = false;
  friend bool operator==(const VmessState&, const VmessState&) = default;
};

/// The state right behind an accepted request header, before any body byte.
VmessState fresh_state(const vmess::SessionKeys& keys);

/// 152 bytes: both ends are the same binary, or agree by protocol number.
Bytes encode_state(const VmessState& state);
/// Errors: bad_length, bad_option (a value that no encoder writes).
Decoded<VmessState> decode_state(ConstSpan bytes);

/// The codec that goes on where the state was taken.
std::unique_ptr<Codec> codec_from(const VmessState& state, crypto::RandomSource& random);

}  // namespace ebb::relay
