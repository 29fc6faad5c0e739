// The state of a connection that travels with an OFFER: a list of TLVs. What is inside
// a layer's state is the business of the layer that saves it; this file knows only numbers and bounds: PROTOCOL.md.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/base/address.h"
#include "common/base/bytes.h"
#include "common/base/result.h"
#include "ipc/message.h"

namespace ebb::ipc {

enum class Tlv : std::uint16_t {
  unread_cipher = 1,  // received, not yet decrypted
  unread_plain = 2,   // decrypted, not yet consumed by the next layer
  // 3 to 7: states of layers, the lowest first. Which number is whose: worker/protocols/table.cc.
  first_layer = 3,
  last_layer = 7,
  meta = 8,  // see Meta
};
constexpr Tlv layer_tlv(std::uint16_t type) { return Tlv{type}; }
constexpr bool is_layer(Tlv type) { return type >= Tlv::first_layer && type <= Tlv::last_layer; }
inline constexpr std::size_t kTlvTypes = 8;
/// Most bytes a TLV of this type may have; 0 for a type that does not exist.
std::size_t max_tlv_bytes(Tlv type);

/// Collects TLVs. There is no PENDING_OUT: what is encrypted and unwritten is flushed before an OFFER, else the
/// connection stays with the worker.
class BlobWriter {
 public:
  /// False when the type is there already, the value is too long for it, or the whole would exceed kMaxBlob: the
  /// connection then cannot be handed over as STATE.
  [[nodiscard]] bool add(Tlv type, ConstSpan value);
  Bytes take() { return std::move(bytes_); }

 private:
  Bytes bytes_;
  std::uint32_t seen_ = 0;
};

/// A decoded blob; the spans point into the input.
struct StateBlob {
  std::array<std::optional<ConstSpan>, kTlvTypes> values;
  /// The value of a type; nullopt when absent (an empty value is present).
  std::optional<ConstSpan> get(Tlv type) const { return values[static_cast<std::size_t>(type) - 1]; }
  /// Of layers, in the order in which they came: from the bottom up.
  std::span<const Tlv> layers() const { return std::span(layer_order).first(layer_count); }
  std::array<Tlv, kTlvTypes> layer_order{};
  std::size_t layer_count = 0;
};

/// Layout of one TLV, host byte order, no padding between: [0,2) type, [2,4) zero, [4,8) length, then the value.
/// Errors: bad_length (beyond the type's bound or kMaxBlob), bad_command (unknown type), bad_option (reserved bytes not
/// zero, a type twice), truncated.
Decoded<StateBlob> decode_blob(ConstSpan blob);

/// What routing knows of a connection, for logs, routing at the bridge and user statistics. At most 1 KiB encoded.
struct Meta {
  std::optional<Target> target;  // as routing left it; absent in RAW: the inbound's own
  std::string user;              // e-mail or name
  std::string sni, alpn, host, path;
  std::optional<Endpoint> source;  // from a PROXY header
  friend bool operator==(const Meta&, const Meta&) = default;
};

/// nullopt when it does not fit into 1 KiB (a path or a name that long is cut by nobody: the worker drops the field).
std::optional<Bytes> encode_meta(const Meta& meta);
/// Errors: as decode_blob, bad_address.
Decoded<Meta> decode_meta(ConstSpan bytes);

}  // namespace ebb::ipc
