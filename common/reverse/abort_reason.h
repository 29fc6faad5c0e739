// Why a stream was aborted, as our own nodes tell each other in the data part of End + Error.
// PROTOCOL.md, abort reason.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/bytes.h"
#include "common/base/result.h"

namespace ebb::reverse {

enum class AbortReason : std::uint8_t {
  refused = 1,      // the origin refused the connection
  timeout = 2,      // it did not answer in time
  unreachable = 3,  // no way leads there, or its name has no address
  reset = 4,        // whoever is behind the sender broke the connection
  denied = 5,       // routing, or another rule of the sender
  overload = 6,     // the sender has no room for it
  draining = 7,     // the sender is about to end
};

struct Abort {
  static constexpr std::size_t kMaxText = 100;  // bytes; what a peer says beyond is cut
  static constexpr std::size_t kMaxBytes = 1 + kMaxText;

  AbortReason reason{};
  std::string text = {};  // a detail for people; never an address or a name: the other node may be somebody else's
  friend bool operator==(const Abort&, const Abort&) = default;
};

std::string_view words_of(AbortReason reason);

Bytes encode_abort(const Abort& abort);
/// nullopt: empty, or a reason that is not known. Text is made printable ASCII, whatever the peer wrote.
std::optional<Abort> decode_abort(ConstSpan in);

/// What the peer is told of an error.
Abort abort_of(const Error& why);
/// What a peer told, in words; passed on to a further node it becomes the same reason again.
Error error_of(const Abort& abort);
/// The peer told of an origin that it did not reach.
bool origin_unreached(const Error& told);
/// The peer told of a stream that it could not or would not serve, for a reason that may be its own or the visitor's.
bool bridge_failed(const Error& told);

}  // namespace ebb::reverse
