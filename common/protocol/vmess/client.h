// A client's handshake, sans-IO: a request header to send, then the response header to read.
#pragma once

#include <array>
#include <cstdint>

#include "common/base/address.h"
#include "common/base/bytes.h"
#include "common/base/result.h"
#include "common/base/time.h"
#include "common/crypto/aes.h"
#include "common/crypto/random.h"
#include "common/protocol/vmess/account.h"
#include "common/protocol/vmess/request.h"
#include "common/protocol/vmess/response.h"

namespace ebb::vmess {

struct ClientOptions {
  User user;
  Security security = Security::aes_128_gcm;
  std::uint8_t options = usual_options(Security::aes_128_gcm);  // "zero" is security none with options 0
  bool legacy =
      false;  // the MD5 header, with an alter id where there are any; stock servers take AEAD whatever alterId
};

class ClientHandshake {
 public:
  /// A target named v1.mux.cool becomes command mux, udp targets command udp. Errors: bad_address for a name that is
  /// empty or above 255 bytes; bad_option for padding without masking (it crashes V2Ray 4 servers).
  static Decoded<ClientHandshake> make(const ClientOptions& options, const Target& target, UnixSeconds now,
                                       crypto::RandomSource& random);

  /// What to send first; body chunks may follow in the same write. Do not wait for the response before sending.
  ConstSpan request() const { return ConstSpan(request_).first(request_size_); }
  const SessionKeys& keys() const { return keys_; }

  /// The response header at the front of `in`; its `body` is for the opener.
  Decoded<Step<ResponseHeader>> response(ConstSpan in) const { return decode_response(keys_, in); }

  /// After response() failed with `error` (or the header was cut short): how many bytes in all to read and discard
  /// before closing; 0 means close at once. spec/vmess.md 6.3.
  std::size_t drain_total(WireError error, crypto::RandomSource& random) const;

 private:
  ClientHandshake() = default;

  SessionKeys keys_;
  UserId id_;
  std::array<std::uint8_t, kAeadHeadBytes + kMaxRequestPlain + 16> request_{};
  std::size_t request_size_ = 0;
};

}  // namespace ebb::vmess
