// One AES-128 block at a time, with the key schedule kept.
#pragma once

#include <cstdint>
#include <memory>

#include "common/crypto/hash.h"

struct evp_cipher_ctx_st;

namespace ebb::crypto {

/// Raw AES-128 (ECB, no padding) in one direction. Not for use by two threads at a time.
class AesBlock {
 public:
  enum class Use : std::uint8_t { encrypt, decrypt };
  AesBlock(const Block16& key, Use use);
  AesBlock(AesBlock&&) noexcept;
  AesBlock& operator=(AesBlock&&) noexcept;
  ~AesBlock();
  Block16 apply(const Block16& block);

 private:
  struct Free {
    void operator()(evp_cipher_ctx_st* context) const noexcept;
  };
  std::unique_ptr<evp_cipher_ctx_st, Free> context_;
};

}  // namespace ebb::crypto
