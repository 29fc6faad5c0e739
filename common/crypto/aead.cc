#include "common/crypto/aead.h"

#include <algorithm>

#include "common/crypto/cipher_handle.h"
#include "common/crypto/placement.h"

namespace ebb::crypto {
namespace {

// Before main(), because OpenSSL takes it only before it has allocated anything.
[[maybe_unused]] const bool placed = keep_contexts_within_pages();

const EVP_CIPHER* cipher_for(AeadAlgorithm algorithm) {
  static const EVP_CIPHER* const aes128 = fetch_cipher("AES-128-GCM");
  static const EVP_CIPHER* const aes256 = fetch_cipher("AES-256-GCM");
  static const EVP_CIPHER* const chacha = fetch_cipher("ChaCha20-Poly1305");
  switch (algorithm) {
    case AeadAlgorithm::aes_128_gcm: return aes128;
    case AeadAlgorithm::aes_256_gcm: return aes256;
    case AeadAlgorithm::chacha20_poly1305: return chacha;
  }
  return nullptr;
}

}  // namespace

void Aead::Free::operator()(evp_cipher_ctx_st* context) const noexcept { EVP_CIPHER_CTX_free(context); }

Aead::Aead(AeadAlgorithm algorithm, ConstSpan key, Use use) : context_(EVP_CIPHER_CTX_new()) {
  assert(context_ && key.size() == key_bytes(algorithm));
  must(EVP_CipherInit_ex2(context_.get(), cipher_for(algorithm), key.data(), nullptr, use == Use::seal, nullptr));
}
Aead::Aead(Aead&&) noexcept = default;
Aead& Aead::operator=(Aead&&) noexcept = default;
Aead::~Aead() = default;

std::size_t Aead::seal(const Nonce& nonce, ConstSpan associated, std::span<const ConstSpan> parts, MutSpan out) {
  EVP_CIPHER_CTX* context = context_.get();
  int done = 0;
  must(EVP_EncryptInit_ex2(context, nullptr, nullptr, nonce.data(), nullptr));
  if (!associated.empty()) {
    must(EVP_EncryptUpdate(context, nullptr, &done, associated.data(), static_cast<int>(associated.size())));
  }
  std::size_t written = 0;
  for (ConstSpan part : parts) {
    if (part.empty()) continue;
    assert(out.size() >= written + part.size() + kTagBytes);
    must(EVP_EncryptUpdate(context, out.data() + written, &done, part.data(), static_cast<int>(part.size())));
    written += part.size();
  }
  assert(out.size() >= written + kTagBytes);
  must(EVP_EncryptFinal_ex(context, out.data() + written, &done));
  must(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, kTagBytes, out.data() + written));
  return written + kTagBytes;
}

bool Aead::open(const Nonce& nonce, ConstSpan associated, MutSpan sealed) {
  if (sealed.size() < kTagBytes) return false;
  const MutSpan text = sealed.first(sealed.size() - kTagBytes);
  EVP_CIPHER_CTX* context = context_.get();
  int done = 0;
  must(EVP_DecryptInit_ex2(context, nullptr, nullptr, nonce.data(), nullptr));
  must(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, kTagBytes, sealed.data() + text.size()));
  if (!associated.empty()) {
    must(EVP_DecryptUpdate(context, nullptr, &done, associated.data(), static_cast<int>(associated.size())));
  }
  if (!text.empty() &&
      EVP_DecryptUpdate(context, text.data(), &done, text.data(), static_cast<int>(text.size())) != 1) {
    return false;
  }
  std::uint8_t none[16];
  if (EVP_DecryptFinal_ex(context, none, &done) == 1) return true;
  std::ranges::fill(text, std::uint8_t{0});  // nobody may use what was not authentic
  return false;
}

}  // namespace ebb::crypto
