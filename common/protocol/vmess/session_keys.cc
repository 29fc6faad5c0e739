#include "common/protocol/vmess/session_keys.h"

#include <algorithm>

namespace ebb::vmess {
namespace {

Block16 derive(const Block16& from, bool legacy) {
  if (legacy) return crypto::md5({from});
  const crypto::Digest32 digest = crypto::sha256({from});
  Block16 out;
  std::copy_n(digest.begin(), out.size(), out.begin());
  return out;
}

}  // namespace

Security auto_security() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul") ? Security::aes_128_gcm
                                                                           : Security::chacha20_poly1305;
#elif defined(__aarch64__) || defined(__s390x__)
  return Security::aes_128_gcm;  // as V2Ray decides on these
#else
  return Security::chacha20_poly1305;
#endif
}

void derive_response_keys(SessionKeys& keys) {
  keys.response_key = derive(keys.request_key, keys.legacy);
  keys.response_iv = derive(keys.request_iv, keys.legacy);
}

Decoded<Security> security_from_wire(std::uint8_t nibble) {
  switch (nibble) {
    case 0:
    case 1: return Security::cfb;
    case 3: return Security::aes_128_gcm;
    case 4: return Security::chacha20_poly1305;
    case 5: return Security::none;
    default: return std::unexpected(WireError{WireFault::bad_option, 35});
  }
}

}  // namespace ebb::vmess
