// Values or errors: two tiers. Codecs return WireError (8 bytes, strangers trigger it at line rate);
// everything else returns Error, words plus a breadcrumb. Exceptions stay at start-up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace ebb {

enum class WireFault : std::uint32_t {
  bad_length,    // a length field outside its legal range
  bad_command,   // unknown status, command or network
  bad_address,   // an address that does not parse
  bad_tag,       // AEAD tag or checksum does not verify
  bad_option,    // an option combination that must be refused
  unauthorized,  // unknown user, bad time, replay
  truncated,     // input ends inside a message
};

struct WireError {
  WireFault fault;
  std::uint32_t offset = 0;  // bytes into the message
  friend bool operator==(const WireError&, const WireError&) = default;
};

enum class Errc : std::uint8_t {
  config,
  protocol,
  auth,  // or a rule that says no
  timeout,
  closed,
  refused,
  unreachable,  // no way leads there
  unresolved,   // a name without an address
  overload,
  os,
};
inline constexpr std::size_t kErrorCodes = static_cast<std::size_t>(Errc::os) + 1;

struct Error {
  Errc code;
  std::string what;   // value seen, value expected: "port 70000 is above 65535"
  std::string where;  // outermost first: "inbounds[0] > settings > clients[2] > port"

  Error in(std::string_view outer) && {
    where = where.empty() ? std::string(outer) : std::string(outer) + " > " + where;
    return std::move(*this);
  }
};

template <class T = void>
using Result = std::expected<T, Error>;
template <class T = void>
using Decoded = std::expected<T, WireError>;

/// What every incremental decoder answers: bytes used, and a message once one is complete.
/// {0, nullopt} means "need more bytes".
template <class Message>
struct Step {
  std::size_t used = 0;
  std::optional<Message> message;
};

inline std::string_view name_of(WireFault fault) {
  switch (fault) {
    case WireFault::bad_length: return "bad length";
    case WireFault::bad_command: return "bad command";
    case WireFault::bad_address: return "bad address";
    case WireFault::bad_tag: return "bad tag";
    case WireFault::bad_option: return "bad option";
    case WireFault::unauthorized: return "unauthorized";
    case WireFault::truncated: return "truncated";
  }
  return "unknown fault";
}

/// Turns a codec's error into words, for logs. Never shown to a peer.
inline Error explain(WireError e) {
  return Error{Errc::protocol, std::string(name_of(e.fault)) + " at byte " + std::to_string(e.offset), {}};
}

}  // namespace ebb
