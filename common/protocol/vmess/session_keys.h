// What a request header fixes for the whole connection: keys, cipher, options, command.
#pragma once

#include <cstdint>

#include "common/base/result.h"
#include "common/crypto/hash.h"

namespace ebb::vmess {

using crypto::Block16;

/// The low nibble at offset 35 of the request header. spec/vmess.md 3.2; 0 is read as cfb.
enum class Security : std::uint8_t { cfb = 1, aes_128_gcm = 3, chacha20_poly1305 = 4, none = 5 };

enum class Command : std::uint8_t { tcp = 1, udp = 2, mux = 3 };  // spec/vmess.md 3.3

/// Bits of the option byte; the same byte governs both directions. spec/vmess.md 3.1.
namespace option {
inline constexpr std::uint8_t chunk_stream = 0x01;
inline constexpr std::uint8_t mask = 0x04;
inline constexpr std::uint8_t padding = 0x08;
inline constexpr std::uint8_t authenticated_length = 0x10;
}  // namespace option

/// What every stock client sends with this cipher: 0x05 for none, else 0x0D. spec/vmess.md 9.
constexpr std::uint8_t usual_options(Security security) {
  return security == Security::none ? option::chunk_stream | option::mask
                                    : option::chunk_stream | option::mask | option::padding;
}

/// AES when the processor has it (with carry-less multiply), else ChaCha20: what "auto" means. spec/vmess.md 3.2.
Security auto_security();

struct SessionKeys {
  Block16 request_key{}, request_iv{};
  Block16 response_key{}, response_iv{};
  std::uint8_t options = 0;
  Security security = Security::aes_128_gcm;
  Command command = Command::tcp;
  std::uint8_t response_auth = 0;  // "V": the server echoes it
  bool legacy = false;             // which of the two header formats the request had

  bool packet_mode() const { return command == Command::udp; }  // one datagram per chunk
  bool has(std::uint8_t bit) const { return (options & bit) != 0; }
  friend bool operator==(const SessionKeys&, const SessionKeys&) = default;
};

/// Fills response_key and response_iv from the request's: SHA-256 for AEAD headers, MD5 for legacy. spec/vmess.md 7.
void derive_response_keys(SessionKeys& keys);

/// The cipher a security nibble stands for. Errors: bad_option for what must be refused (2, 6, 7..15).
Decoded<Security> security_from_wire(std::uint8_t nibble);

}  // namespace ebb::vmess
