// The PROXY protocol header in front of a connection: who the client is, as told by whoever accepted it first. Both
// versions, read and written. Sans-IO. Bytes and measured behaviour of other programs: PROTOCOL.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "common/base/address.h"
#include "common/base/bytes.h"
#include "common/base/result.h"

namespace ebb::proxy_protocol {

/// Which header to write, if any.
enum class Version : std::uint8_t { none, v1, v2 };

struct Header {
  VisitorAddress visitor;          // empty for LOCAL, UNKNOWN, UNSPEC and Unix sockets: the socket's own addresses hold
  Network network = Network::tcp;  // what the sender says it carries; over TCP nobody looks at it
};

/// Bytes of the longest header that is read: version 2 could announce 64 KiB of extensions, nobody sends 4 KiB.
inline constexpr std::size_t kMaxHeader = 4096;
/// Bytes of the longest line of version 1, its CR LF included.
inline constexpr std::size_t kMaxLine = 107;
/// Room that encode() never exceeds.
inline constexpr std::size_t kMaxWritten = kMaxLine;

/// Takes one header, of either version, from the front of `in`. Extensions (TLVs) are skipped by their length. Every
/// prefix of a good header asks for more; a bad one is refused as early as its first wrong byte where that can be told,
/// at the latest after kMaxLine or kMaxHeader bytes.
/// Errors: bad_command (no header, unknown version, command or family), bad_length (a line or length outside its
/// range), bad_address (an address or port that does not parse, or is not of the family named).
Decoded<Step<Header>> decode(ConstSpan in);

/// Writes a header to the front of `out` (kMaxWritten bytes always suffice) and returns its bytes. `none`: 0.
/// Without a source it says that nothing is known (UNKNOWN, LOCAL); without a local address that is given as all zero.
/// Addresses of different families are both written as IPv6. Version 1 has no word for datagrams: 0 for those.
std::size_t encode(Version version, Network network, const VisitorAddress& visitor, MutSpan out);
/// The same as bytes.
Bytes encoded(Version version, Network network, const VisitorAddress& visitor);

}  // namespace ebb::proxy_protocol
