// Authenticated encryption with a context that lives as long as the stream: only the nonce changes per record.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "common/base/bytes.h"

struct evp_cipher_ctx_st;

namespace ebb::crypto {

enum class AeadAlgorithm : std::uint8_t { aes_128_gcm, aes_256_gcm, chacha20_poly1305 };

inline constexpr std::size_t kTagBytes = 16;
inline constexpr std::size_t kNonceBytes = 12;
using Nonce = std::array<std::uint8_t, kNonceBytes>;

constexpr std::size_t key_bytes(AeadAlgorithm algorithm) { return algorithm == AeadAlgorithm::aes_128_gcm ? 16 : 32; }

/// One key, one direction. Not for use by two threads at a time.
class Aead {
 public:
  enum class Use : std::uint8_t { seal, open };

  /// `key`: key_bytes(algorithm) bytes.
  Aead(AeadAlgorithm algorithm, ConstSpan key, Use use);
  Aead(Aead&&) noexcept;
  Aead& operator=(Aead&&) noexcept;
  ~Aead();

  /// Encrypts the concatenation of `parts` into the front of `out` and puts the tag behind. Returns the bytes written,
  /// total of `parts` + kTagBytes; `out` must hold them. A single part may lie exactly where its ciphertext goes,
  /// otherwise input and output must not overlap.
  std::size_t seal(const Nonce& nonce, ConstSpan associated, std::span<const ConstSpan> parts, MutSpan out);
  std::size_t seal(const Nonce& nonce, ConstSpan associated, ConstSpan plain, MutSpan out) {
    return seal(nonce, associated, std::span(&plain, 1), out);
  }

  /// Decrypts ciphertext and tag in place: the plaintext is the front of `sealed`, kTagBytes shorter. False, with
  /// `sealed` zeroed or garbled, when the tag is wrong or there is none.
  [[nodiscard]] bool open(const Nonce& nonce, ConstSpan associated, MutSpan sealed);

 private:
  struct Free {
    void operator()(evp_cipher_ctx_st* context) const noexcept;
  };
  std::unique_ptr<evp_cipher_ctx_st, Free> context_;
};

}  // namespace ebb::crypto
