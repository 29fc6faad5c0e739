#include "common/crypto/cfb.h"

#include <algorithm>

#include "common/crypto/cipher_handle.h"

namespace ebb::crypto {

void CfbStream::Free::operator()(evp_cipher_ctx_st* context) const noexcept { EVP_CIPHER_CTX_free(context); }

CfbStream::CfbStream(const Block16& key, const CfbPosition& at, Use use)
    : context_(EVP_CIPHER_CTX_new()), begun_(at), use_(use) {
  static const EVP_CIPHER* const cipher = fetch_cipher("AES-128-CFB");
  assert(context_ && at.offset < 16);
  must(EVP_CipherInit_ex2(context_.get(), cipher, key.data(), at.feedback.data(), use == Use::encrypt, nullptr));
}
CfbStream::CfbStream(CfbStream&&) noexcept = default;
CfbStream& CfbStream::operator=(CfbStream&&) noexcept = default;
CfbStream::~CfbStream() = default;

void CfbStream::finish_block(ConstSpan& in, MutSpan& out) {
  auto& [feedback, offset] = begun_;
  const std::size_t n = std::min<std::size_t>(in.size(), feedback.size() - offset);
  for (std::size_t i = 0; i < n; ++i, ++offset) {
    const std::uint8_t from = in[i];
    out[i] = static_cast<std::uint8_t>(from ^ feedback[offset]);
    feedback[offset] = use_ == Use::encrypt ? out[i] : from;  // the ciphertext feeds the next block
  }
  in = in.subspan(n);
  out = out.subspan(n);
  if (offset == feedback.size()) {
    offset = 0;
    must(EVP_CipherInit_ex2(context_.get(), nullptr, nullptr, feedback.data(), -1, nullptr));
  }
}

void CfbStream::apply(ConstSpan in, MutSpan out) {
  assert(out.size() >= in.size());
  if (begun_.offset != 0) finish_block(in, out);
  if (in.empty()) return;
  int done = 0;
  must(EVP_CipherUpdate(context_.get(), out.data(), &done, in.data(), static_cast<int>(in.size())));
}

CfbPosition CfbStream::position() const {
  if (begun_.offset != 0) return begun_;
  CfbPosition at;
  must(EVP_CIPHER_CTX_get_updated_iv(context_.get(), at.feedback.data(), at.feedback.size()));
  at.offset = static_cast<std::uint8_t>(EVP_CIPHER_CTX_get_num(context_.get()));
  return at;
}

}  // namespace ebb::crypto
