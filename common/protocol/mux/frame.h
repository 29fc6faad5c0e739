// Mux.cool frame heads: bytes <-> values. No state, no IO, no allocation except names inside a Target.
//
//   [0,2) metadata length m, big-endian, 4..512    [2,4) session id   [4] status   [5] options
//   [6,2+m) status dependent; and if option bit 0: [2+m,4+m) data length n, then n bytes of data
//
// Source: PROTOCOL.md, frame.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "common/base/address.h"
#include "common/base/bytes.h"
#include "common/base/result.h"
#include "common/base/strong_id.h"

namespace ebb::mux {

enum class Status : std::uint8_t { open = 1, keep = 2, end = 3, keep_alive = 4 };

inline constexpr std::uint8_t kOptionData = 0x01;   // a data part follows the metadata, whatever the status
inline constexpr std::uint8_t kOptionError = 0x02;  // on End: the stream was aborted
inline constexpr std::uint8_t kOptionFin = 0x04;    // on Keep, where agreed: the sender has no more data

inline constexpr std::size_t kMinMeta = 4;
inline constexpr std::size_t kMaxMeta = 512;           // bytes; every peer refuses more
inline constexpr std::size_t kMaxHead = kMaxMeta + 4;  // both length fields included
inline constexpr std::size_t kKeepHead = 8;            // Keep + Data as we write it
inline constexpr std::size_t kEndFrame = 6;            // End as we write it, and a Keep with nothing but its FIN bit
inline constexpr std::size_t kMaxData = 8192;          // data per TCP frame towards unknown peers
inline constexpr std::size_t kMaxDatagram = 2048;      // data per UDP frame towards unknown peers and V2Ray
inline constexpr std::size_t kMaxDatagramXray = 8192;
inline constexpr std::size_t kMaxDataEver = 65535;  // what the length field can say; we read all of it

/// Trailing metadata of our own probe frames: "I speak MXR 1" (common/reverse/PROTOCOL.md, MXR).
inline constexpr std::uint8_t kHelloMarker[5] = {0x00, 0x4d, 0x58, 0x52, 0x01};

struct Head {
  StreamId stream;
  Status status{};
  std::uint8_t options = 0;
  ConstSpan meta;              // metadata after the four common bytes; points into the input
  std::size_t data_bytes = 0;  // data that follows the head
  bool has_data() const { return (options & kOptionData) != 0; }
  bool error() const { return (options & kOptionError) != 0; }
  bool fin() const { return (options & kOptionFin) != 0; }
};

/// Takes the head of one frame from the front of `in`; `used` does not count the data part.
/// Errors: bad_length (metadata outside 4..512, or a New too short for a target), bad_command (unknown status). Both
/// are fatal for a tunnel, and told before the data length is there.
Decoded<Step<Head>> decode_head(ConstSpan in);

struct OpenMeta {
  Target target;
  ConstSpan trailing;  // what follows the target, uninterpreted; points into the input
};
/// The metadata of New after the four common bytes: network, port, address, then anything.
/// Errors, fatal for the tunnel: bad_length (shorter than an address), bad_command (network), bad_address.
Decoded<OpenMeta> decode_open(ConstSpan meta);

/// The packet address an Xray peer attaches to a UDP Keep (`02`, port, type, address); nullopt when there is none or
/// it does not parse, which is ignored (PROTOCOL.md, frame).
std::optional<Target> packet_address(ConstSpan meta);

/// True when `trailing` starts with kHelloMarker.
bool has_hello_marker(ConstSpan trailing);

/// Visitor's and local address behind a New target (VLESS reverse, or negotiated; PROTOCOL.md, frame). A part that
/// starts with 00 or is missing is nullopt. Errors: bad_command, bad_address.
struct SourceLocal {
  std::optional<Target> source;
  std::optional<Target> local;
};
Decoded<SourceLocal> decode_source_local(ConstSpan trailing);
/// The same, with what names no address left out.
VisitorAddress visitor_of(const SourceLocal& told);

inline constexpr std::size_t kMaxSourceLocal = 2 * (1 + 2 + 1 + 16);
/// Writes what decode_source_local() reads, for a stream of `network`; kMaxSourceLocal bytes suffice. Returns bytes
/// written: 0 when the source is not known. Without a local address only the source is written (Xray then takes
/// neither).
std::size_t encode_source_local(MutSpan out, Network network, const VisitorAddress& visitor);

/// Writes a New head, `out` should have kMaxHead bytes. With `data_bytes` > 0 the data bit and length are set and the
/// caller appends exactly that many bytes. Returns bytes written; 0 when the target cannot be written (empty or
/// overlong name, a byte no peer accepts in a name), the metadata would pass 512 bytes, or `out` is too small.
std::size_t write_new(MutSpan out, StreamId stream, const Target& target, std::size_t data_bytes,
                      ConstSpan trailing = {});

/// Writes exactly kKeepHead bytes: Keep + Data for `data_bytes` (0..65535) bytes that the caller appends.
inline void write_keep_head(MutSpan out, StreamId stream, std::size_t data_bytes) {
  store_be16(out, 4);
  store_be16(out.subspan(2), stream.value);
  out[4] = static_cast<std::uint8_t>(Status::keep);
  out[5] = kOptionData;
  store_be16(out.subspan(6), static_cast<std::uint16_t>(data_bytes));
}

/// The same with the packet's own address in front, which packet_address() reads at the other end. Returns bytes
/// written; 0 when `address` is no UDP target or cannot be written, or `out` (kMaxHead bytes) is too small.
std::size_t write_keep_head(MutSpan out, StreamId stream, const Target& address, std::size_t data_bytes);

/// Writes exactly kEndFrame bytes.
inline void write_end(MutSpan out, StreamId stream, bool error) {
  store_be16(out, 4);
  store_be16(out.subspan(2), stream.value);
  out[4] = static_cast<std::uint8_t>(Status::end);
  out[5] = error ? kOptionError : 0;
}

/// Writes kKeepHead bytes: End + Error whose data part says why, `data_bytes` bytes that the caller appends. Stock
/// peers throw them away.
inline void write_abort_head(MutSpan out, StreamId stream, std::size_t data_bytes) {
  write_keep_head(out, stream, data_bytes);
  out[4] = static_cast<std::uint8_t>(Status::end);
  out[5] = kOptionData | kOptionError;
}

/// Writes exactly kEndFrame bytes: Keep without data, with the FIN bit. Only where half-close was agreed.
inline void write_fin(MutSpan out, StreamId stream) {
  store_be16(out, 4);
  store_be16(out.subspan(2), stream.value);
  out[4] = static_cast<std::uint8_t>(Status::keep);
  out[5] = kOptionFin;
}

}  // namespace ebb::mux
