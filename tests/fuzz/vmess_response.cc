// A server's bytes into the client: raw, or as the plaintext of a header that opens.
#include <cstdint>
#include <cstdlib>

#include "common/crypto/aead.h"
#include "common/protocol/vmess/kdf.h"
#include "common/protocol/vmess/response.h"

using namespace ebb;
using namespace ebb::vmess;
using crypto::Aead;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  SessionKeys keys;
  keys.legacy = (data[0] & 1) != 0;
  keys.security = (data[0] & 2) != 0 ? Security::cfb : Security::aes_128_gcm;
  derive_response_keys(keys);
  const ConstSpan input(data + 1, size - 1);
  Bytes wire(input.begin(), input.end());
  if ((data[0] & 4) != 0 && keys.legacy) {
    crypto::CfbStream(keys.response_key, {keys.response_iv, 0}, crypto::CfbStream::Use::encrypt).apply_in_place(wire);
  } else if ((data[0] & 4) != 0 && input.size() < 60'000) {
    static const Block16 length_key = kdf16(keys.response_key, {as_bytes("AEAD Resp Header Len Key")});
    static const auto length_nonce = kdf12(keys.response_iv, {as_bytes("AEAD Resp Header Len IV")});
    static const Block16 key = kdf16(keys.response_key, {as_bytes("AEAD Resp Header Key")});
    static const auto nonce = kdf12(keys.response_iv, {as_bytes("AEAD Resp Header IV")});
    wire.resize(18 + input.size() + 16);
    std::uint8_t length[2];
    store_be16(length, static_cast<std::uint16_t>(input.size()));
    const auto gcm = crypto::AeadAlgorithm::aes_128_gcm;
    Aead(gcm, length_key, Aead::Use::seal).seal(length_nonce, {}, ConstSpan(length), wire);
    Aead(gcm, key, Aead::Use::seal).seal(nonce, {}, input, MutSpan(wire).subspan(18));
  }
  const auto step = decode_response(keys, wire);
  if (step && step->message && (step->used == 0 || step->used > wire.size())) std::abort();
  if (step && !step->message && step->used != 0) std::abort();
  return 0;
}
