// A server's handshake, sans-IO: bytes received so far in, a verdict out.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <variant>

#include "common/base/bytes.h"
#include "common/base/time.h"
#include "common/crypto/cfb.h"
#include "common/crypto/random.h"
#include "common/protocol/vmess/replay.h"
#include "common/protocol/vmess/request.h"
#include "common/protocol/vmess/users.h"

namespace ebb::vmess {

struct NeedMore {};

struct Accepted {
  RequestHeader request;
  std::size_t user = 0;  // index in the UserTable
  std::size_t used = 0;  // bytes of the header; what was received behind it is body
};

/// Why, for logs and counters. The peer learns only what spec/vmess.md 6.3 lets every server show.
enum class Refusal : std::uint8_t {
  unknown_user,  // no such user, clock too far off, or a tainted legacy auth
  replay,        // this AuthID was seen (or the guard is full)
  bad_header,    // the user is known but the sealed header does not open, or a legacy checksum is wrong
  repeated_session,
  bad_request,  // authentic, but address, command or option is not acceptable
  insecure,     // security cfb or none where the configuration forbids them
};
std::string_view name_of(Refusal reason);

struct Refused {
  Refusal reason;
  /// 0: close at once. Else read and discard until the connection has received this many bytes in all, counted from its
  /// first, then close (at once when it has them already); the handshake's deadline goes on running. Write nothing.
  std::size_t drain_total = 0;
};

using Verdict = std::variant<NeedMore, Accepted, Refused>;

struct ServerOptions {
  bool refuse_insecure = false;  // disableInsecureEncryption: security cfb and none are refused
};

/// The life of one connection up to the end of its request header.
class ServerHandshake {
 public:
  /// All references must outlive the handshake; `users` may be advanced meanwhile.
  ServerHandshake(UserTable& users, ReplayGuard& guard, crypto::RandomSource& random, ServerOptions options = {})
      : users_(users), guard_(guard), random_(random), options_(options) {}

  /// `received`: everything the connection has received so far, from its first byte; keep it until the verdict (at most
  /// kMaxRequestBytes are looked at). Work is bounded: an AES block per user and one look-up, once; then one user's
  /// keys. After Accepted or Refused do not call again.
  Verdict feed(ConstSpan received, UnixSeconds now);

  /// The connection ended, or its deadline passed, without a verdict: taints a legacy auth whose padding or checksum
  /// never came (spec/vmess.md 5.3). Then close.
  void ended(UnixSeconds now);

 private:
  Verdict identify(ConstSpan received, UnixSeconds now);
  Verdict open_aead(ConstSpan received, UnixSeconds now);
  Verdict open_legacy(ConstSpan received, UnixSeconds now);
  Verdict finish(ConstSpan plain, std::size_t used);
  bool fresh_session(ConstSpan plain, UnixSeconds now);
  void taint(UnixSeconds now);
  Refused drain(Refusal reason);

  struct Legacy {
    Block16 auth;
    UnixSeconds time = 0;
    crypto::CfbStream cfb;
    std::array<std::uint8_t, kMaxRequestPlain> plain{};
    std::size_t opened = 0;
    bool session_checked = false;
    bool address_read = false;
  };

  UserTable& users_;
  ReplayGuard& guard_;
  crypto::RandomSource& random_;
  ServerOptions options_;
  static constexpr std::size_t kNobody = SIZE_MAX;
  std::size_t user_ = kNobody;
  std::optional<std::uint16_t> sealed_plain_;  // AEAD: length of the plaintext, once opened
  std::unique_ptr<Legacy> legacy_;
};

}  // namespace ebb::vmess
