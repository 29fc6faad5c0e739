// AES-128-CFB (128-bit feedback) as a byte stream that can be cut anywhere and moved to another process.
#pragma once

#include <cstdint>
#include <memory>

#include "common/crypto/hash.h"

struct evp_cipher_ctx_st;

namespace ebb::crypto {

/// Where a CFB stream stands: the feedback register and how many of its bytes the current block has used (0..15).
struct CfbPosition {
  Block16 feedback{};
  std::uint8_t offset = 0;
  friend bool operator==(const CfbPosition&, const CfbPosition&) = default;
};

/// Not for use by two threads at a time.
class CfbStream {
 public:
  enum class Use : std::uint8_t { encrypt, decrypt };
  /// A new stream starts at {iv, 0}.
  CfbStream(const Block16& key, const CfbPosition& at, Use use);
  CfbStream(CfbStream&&) noexcept;
  CfbStream& operator=(CfbStream&&) noexcept;
  ~CfbStream();

  /// Continues the stream over `in` into the front of `out`, which may be the same bytes.
  void apply(ConstSpan in, MutSpan out);
  void apply_in_place(MutSpan bytes) { apply(bytes, bytes); }
  CfbPosition position() const;

 private:
  struct Free {
    void operator()(evp_cipher_ctx_st* context) const noexcept;
  };
  void finish_block(ConstSpan& in, MutSpan& out);

  std::unique_ptr<evp_cipher_ctx_st, Free> context_;
  // The rest of a block that was begun elsewhere. OpenSSL 3.0 cannot be told to begin in the middle of a block (setting
  // its "num" fails), so these up to 15 bytes are XORed here; offset 0 from then on.
  CfbPosition begun_;
  Use use_;
};

}  // namespace ebb::crypto
