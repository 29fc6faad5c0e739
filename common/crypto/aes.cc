#include "common/crypto/aes.h"

#include "common/crypto/cipher_handle.h"

namespace ebb::crypto {

void AesBlock::Free::operator()(evp_cipher_ctx_st* context) const noexcept { EVP_CIPHER_CTX_free(context); }

AesBlock::AesBlock(const Block16& key, Use use) : context_(EVP_CIPHER_CTX_new()) {
  static const EVP_CIPHER* const cipher = fetch_cipher("AES-128-ECB");
  assert(context_);
  must(EVP_CipherInit_ex2(context_.get(), cipher, key.data(), nullptr, use == Use::encrypt, nullptr));
  must(EVP_CIPHER_CTX_set_padding(context_.get(), 0));
}
AesBlock::AesBlock(AesBlock&&) noexcept = default;
AesBlock& AesBlock::operator=(AesBlock&&) noexcept = default;
AesBlock::~AesBlock() = default;

Block16 AesBlock::apply(const Block16& block) {
  Block16 out;
  int done = 0;
  must(EVP_CipherUpdate(context_.get(), out.data(), &done, block.data(), static_cast<int>(block.size())));
  return out;
}

}  // namespace ebb::crypto
