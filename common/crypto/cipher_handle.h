// Owners of OpenSSL's cipher objects, shared by the .cc files of this folder only.
#pragma once

#include <openssl/evp.h>

#include <cassert>
#include <memory>

namespace ebb::crypto {

template <auto Free>
struct FreeWith {
  template <class T>
  void operator()(T* p) const noexcept {
    Free(p);
  }
};
using CipherCtx = std::unique_ptr<EVP_CIPHER_CTX, FreeWith<EVP_CIPHER_CTX_free>>;

/// Algorithms are looked up once per process; EVP_aes_128_gcm() would be looked up again at every connection.
inline const EVP_CIPHER* fetch_cipher(const char* name) {
  const EVP_CIPHER* cipher = EVP_CIPHER_fetch(nullptr, name, nullptr);
  assert(cipher && "OpenSSL lacks a cipher");
  return cipher;
}

/// For calls that fail only when OpenSSL is out of memory or we broke a rule.
inline void must(int ok) { assert(ok == 1); }

}  // namespace ebb::crypto
