// VMess's key derivation: HMAC-SHA256 nested in itself.
#pragma once

#include <span>

#include "common/crypto/aead.h"
#include "common/crypto/hash.h"

namespace ebb::vmess {

using crypto::Block16;
using crypto::Digest32;
using crypto::Nonce;

/// KDF(key, path...) of spec/vmess.md 4.1: each element of `path` (at most 64 bytes) keys one more level of HMAC built
/// on the level below; the caller's key is the message of the outermost. Costs 2^n evaluations of HMAC-SHA256 for n
/// levels, n at most 8.
Digest32 kdf(ConstSpan key, std::span<const ConstSpan> path);
inline Digest32 kdf(ConstSpan key, crypto::Parts path) { return kdf(key, std::span(path.begin(), path.size())); }
Block16 kdf16(ConstSpan key, crypto::Parts path);  ///< its first 16 bytes
Nonce kdf12(ConstSpan key, crypto::Parts path);    ///< its first 12 bytes

}  // namespace ebb::vmess
