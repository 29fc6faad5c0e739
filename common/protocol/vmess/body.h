// The body of a connection, one direction each: chunks sealed and opened without allocation, state that can travel.
// The hot code of VMess. Source: spec/vmess.md 8.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <variant>

#include "common/base/bytes.h"
#include "common/base/result.h"
#include "common/crypto/aead.h"
#include "common/crypto/cfb.h"
#include "common/crypto/random.h"
#include "common/crypto/shake.h"
#include "common/protocol/vmess/session_keys.h"

namespace ebb::vmess {

/// Everything a direction needs to go on elsewhere: plain values, no handles.
struct BodyState {
  Security security = Security::aes_128_gcm;
  std::uint8_t options = 0;
  bool packet_mode = false;
  Block16 key{}, iv{};                // of this direction
  Block16 length_key{}, length_iv{};  // the request's, in both directions: authenticated lengths use them
  std::uint16_t counter = 0;          // next chunk's; wraps
  std::uint16_t length_counter = 0;
  std::uint64_t mask_position = 0;  // bytes drawn from SHAKE128(iv)
  crypto::CfbPosition cfb;          // Security::cfb only
  bool ended = false;               // the end chunk was written or read
  // Reader only: a chunk whose length field is decoded while the rest is on its way. The field itself is still the
  // first thing in the unread bytes.
  bool length_known = false;
  std::uint16_t chunk_bytes = 0;  // what follows the length field
  std::uint8_t chunk_padding = 0;
  std::uint16_t raw_left = 0;  // rest of a chunk of Security::none that is being passed through

  bool framed() const;  ///< false: raw bytes without chunks or an end mark
  friend bool operator==(const BodyState&, const BodyState&) = default;
};

/// The state at the first byte of the request body.
BodyState request_body(const SessionKeys& keys);
/// The state at the first byte of the response body, right behind the 4-byte header that our server sends. A client
/// takes ResponseHeader::body instead (with a legacy header and security cfb it depends on the header's length).
BodyState response_body(const SessionKeys& keys);

/// Longest payload of one chunk of ours: 16 KiB, in packet mode 1969 bytes (what every stock peer's reader and writer
/// takes with padding).
std::size_t max_payload(const BodyState& state);
/// Where in a chunk its payload begins.
std::size_t payload_offset(const BodyState& state);

inline constexpr std::size_t kMaxPadding = 63;
inline constexpr std::size_t kMaxChunkBytes = 18 + 65535;  // an opener's buffer must be able to hold this

namespace detail {
/// SHAKE draws, ciphers and counters: what writer and reader have in common.
class BodyCipher {
 public:
  BodyCipher(const BodyState& state, bool sealing);
  BodyState save() const;

 protected:
  crypto::Nonce next_nonce();
  crypto::Nonce next_length_nonce();
  std::uint16_t draw();
  std::size_t overhead() const;    // O of the specification
  std::size_t head_bytes() const;  // of the length field

  BodyState state_;
  bool draws_padding_ = false;
  bool draws_mask_ = false;
  bool framed_ = true;
  bool end_chunk_ = true;
  std::optional<crypto::Aead> aead_;
  std::optional<crypto::Aead> length_aead_;
  std::optional<crypto::CfbStream> cfb_;
  std::optional<crypto::Shake128> mask_;
};
}  // namespace detail

class BodySealer : private detail::BodyCipher {
 public:
  static constexpr std::size_t kMaxPayloadOffset = 18;
  static constexpr std::size_t kMaxTail = 16 + kMaxPadding;  // bytes of a chunk behind its payload
  static constexpr std::size_t kMaxOverhead = kMaxPayloadOffset + kMaxTail;

  /// `random` fills padding and must outlive the sealer.
  BodySealer(const BodyState& state, crypto::RandomSource& random);

  /// Longest payload of one chunk. Settable to 1..65452.
  std::size_t max_payload() const { return max_payload_; }
  void set_max_payload(std::size_t bytes);

  /// Seals ONE chunk whose payload is the concatenation of `parts`, 1..max_payload() bytes in all, into the front of
  /// `out`, which must have room for payload_offset() + payload + kMaxTail. Returns the bytes written. A single part
  /// may lie at out[payload_offset()], it is then sealed in place; otherwise parts and `out` must not overlap.
  std::size_t seal(std::span<const ConstSpan> parts, MutSpan out);
  std::size_t seal(ConstSpan payload, MutSpan out) { return seal(std::span(&payload, 1), out); }
  std::size_t payload_offset() const { return vmess::payload_offset(state_); }

  /// Seals the end chunk (at most kMaxOverhead bytes); 0 when these options have none, or it was sealed before.
  std::size_t seal_end(MutSpan out);

  /// True when sealing changes nothing (security none, unframed): write the bytes as they are, without seal().
  bool passthrough() const { return !framed_ && state_.security == Security::none; }
  bool ended() const { return state_.ended; }

  BodyState save() const { return BodyCipher::save(); }

 private:
  std::size_t write(std::span<const ConstSpan> parts, std::size_t payload, MutSpan out);

  crypto::RandomSource* random_;
  std::size_t max_payload_;
};

struct Opened {
  std::size_t used = 0;  // bytes to take off the front of the input
  MutSpan payload;       // points into the input; one datagram in packet mode (unframed: whatever came)
  bool end = false;      // the end chunk: the stream is over, what follows it means nothing
};

class BodyOpener : private detail::BodyCipher {
 public:
  explicit BodyOpener(const BodyState& state);

  /// Opens, in place, what stands at the front of `in`: one whole chunk, or for streams that need no whole chunk (none,
  /// unframed) as much as is there. used == 0 and !end: more bytes are needed; come again with the same bytes and more
  /// behind them (wanted() tells how many in all). Otherwise payload is not empty or end is true.
  /// Errors: bad_tag, bad_length. Fails closed: after an error every further call fails.
  Decoded<Opened> open(MutSpan in);

  /// How many bytes open() must be given to make progress, counted from the same front; at most kMaxChunkBytes.
  std::size_t wanted() const;

  /// Would the end of the transport, now that open() has nothing more to do, be a clean end? True after the end chunk
  /// and on a chunk boundary without unused bytes. spec/vmess.md 8.8.
  bool at_boundary() const { return state_.ended || (!partial_ && !state_.length_known && state_.raw_left == 0); }
  bool ended() const { return state_.ended; }

  /// The bytes that open() asked to see again travel beside this state.
  BodyState save() const { return BodyCipher::save(); }

 private:
  Decoded<> read_length(MutSpan in);
  Decoded<Opened> open_chunk(MutSpan in);
  Decoded<Opened> pass_through(MutSpan in);
  Opened need_more(MutSpan in);
  std::unexpected<WireError> fail(WireFault fault, std::size_t at);

  bool partial_ = false;  // bytes are there that do not make a chunk yet
  std::optional<WireError> failed_;
};

}  // namespace ebb::vmess
