// Digests, HMACs and checksums over gathered pieces. OpenSSL behind std::span.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

#include "common/base/bytes.h"

namespace ebb::crypto {

using Block16 = std::array<std::uint8_t, 16>;  // an AES block, key or IV, an MD5 digest, a UUID
using Digest20 = std::array<std::uint8_t, 20>;
using Digest32 = std::array<std::uint8_t, 32>;
using Parts = std::initializer_list<ConstSpan>;  // hashed as if concatenated

Block16 md5(Parts parts);
Digest20 sha1(Parts parts);
Digest32 sha256(Parts parts);
Digest32 sha224_padded(Parts parts);  ///< SHA-224 in the first 28 bytes, 4 zero bytes after it

/// RFC 2104. A key longer than a block is hashed first.
Block16 hmac_md5(ConstSpan key, Parts parts);
Digest20 hmac_sha1(ConstSpan key, Parts parts);
Digest32 hmac_sha256(ConstSpan key, Parts parts);

/// The IEEE (zlib, Ethernet) CRC-32.
std::uint32_t crc32(ConstSpan bytes);

/// 32-bit FNV-1a; feed the result of one call into the next to hash in pieces.
inline constexpr std::uint32_t kFnv1aBasis = 0x811C9DC5;
std::uint32_t fnv1a(ConstSpan bytes, std::uint32_t hash = kFnv1aBasis);

/// Compares without an early exit: time depends on the length only. False for different lengths.
bool equal_constant_time(ConstSpan a, ConstSpan b);

}  // namespace ebb::crypto
